"""Rates from steps: those of made-up devices are found again, and a real model's steps make a device."""

import random
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.simulator.calibration import MeasuredStep, calibrate, fitted
from octavo.evaluation.simulator.devices import DEVICES, KNOTS, Device, find_device
from octavo.evaluation.simulator.machine import simulated_executor
from octavo.evaluation.simulator.step_model import StepModel
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan
from tiny_checkpoints import make_llama

PRECISION = "float32"


def made_up(**rates: float) -> Device:
    """A device of the rates that small machines have."""
    own = {
        "read_s": 0.2,
        "token_s": 0.013,
        "context_bytes_s": 1.5e10,
        "attention_ops_s": 6e10,
        "activations_s": 6e8,
        "layer_s": 3e-5,
        "logits_s": 5e8,
        **rates,
    }
    read_s, token_s = own.pop("read_s"), own.pop("token_s")
    return Device(
        name="made up",
        source="a test",
        memory_bytes=2**34,
        host_memory_bytes=2**34,
        is_gpu=False,
        products={PRECISION: [(tokens, max(read_s, token_s * tokens)) for tokens in KNOTS]},
        step_s=0.0,
        copy_bytes_s=1e10,
        move_bytes_s=1e10,
        host_step_s=1e-4,
        host_row_s=1e-5,
        **own,
    )


def random_plan(generator: random.Random) -> Plan:
    """Some rows in decode, and perhaps a prompt beside them."""
    num_decoding = generator.choice((0, 1, 2, 5, 20, 60))
    starts = [generator.randrange(2000) for _ in range(num_decoding)]
    num_new = [1] * num_decoding
    if generator.random() < 0.4 or not starts:
        starts.append(generator.choice((0, 700)))
        num_new.append(generator.randint(2, 1500))
    rows = list(range(len(starts)))
    return Plan(rows=rows, starts=starts, num_new=num_new, sampled_rows=rows, logits_from=rows)


@pytest.fixture(scope="module")
def shape_model(tmp_path_factory: pytest.TempPathFactory) -> StepModel:
    """Of a small model: every part of a step takes its time."""
    folder = make_llama(
        tmp_path_factory.mktemp("model"),
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=5000,
        max_position_embeddings=4096,
    )
    config = EngineConfig(model=str(folder), kv_cache_memory="1GiB", dtype="float32", quantization="none")
    cost = simulated_executor(config, made_up()).cost
    assert isinstance(cost, StepModel)
    return cost


@pytest.mark.parametrize(
    "rates",
    [{}, {"token_s": 0.002}, {"read_s": 0.8, "layer_s": 3e-4}, {"context_bytes_s": 3e9}],
    ids=["small machine", "fast products", "slow memory", "slow contexts"],
)
def test_the_rates_of_a_device_are_found_from_its_steps(shape_model: StepModel, rates: dict[str, float]) -> None:
    device, generator = made_up(**rates), random.Random(0)
    truth = StepModel(shape_model.work, device, PRECISION)
    amounts = [truth.work.of(random_plan(generator)) for _ in range(400)]
    steps = [
        # A tenth of them was held up by something else.
        MeasuredStep(
            1, each, truth.compute_s(each) * (3 if generator.random() < 0.1 else generator.uniform(0.97, 1.03)), 0
        )
        for each in amounts
    ]
    found = fitted(StepModel(truth.work, made_up(), PRECISION), steps)
    for _ in range(100):
        own = truth.work.of(random_plan(generator))
        assert found.compute_s(own) == pytest.approx(truth.compute_s(own), rel=0.08)
    assert found.device.context_bytes_s == pytest.approx(device.context_bytes_s, rel=0.2)
    # One model's steps cannot tell products from what else each token or each layer takes: only their sum is known.


def test_real_steps_make_a_device_that_can_be_shared(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, max_position_embeddings=256)
    config = EngineConfig(
        model=str(folder),
        kv_cache_memory="2MiB",
        block_size=4,
        max_num_batched_tokens=64,
        max_num_seqs=16,
        speculate="off",
    )
    executor = LocalExecutor(config)
    seconds: list[float] = []
    found = calibrate(executor, config, "here", memory_bytes=2**30, seconds=0.5, told=seconds.append)
    executor.close()
    assert seconds == sorted(seconds)
    assert seconds[-1] == 0.5
    assert len({step.round for step in found.steps}) >= 5
    assert max(step.amounts.num_tokens for step in found.steps) > 16
    assert all(step.compute_s > 0 < step.host_s for step in found.steps)
    assert found.device.error is not None
    path = tmp_path / "here.json"
    path.write_bytes(msgspec.json.encode(found.device))
    assert find_device(str(path)) == found.device
    simulated = simulated_executor(config, found.device)
    assert simulated.capacity.num_blocks == executor.capacity.num_blocks
    assert simulated.capacity.block_bytes == executor.capacity.block_bytes
    assert simulated.depth == executor.depth == 1


def test_a_fit_is_for_weights_of_its_precision(tmp_path: Path) -> None:
    config = EngineConfig(model=str(make_llama(tmp_path)), quantization="int8", kv_cache_memory="1MiB")
    with pytest.raises(ConfigError, match=r"no rate for weights in int8, only for float32.*--quantization"):
        simulated_executor(config, made_up())
    with pytest.raises(ConfigError, match="--tensor-parallel-size at 1"):
        simulated_executor(
            EngineConfig(model=str(tmp_path), dtype="float32", kv_cache_memory="1MiB", tensor_parallel_size=2),
            made_up(),
        )


def test_devices_are_found_by_name_or_file(tmp_path: Path) -> None:
    assert all(find_device(name) is device for name, device in DEVICES.items())
    with pytest.raises(ConfigError, match="a100-40gb, a100-80gb, h100"):
        find_device("a1000")
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(ConfigError, match="not a file of `octavo calibrate`"):
        find_device(str(bad))


def test_what_takes_no_time_on_a_data_sheet_takes_none_here() -> None:
    """A decode step of OPT-13B on an A100: at least its weights at the full bandwidth, at most twice that."""
    from octavo.evaluation.shapes import shape_folder

    with shape_folder("opt-13b") as folder:
        config = EngineConfig(model=str(folder), load_format="dummy")
        cost = simulated_executor(config, find_device("a100-40gb")).cost
    assert isinstance(cost, StepModel)
    plan = Plan(rows=[0], starts=[100], num_new=[1], sampled_rows=[0], logits_from=[0])
    least_s = 2 * cost.work.layer_weights / 1555e9
    assert least_s < cost(plan).compute_s < 2 * least_s
    prompt = Plan(rows=[0], starts=[0], num_new=[2048], sampled_rows=[0], logits_from=[0])
    least_s = 2 * cost.work.layer_weights * 2048 / 312e12
    assert least_s < cost(prompt).compute_s < 3 * least_s


def test_products_take_time_in_straight_lines_between_the_numbers_that_are_told() -> None:
    device = msgspec.structs.replace(made_up(), products={"int8": [(1, 1.0), (2, 1.5), (8, 6.0)]})
    for tokens, seconds in ((1, 1), (1.5, 1.25), (2, 1.5), (5, 3.75), (8, 6), (80, 60)):
        assert device.product_s("int8", tokens, 2e9) == pytest.approx(2 * seconds)


def test_experts_take_as_long_as_those_that_are_touched(shape_model: StepModel) -> None:
    """With few tokens each reads its own experts; with many all are read, and each token multiplies with its own."""
    layers_only = replace(shape_model.work, head_weights=0)
    work = replace(layers_only, layer_weights=0, expert_weights=8 * 10**9, chosen_share=0.25)

    def seconds(num_tokens: int) -> float:
        plan = Plan(rows=[0], starts=[0], num_new=[num_tokens])
        without = replace(layers_only, layer_weights=0)
        whole, rest = (StepModel(each, made_up(), PRECISION) for each in (work, without))
        return whole.compute_s(whole.work.of(plan)) - rest.compute_s(rest.work.of(plan))

    assert seconds(1) == pytest.approx(2 * 0.2)
    assert 1.5 * seconds(1) < seconds(3) < 8 * 0.2
    assert seconds(2000) == pytest.approx(2 * 0.013 * 2000, rel=0.01)
