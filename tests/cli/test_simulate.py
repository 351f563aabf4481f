"""`octavo simulate` and `octavo calibrate`: what they print and write, and what they refuse before they begin."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cli.commands import octavo
from octavo.evaluation.json_figures import as_json
from octavo.evaluation.simulator.devices import DEVICES
from octavo.execution.machine import Cores
from tiny_checkpoints import make_llama

simulate, calibrate = partial(octavo, "simulate"), partial(octavo, "calibrate")
OPT = ("--shape", "opt-13b")
"""On the default device, an A100 of 40 GB."""


def column(stdout: str, name: str) -> str:
    """What a table says behind a name."""
    [line] = [line for line in stdout.splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).strip()


def test_a_model_on_a_gpu_is_told_of_without_either(tmp_path: Path) -> None:
    out, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    done = simulate(*OPT, "--requests", "30", "--rate", "4", "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "24,516 MiB of weights in float16, 14,352 token slots" in done.stdout
    figures = json.loads(out.read_text())["simulated"]
    assert (figures["requests"], figures["refused"]) == (30, 0)
    assert column(done.stdout, "requests/s") == f"{figures['request_rate']:.3f}"
    assert figures["first_token_s"]["p50"] < figures["latency_s"]["p50"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_replicas_share_the_requests() -> None:
    """Twice the load on two machines has the latencies of one; and all come at once where the rate is inf."""
    flags = ("--requests", "40", "--prompt-tokens", "100", "--output-tokens", "20,10")
    two = simulate(*OPT, *flags, "--rate", "inf", "--replicas", "2")
    assert two.returncode == 0, two.stderr
    assert two.stdout.startswith("2 x a100-40gb")
    assert column(two.stdout, "requests answered (refused)") == "40 (0)"
    assert column(two.stdout, "requests running, waiting").startswith("1")


def test_requests_have_samples_or_beams_and_a_prefix() -> None:
    flags = (*OPT, "--requests", "8", "--prompt-tokens", "50", "--output-tokens", "10")
    samples, beams, behind = (
        simulate(*flags, *own) for own in (("--n", "3"), ("--beam-width", "3"), ("--prefix-tokens", "160"))
    )
    rates = [float(column(done.stdout, "output tokens/s").split()[-2]) for done in (samples, beams, behind)]
    assert rates[0] == pytest.approx(rates[1], rel=0.1)
    assert rates[0] == pytest.approx(3 * rates[2], rel=0.1)
    assert column(behind.stdout, "prompt tokens found in cache") == f"{7 * 160:,}"
    for wrong in (("--n", "0"), ("--beam-width", "0"), ("--prefix-tokens", "-1"), ("--prefix-tokens", "2047")):
        refused = simulate(*flags, *wrong)
        assert refused.returncode == 2
        assert wrong[0] in refused.stderr
    assert "not allowed with" in simulate(*flags, "--n", "2", "--beam-width", "2").stderr


def test_a_trace_is_replayed_at_its_own_rate_or_another(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{each},200,4\n" for each in range(0, 100, 10))
    )
    own = simulate(*OPT, "--trace", str(trace))
    faster = simulate(*OPT, "--trace", str(trace), "--rate", "1", "--requests", "5", "--length-scale", "0.5")
    assert float(column(own.stdout, "seconds")) == pytest.approx(90, abs=1)
    assert float(column(faster.stdout, "seconds")) == pytest.approx(4, abs=1)


def test_a_calibrated_machine_is_simulated_and_measured(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "model", vocab_size=49_152, max_position_embeddings=512)
    flags = ("--model", str(model), "--kv-cache-memory", "2MiB", "--max-model-len", "256")
    fit = tmp_path / "here.json"
    done = calibrate(str(fit), "--seconds", "1", "--name", "this one", *flags)
    assert done.returncode == 0, done.stderr
    assert "the median error of those held out is" in done.stdout
    assert json.loads(fit.read_text())["name"] == "this one"
    work = ("--requests", "12", "--rate", "20", "--prompt-tokens", "30,20", "--output-tokens", "8", "--for-real")
    both = simulate("--device", str(fit), *work, *flags)
    assert both.returncode == 0, both.stderr
    assert column(both.stdout, "requests answered (refused)").split() == ["12", "(0)"] * 3
    assert "All steps together took" in both.stdout


def test_a_sweep_tells_the_highest_rate(tmp_path: Path) -> None:
    out, plot = tmp_path / "sweep.json", tmp_path / "sweep.png"
    work = ("--requests", "60", "--prompt-tokens", "500", "--output-tokens", "30")
    done = simulate(*OPT, "--sweep", "--max-first-token", "1", *work, "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    tried = json.loads(out.read_text())
    highest = max(each["rate"] for each in tried if each["is_sustained"])
    assert done.stdout.splitlines()[-1] == f"sustained: {highest:.4g} requests/s"
    assert all(each["figures"]["first_token_s"]["p90"] <= 1 for each in tried if each["is_sustained"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_plan_compares_kinds_of_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cheapest first; how many serve the load, and what they cost."""
    monkeypatch.setattr("octavo.cli.simulate.highest.cores", lambda: Cores(1, 1, None))  # which keeps what is patched
    monkeypatch.setattr("octavo.cli.simulate.traffic.LOAD_S", 3.0)
    monkeypatch.setattr("octavo.cli.simulate.highest.RANKS", (1, 2, 8))
    out, plot = tmp_path / "plan.json", tmp_path / "plan.png"
    work = ("--requests", "40", "--prompt-tokens", "500", "--output-tokens", "30", "--max-first-token", "1")
    kinds = ("--devices", "a100-80gb", "l4", "--price", "a100-80gb=2", "--price", "l4=0.7", "--rate", "100")
    done = simulate("--shape", "opt-66b", "--plan", *kinds, *work, "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    options = json.loads(out.read_text())
    # 132 GB of weights fit on two of the one and eight of the other.
    least = {name: min(o["num_devices"] for o in options if o["device"] == name) for name in ("a100-80gb", "l4")}
    assert least == {"a100-80gb": 2, "l4": 8}
    assert [each["price_1000"] for each in options] == sorted(each["price_1000"] for each in options)
    for each in options:
        price = {"a100-80gb": 2, "l4": 0.7}[each["device"]]
        assert each["replicas"] * each["rate"] >= 100 > (each["replicas"] - 1) * each["rate"]
        assert each["price_hour"] == pytest.approx(price * each["num_devices"] * each["replicas"])
        assert each["price_1000"] == pytest.approx(each["price_hour"] / 3600 / 100 * 1000)
    assert plot.read_bytes().startswith(b"\x89PNG")
    # As they come, and why others are not there.
    assert sorted(line.split(":")[0] for line in done.stderr.splitlines()) == sorted(
        f"{each['num_devices']} x {each['device']}" for each in options
    )
    [left_out] = [line for line in done.stdout.splitlines() if line.startswith("Left out")]
    assert all(name in left_out for name in ("1 x a100-80gb", "1 x l4", "2 x l4"))
    for each in options:
        assert f" {each['replicas']} ({each['replicas'] * each['num_devices']} devices) " in done.stdout


@pytest.mark.parametrize("num_cores", [1, 2])
def test_a_plan_tells_once_of_memories_below_the_models_length(num_cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a process for each core."""
    monkeypatch.setattr("octavo.cli.simulate.highest.cores", lambda: Cores(num_cores, num_cores, None))
    monkeypatch.setattr("octavo.cli.simulate.highest.RANKS", (1, 2))
    work = ("--requests", "20", "--prompt-tokens", "1000", "--output-tokens", "200", "--max-first-token", "5")
    small = simulate("--shape", "opt-13b", "--plan", "--devices", "h100", *work, "--kv-cache-memory", "1GiB")
    assert small.returncode == 0, small.stderr
    assert "WARNING" not in small.stderr
    assert small.stdout.count("the model length of 2,048") == 1
    assert "2 x h100" in small.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--plan",), "--max-first-token"),
        (("--plan", "--max-token", "1", "--replicas", "2"), "--replicas"),
        (("--plan", "--max-token", "1", "--price", "h100"), "--price h100: it is a device's name and a price"),
        (("--plan", "--max-token", "1", "--price", "h1=2"), "--price h1=2: it is of one of a100-40gb"),
        (("--plan", "--max-token", "1", "--devices", "l5"), "l5"),
        (("--plan", "--max-token", "1e-9", "--devices", "h100", "--requests", "3"), "none of these devices"),
        (("--plan", "--max-token", "1", "--rate", "inf"), "--rate"),
        (("--devices", "h100"), "--plan"),
        (("--sweep", "--max-token", "1", "--price", "h100=2"), "--plan"),
        (("--sweep", "--max-token", "1", "--rate", "inf"), "--sweep begins with a --rate"),
        (("--sweep", "--max-token", "1", "--beam-width", "2"), "beams come whole"),
        (("--plan", "--max-token", "1", "--device", "h100"), "--devices in place of --device h100"),
        (("--plan", "--max-token", "1", "--tensor-parallel-size", "2"), "--tensor-parallel-size"),
        (("--trace", "x.csv", "--dataset", "alpaca"), "leave out --dataset alpaca"),
        (("--prompt-tokens", "5", "--output-tokens", "5", "--dataset", "alpaca"), "--dataset alpaca"),
        (("--prompt-tokens", "10,1e300"), "--prompt-tokens 10,1e300: it is a mean"),
        (("--json", "/tmp"), "/tmp is a folder"),
        (("--plot", "x.xyz"), "--plot x.xyz: no figure can be drawn as .xyz"),
        (("--sweep",), "--max-first-token"),
        (("--max-first-token", "1"), "--sweep"),
        (("--sweep", "--max-token", "0"), "--max-token"),
        (("--sweep", "--max-token", "1", "--for-real"), "--sweep"),
        (("--device", "a1000"), "a100-40gb, a100-80gb, h100, h200, l4"),
        (("--trace", "nowhere.csv"), "--trace nowhere.csv"),
        (("--rate", "0"), "--rate"),
        (("--rate", "nan"), "--rate"),
        (("--requests", "0"), "--requests"),
        (("--replicas", "2", "--for-real"), "--replicas"),
        (("--prompt-tokens", "x"), "--prompt-tokens x: it is a mean"),
        (("--output-tokens", "5,-1"), "--output-tokens 5,-1: it is a mean"),
        (("--output-tokens", "5000"), "--max-model-len"),
        (("--length-scale", "2"), "--length-scale is for --trace"),
        (("--kv-cache-memory", "1KiB"), "--kv-cache-memory"),
        (
            ("--shape", "opt-66b"),
            "use --quantization int8 or choose a smaller model (--model). It fits on 4 x a100-40gb, 2 x a100-80gb, "
            "2 x h100, 2 x h200, 8 x l4",
        ),
        (("--plot", "/nowhere/x.png"), "/nowhere/x.png"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_line(flags: tuple[str, ...], told: str) -> None:
    done = simulate(*OPT, *flags)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_trace_of_one_moment_has_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "at_once.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "0,10,2\n" * 3)
    for flags in (("--rate", "2"), ("--sweep", "--max-token", "1")):
        done = simulate(*OPT, "--trace", str(path), *flags)
        assert done.returncode == 2
        assert "all of its requests at one time" in done.stderr
    assert simulate(*OPT, "--trace", str(path)).returncode == 0


def test_beams_that_no_step_has_room_for_are_refused_with_the_reason() -> None:
    done = simulate(*OPT, "--requests", "2", "--beam-width", "300", "--output-tokens", "5")
    assert done.returncode == 0
    assert "Refused: " in done.stdout
    assert "256" in done.stdout.split("Refused: ")[1]


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({"context_bytes_s": 0}, "context_bytes_s"),
        ({"memory_bytes": -5}, "memory_bytes"),
        ({"products": {}}, "products"),
        ({"products": {"bfloat16": []}}, "products.bfloat16"),
        ({"products": {"bfloat16": [[1, -0.1]]}}, "products.bfloat16"),
        ({"products": {"bfloat16": [[2, 0.1], [1, 0.1]]}}, "products.bfloat16"),
    ],
)
def test_a_file_of_rates_that_no_machine_has_is_refused(tmp_path: Path, rates: dict[str, Any], told: str) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**json.loads(as_json(DEVICES["l4"])), **rates}))
    done = simulate(*OPT, "--device", str(path))
    assert done.returncode == 2
    assert f"{told} is no rate of a machine" in done.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("/nowhere/x.json",), "/nowhere/x.json"),
        (("x.json", "--seconds", "nan"), "--seconds"),
        (("x.json", "--seconds", "inf"), "--seconds"),
        (("/tmp",), "/tmp is a folder"),
        (("x.json", "--seconds", "0"), "--seconds"),
        (("x.json", "--tensor-parallel-size", "2"), "--tensor-parallel-size"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_line(flags: tuple[str, ...], told: str) -> None:
    done = calibrate(*flags)
    assert done.returncode == 2
    assert told in done.stderr
