"""The rotary table: exact where it matters, and shaped without being computed on the meta device."""

import math
from typing import Any

import pytest
import torch

from octavo.errors import ModelError
from octavo.kernels.reference import ReferenceKernels, rotary
from octavo.layers import rotary as rotary_module
from octavo.layers.build import ModelBuild
from octavo.layers.rotary import RotaryEmbedding, rotary_amplitude, rotary_frequencies

CPU = torch.device("cpu")


def table(dtype: torch.dtype, device: torch.device = CPU) -> RotaryEmbedding:
    return RotaryEmbedding(8, 5000, 10000.0, None, ModelBuild(dtype, device, ReferenceKernels()))


def test_the_table_stays_float32_in_a_16_bit_model_so_that_far_neighbours_differ() -> None:
    cos_sin = table(torch.bfloat16).cos_sin
    assert cos_sin.dtype == torch.float32
    assert not torch.equal(cos_sin[4998], cos_sin[4999])


def test_a_float64_models_table_is_exact_to_float64() -> None:
    cos_sin = table(torch.float64).cos_sin
    angle = 4999 * 10000.0 ** (-2 / 8)
    assert abs(float(cos_sin[4999, 1]) - math.cos(angle)) < 1e-12
    assert abs(float(cos_sin[4999, 5]) - math.sin(angle)) < 1e-12


def test_rotation_keeps_lengths_and_makes_scores_depend_on_the_distance_only() -> None:
    query = torch.randn(1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    key = torch.randn(1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    embedding = table(torch.float64)

    def score(query_position: int, key_position: int) -> torch.Tensor:
        rotated_query, _ = rotary(query, key, torch.tensor([query_position]), embedding.cos_sin)
        _, rotated_key = rotary(query, key, torch.tensor([key_position]), embedding.cos_sin)
        return (rotated_query * rotated_key).sum()

    torch.testing.assert_close(score(7, 3), score(1007, 1003))
    torch.testing.assert_close(score(9, 9), (query * key).sum())


def test_on_the_meta_device_the_table_has_its_shape_and_is_filled_later() -> None:
    embedding = table(torch.float32, torch.device("meta"))
    assert embedding.cos_sin.is_meta
    assert embedding.cos_sin.shape == (5000, 8)
    embedding.fill_table(CPU)
    torch.testing.assert_close(embedding.cos_sin, table(torch.float32).cos_sin)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 3.0}, LLAMA3])
def test_a_shorter_table_has_the_same_values(dtype: torch.dtype, scaling: dict[str, Any] | None) -> None:
    build = ModelBuild(dtype, CPU, ReferenceKernels())
    whole = RotaryEmbedding(24, 9001, 10000.0, scaling, build).cos_sin
    for max_positions in (1, 255, 4097):
        assert torch.equal(RotaryEmbedding(24, max_positions, 10000.0, scaling, build).cos_sin, whole[:max_positions])


def test_a_table_made_in_parts_is_the_one_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = table(torch.float32).cos_sin
    monkeypatch.setattr(rotary_module, "POSITIONS_AT_ONCE", 77)
    assert torch.equal(table(torch.float32).cos_sin, at_once)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 10**400}, LLAMA3 | {"factor": 10**400}])
def test_scaling_by_what_no_float_can_be_is_refused(scaling: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="rope scaling of kind"):
        rotary_frequencies(8, 10000.0, scaling, torch.float32, 64)


def test_llama3_scaling_leaves_short_wavelengths_and_divides_long_ones() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = rotary_frequencies(128, 500000.0, None, torch.float64, 64)
    scaled = rotary_frequencies(128, 500000.0, scaling, torch.float64, 64)
    wavelengths = 2 * math.pi / plain
    torch.testing.assert_close(scaled[wavelengths < 8192 / 4], plain[wavelengths < 8192 / 4])
    torch.testing.assert_close(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8)
    between = (wavelengths > 8192 / 4) & (wavelengths < 8192)
    assert between.any()
    assert bool(((scaled < plain) & (scaled > plain / 8))[between].all())


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


def test_yarn_leaves_fast_pairs_and_divides_slow_ones() -> None:
    plain = rotary_frequencies(128, 10000.0, None, torch.float64, 64)
    scaled = rotary_frequencies(128, 10000.0, YARN, torch.float64, 64)
    turns = 4096 * plain / (2 * math.pi)
    torch.testing.assert_close(scaled[turns > 40], plain[turns > 40])
    torch.testing.assert_close(scaled[turns < 0.8], plain[turns < 0.8] / 4)
    assert bool(((scaled < plain) & (scaled > plain / 4))[(turns > 1.3) & (turns < 25)].all())


def test_yarn_makes_up_for_its_stretch_by_the_amplitude() -> None:
    own = 0.1 * math.log(4) + 1
    for more, expected in [
        ({}, own),
        ({"attn_factor": 0.5}, own / 2),
        ({"attention_factor": 1.25}, 1.25),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707}, own),
        ({"factor": 0.5}, 1.0),
    ]:
        assert math.isclose(rotary_amplitude(YARN | more), expected), more


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        (YARN | {"extrapolation_factor": 0.5}, "extrapolation_factor"),
        (YARN | {"beta_fast": "many"}, "many"),
        ({"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings"),
        ({"rope_type": "dynamic", "factor": 2.0, "alpha": 1000.0}, "alpha"),
        (
            {"rope_type": "martian"},
            "unknown kind of rope scaling 'martian'; known ones: default, linear.*yarn, dynamic",
        ),
    ],
)
def test_scaling_that_is_not_computed_is_named(scaling: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        rotary_frequencies(8, 10000.0, scaling, torch.float32, 64)
