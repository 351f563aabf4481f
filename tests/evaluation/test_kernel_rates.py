"""Kernels measured one by one, on a tiny model and both backends."""

from pathlib import Path

import pytest
import torch

from octavo.checkpoints.locate import locate
from octavo.errors import ConfigError
from octavo.evaluation import kernel_cases, kernel_rates, machine_limits
from octavo.evaluation.kernel_cases import KernelWork
from octavo.evaluation.kernel_names import PRECISIONS
from octavo.evaluation.machine_limits import MachineLimits
from octavo.evaluation.operation_models import rows_in_rotation
from octavo.kernels.cache import CacheShape
from octavo.layer_groups import one_group
from octavo.models.config import ModelConfig
from octavo.models.loader import read_config
from tiny_checkpoints import make_llama

LIMITS = MachineLimits(
    num_threads=2,
    read_gb_s=10.0,
    product_gop_s={"float32": {"torch": 50.0}, "bfloat16": {"torch": 9.0, "octavo": 60.0}, "int8": {"torch": 2.0}},
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return read_config(locate(str(make_llama(tmp_path_factory.mktemp("tiny"), num_key_value_heads=2))))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROTATION_BYTES", 1 << 15), ("COPIED_BYTES", 1 << 18), ("POINTWISE_COPIES", 3)):
        monkeypatch.setattr(kernel_cases, name, value)
    monkeypatch.setattr(kernel_rates, "MEASURED_S", 0.001)
    for name, value in (("PROBE_READ_BYTES", 1 << 20), ("PROBE_SIZE", 64)):
        monkeypatch.setattr(machine_limits, name, value)
    monkeypatch.setattr(machine_limits, "PROBED_S", 0.001)


def work_of(model: ModelConfig, **knobs: object) -> KernelWork:
    few = {"rows": (1, 5), "sequences": (1, 3), "contexts": (16, 70), "prefill": (40,)}
    return KernelWork(model=model, **{**few, **knobs})  # type: ignore[arg-type]


def test_the_slower_of_memory_and_products_is_the_limit() -> None:
    """In float32 products go at torch's rate, in others at the best that was seen of theirs and float32's."""
    assert LIMITS.product_rate("float32") == 50
    assert LIMITS.product_rate("bfloat16") == 60
    assert LIMITS.product_rate("int8") == 50
    reading = LIMITS.bound(20e9, {"float32": 50e9})
    computing = LIMITS.bound(20e9, {"float32": 50e9, "bfloat16": 120e9})
    assert (round(reading.seconds, 9), reading.waits_for) == (2, "memory")
    assert (round(computing.seconds, 9), computing.waits_for) == (3, "products")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_kernel_is_measured_on_the_models_shapes(model: ModelConfig, backend: str) -> None:
    limits = MachineLimits(num_threads=1, read_gb_s=10.0, product_gop_s={p: {"torch": 50.0} for p in PRECISIONS})
    work = work_of(model, backend=backend)
    rates = list(kernel_rates.measure_kernels(work, limits))
    assert len(rates) == kernel_cases.count_cases(work)
    products = {rate.shape for rate in rates if rate.kind == "product"}
    assert products == {"qkv_proj 32 -> 64", "o_proj 32 -> 32", "gate_up_proj 32 -> 112", "down_proj 56 -> 32"}
    assert {rate.shape for rate in rates if rate.kind == "logits"} == {"32 -> 97"}
    for rate in rates:
        assert min(rate.microseconds, rate.gb_s) > 0
        assert (rate.gop_s > 0) == (rate.kind in ("product", "logits", "decode", "prefill"))


def test_bytes_and_operations_are_those_of_the_shapes(model: ModelConfig) -> None:
    """A tiny layer has 4 heads and 2 KV heads of 8 dimensions."""
    knobs = {"kv_precisions": ("bfloat16", "int8"), "precisions": ("bfloat16", "int8")}
    found = {(c.kind, c.shape, c.precision, c.rows): c for c in kernel_cases.cases(work_of(model, **knobs))}
    product = found["product", "o_proj 32 -> 32", "bfloat16", 5]
    assert (product.num_bytes, product.operations) == (32 * 32 * 2, {"bfloat16": 2 * 5 * 32 * 32})
    assert found["product", "o_proj 32 -> 32", "int8", 5].num_bytes == 32 * 32 + 32 * 4
    decode = found["decode", "3 x 70 tokens", "bfloat16", 3]
    assert (decode.num_bytes, decode.operations) == (3 * 70 * 2 * 2 * 8 * 2, {"float32": 4 * 3 * 70 * 4 * 8})
    assert found["decode", "3 x 70 tokens", "int8", 3].num_bytes == 3 * 70 * 2 * 2 * (8 + 4)
    prefill = found["prefill", "40 tokens", "bfloat16", 40]
    assert prefill.operations == {"float32": 2 * 4 * 8 * 40**2}
    assert decode.count == prefill.count == 2  # layers


def test_limits_move_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading twice as slow, multiplying four times as fast as at the beginning."""
    times = iter([1.0, 1.0, 2.0, 0.25])
    monkeypatch.setattr(machine_limits, "shortest_s", lambda call, at_least_s: next(times))
    now = machine_limits.Drift().limits_now(LIMITS)
    assert now.read_gb_s == 5
    assert now.product_gop_s["bfloat16"] == {"torch": 36.0, "octavo": 240.0}


def test_rows_in_rotation_have_scattered_blocks_of_their_own() -> None:
    shape = CacheShape(40, one_group(1), 16, 1, 16, torch.float32)
    batches = rows_in_rotation(shape, 3, 33, 1)
    seen = [next(batches) for _ in range(4)]
    blocks = torch.cat([batch.block_tables.flatten() for batch in seen]).tolist()
    assert len(set(blocks)) == len(blocks) == 4 * 3 * 3
    assert next(batches) is seen[0]
    assert seen[0].positions.tolist() == [32] * 3
    assert seen[0].slots.tolist() == (seen[0].block_tables[:, :, 2] * 16).tolist()


def test_what_does_not_fit_is_refused_with_its_flag(model: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="--context 129 is over the 128 tokens"):
        work_of(model, contexts=(129,)).check()
    with pytest.raises(ConfigError, match=r"--sequences 2000000000 .*--context 70"):
        work_of(model, sequences=(2_000_000_000,)).check()


def test_the_plot_is_a_picture(model: ModelConfig, tmp_path: Path) -> None:
    limits = MachineLimits(num_threads=1, read_gb_s=10.0, product_gop_s={p: {"torch": 50.0} for p in PRECISIONS})
    rates = list(kernel_rates.measure_kernels(work_of(model, kinds=("product", "decode", "norm")), limits))
    figures = kernel_rates.KernelFigures(limits=limits, kernels=rates)
    kernel_rates.plot(figures, str(tmp_path / "kernels.png"))
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
