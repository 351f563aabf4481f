"""`octavo bench`: what it prints and writes, and what it refuses before it measures."""

import argparse
import json
from functools import partial
from pathlib import Path

import pytest

from cli.commands import octavo
from e2e.server_process import serving
from octavo.cli.bench import benchmark
from octavo.config import EngineConfig
from octavo.evaluation import kernel_rates, machine_limits
from octavo.evaluation.shapes import SHAPES
from tiny_checkpoints import make_llama

SMALL = ("--max-model-len", "512", "--kv-cache-memory", "64MiB")


bench = partial(octavo, "bench")


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "work.json"
    path.write_text(json.dumps([{"ids": list(range(100, 140)), "out": 5}, {"ids": [7, 8, 9], "out": 12}]))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Flags for a model that is small in all but its vocabulary."""
    folder = make_llama(tmp_path_factory.mktemp("tiny"), vocab_size=49_152, max_position_embeddings=512)
    return ("--model", str(folder), "--tokenizer", "smollm2", "--kv-cache-memory", "8MiB")


@pytest.mark.parametrize(
    ("flags", "precision"),
    [(("--quantization", "int8"), "int8"), (("--dtype", "bfloat16"), "bf16"), (("--dtype", "float32"), "f32")],
)
def test_throughput_prints_one_line_of_json_as_the_peers_do(
    workload: Path, tmp_path: Path, tiny: tuple[str, ...], flags: tuple[str, ...], precision: str
) -> None:
    out, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    outputs = ("--json", str(out), "--plot", str(plot))
    done = bench("throughput", "--workload", str(workload), *outputs, *flags, *tiny)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == [
        "peer",
        "precision",
        "requests",
        "output_tok_s",
        "total_tok_s",
        "single_stream_tok_s",
        "load_s",
    ]
    assert (figures["peer"], figures["precision"], figures["requests"]) == ("octavo", precision, 2)
    assert figures["total_tok_s"] > figures["output_tok_s"] > 0
    assert figures["single_stream_tok_s"] > 0
    assert json.loads(out.read_text()) == figures
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_shape_stands_in_for_a_model(workload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**SHAPES["llama-3b"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 8}
    monkeypatch.setitem(SHAPES, "llama-3b", {**small, "num_attention_heads": 8, "max_position_embeddings": 512})
    done = bench("throughput", "--shape", "llama-3b", "--workload", str(workload), "--kv-cache-memory", "8MiB")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output_tok_s"] > 0


@pytest.mark.parametrize("flags", [("--model", "gemma3"), ("--load-format", "gguf")])
def test_a_shape_beside_a_model_is_refused(flags: tuple[str, ...]) -> None:
    done = bench("step", "--shape", "llama-1b", *flags)
    assert done.returncode == 2
    assert "--shape llama-1b" in done.stderr
    assert flags[0] in done.stderr


def test_latency_prints_a_row_for_each_prompt_length(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    out, plot = tmp_path / "latency.json", tmp_path / "latency.png"
    flags = ("--input-tokens", "20", "60", "--output-tokens", "4", "--repeats", "2")
    done = bench("latency", *flags, "--json", str(out), "--plot", str(plot), *tiny)
    assert done.returncode == 0, done.stderr
    for line, length in zip(done.stdout.splitlines()[-2:], (20, 60), strict=True):
        prompt, *figures = map(float, line.split())
        assert prompt == length
        assert len(figures) == 7
    assert [case["input_tokens"] for case in json.loads(out.read_text())] == [20, 60]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_serve_prints_a_row_for_each_request_rate(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    out, plot = tmp_path / "load.json", tmp_path / "load.png"
    load = ("--request-rate", "20", "40", "--duration", "0.2", "--kind", "alpaca", "--scale", "0.2")
    with serving(*tiny, "--max-model-len", "512", "--api-key", "secret") as server:
        address = ("--base-url", server.url, "--api-key", "secret")
        done = bench("serve", *address, *load, "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    slow, fast = json.loads(out.read_text())
    assert [(slow["request_rate"], slow["requests"]), (fast["request_rate"], fast["requests"])] == [(20, 4), (40, 8)]
    assert slow["failed"] == fast["failed"] == 0
    assert [line.split()[:4] for line in done.stdout.splitlines()[-2:]] == [
        ["20", "4", "of", "4"],
        ["40", "8", "of", "8"],
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_step_times_add_up_to_the_step(tmp_path: Path) -> None:
    out, plot = tmp_path / "step.json", tmp_path / "step.png"
    flags = ("--sequences", "1", "3", "--context", "20", "--steps", "4", "--json", str(out), "--plot", str(plot))
    done = bench("step", *flags, *SMALL)
    assert done.returncode == 0, done.stderr
    one, three = json.loads(out.read_text())
    assert (one["sequences"], three["sequences"]) == (1, 3)
    for times in (one, three):
        assert set(times["parts_ms"]) == {
            "schedule",
            "prepare",
            "forward",
            "logits",
            "sample",
            "wait",
            "update",
            "rest",
        }
        assert 0 < sum(times["kernels_ms"].values()) <= times["parts_ms"]["forward"]
        assert {"product", "attention", "norm", "activation", "embedding"} == set(times["kernels_ms"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_kernels_are_shown_beside_what_the_machine_can_do(
    tmp_path: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("READ_BYTES", 1 << 24), ("PROBE_READ_BYTES", 1 << 24), ("LARGE", 256), ("SMALLER", 128)):
        monkeypatch.setattr(machine_limits, name, value)
    for module in (machine_limits, kernel_rates):
        monkeypatch.setattr(module, "MEASURED_S", 0.01)
    out, plot = tmp_path / "kernels.json", tmp_path / "kernels.png"
    flags = ("--only", "decode", "prefill", "--sequences", "2", "--context", "64", "--prefill", "128")
    done = bench("kernels", *flags, "--model", tiny[1], "--json", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "memory read" in done.stdout
    figures = json.loads(out.read_text())
    assert set(figures["limits"]["product_gop_s"]["int8"]) == {"torch", "octavo"}
    assert figures["limits"]["read_gb_s"] > 0
    kinds = [(rate["kind"], rate["precision"]) for rate in figures["kernels"]]
    assert kinds == [("decode", "bfloat16"), ("decode", "int8"), ("prefill", "bfloat16"), ("prefill", "int8")]
    assert [line.split()[0] for line in done.stdout.splitlines()[-4:]] == [kind for kind, _ in kinds]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("throughput", "--workload", "/nowhere.json"), "--workload /nowhere.json"),
        (("throughput", "--requests", "0"), "--requests must be at least 1"),
        (("throughput", "--scale", "-1"), "--scale"),
        (("latency", "--repeats", "0"), "--repeats must be at least 1"),
        (("latency", "--plot", "/no/such/folder/x.png"), "no folder for /no/such/folder/x.png"),
        (("step", "--json", "/no/such/folder/x.json"), "no folder for /no/such/folder/x.json"),
        (("step", "--sequences", "0"), "--sequences must be at least 1"),
        (("step", "--temperature", "-1"), "temperature must be a finite number of at least 0"),
        (("kernels", "--rows", "0"), "--rows must be at least 1"),
    ],
)
def test_bad_flags_are_refused_before_a_model_is_loaded(arguments: tuple[str, ...], words: str) -> None:
    done = bench(*arguments, "--model", "/no/such/model")
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--request-rate", "1", "0"), "--request-rate must be above 0"),
        (("--request-rate", "inf"), "--request-rate must be above 0"),
        (("--duration", "-1"), "--duration must be above 0"),
        (("--requests", "0"), "--requests must be at least 1"),
        (("--base-url", "nowhere"), "--base-url nowhere"),
        (("--base-url", "http://127.0.0.1:9"), "--base-url http://127.0.0.1:9"),
        (("--json", "/no/such/folder/x.json"), "no folder for /no/such/folder/x.json"),
    ],
)
def test_serve_refuses_bad_flags_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = bench("serve", *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_beams_and_sharing_print_a_table_and_write_their_figures(tiny: tuple[str, ...], tmp_path: Path) -> None:
    out, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    search = ("--prompts", "3", "--beam-width", "2", "--output-tokens", "4", "--max-model-len", "512")
    done = bench("beams", *search, "--json", str(out), *tiny)
    assert done.returncode == 0, done.stderr
    assert "3 of 3" in done.stdout
    assert json.loads(out.read_text())["beam_width"] == 2
    few = ("--requests", "3", "--scale", "0.2", "--sequences", "2", "--kinds", "alpaca", "--max-model-len", "512")
    done = bench("sharing", *few, "--json", str(out), "--plot", str(plot), *tiny)
    assert done.returncode == 0, done.stderr
    cases = json.loads(out.read_text())
    assert [case["method"] for case in cases] == ["parallel", "beam"]
    assert all(abs(case["ledger"] - case["offline"]) < 0.5 for case in cases)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_prefix_prints_a_row_for_each_length_and_writes_its_figures(tiny: tuple[str, ...], tmp_path: Path) -> None:
    out, plot = tmp_path / "prefix.json", tmp_path / "prefix.png"
    flags = ("--prefix-tokens", "32", "80", "--requests", "3", "--rounds", "1", "--max-model-len", "512")
    done = bench("prefix", *flags, "--json", str(out), "--plot", str(plot), *tiny)
    assert done.returncode == 0, done.stderr
    cases = json.loads(out.read_text())
    assert [case["prefix_tokens"] for case in cases] == [32, 80]
    assert [case["paper"] for case in cases] == [None, 1.67]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_swap_prints_a_row_for_each_block_size(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    out, plot = tmp_path / "swap.json", tmp_path / "swap.png"
    flags = ("--block-sizes", "1", "16", "--tokens", "40", "--repeats", "2", "--swap-space", "1MiB")
    done = bench("swap", *flags, "--json", str(out), "--plot", str(plot), *tiny)
    assert done.returncode == 0, done.stderr
    for line, (size, num_blocks) in zip(done.stdout.splitlines()[-2:], ((1, 40), (16, 3)), strict=True):
        row = [float(word) for word in line.split()]
        assert row[:2] == [size, num_blocks]
        assert len(row) == 6
    assert [case["block_size"] for case in json.loads(out.read_text())] == [1, 16]
    assert plot.read_bytes().startswith(b"\x89PNG")
    refused = bench("swap", *flags, "--swap-space", "8KiB", *tiny)
    assert refused.returncode != 0
    assert "--swap-space" in refused.stderr


@pytest.mark.parametrize(("flags", "speculate"), [((), "off"), (("--speculate", "auto"), "auto")])
@pytest.mark.parametrize("knobs", [(), ("model", "speculate"), ("model",)])
def test_benchmarks_of_random_tokens_guess_none_unless_asked(
    flags: tuple[str, ...], speculate: str, knobs: tuple[str, ...]
) -> None:
    if flags and knobs == ("model",):
        pytest.skip("it has no such flag")
    measured = []

    def measure(_: argparse.Namespace, config: EngineConfig) -> benchmark.Outcome:
        measured.append(config.speculate)
        return benchmark.Outcome({})

    parser = argparse.ArgumentParser()
    benchmark.finish_engine_parser(parser, measure, *knobs, plots=False)
    arguments = parser.parse_args(flags)
    arguments.measure(arguments)
    assert measured == [speculate]
