"""A model states what each of its layers reads of a sequence's KV."""

from typing import Any

import pytest
import torch

from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import Full, LayerKind, Window
from octavo.layers.build import ModelBuild
from octavo.models.registry import build_model, config_of, translated
from tiny_checkpoints import FAMILIES

META = ModelBuild(torch.float32, torch.device("meta"), ReferenceKernels())


def layer_kinds(architecture: str, **fields: Any) -> list[LayerKind]:
    raw = {**FAMILIES[architecture].tiny, "architectures": [architecture], **fields}
    return build_model(config_of(translated(raw, "config.json"), "config.json"), META).layer_kinds()


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "LlamaForCausalLM", "OPTForCausalLM"])
def test_layers_without_windows_are_full(architecture: str) -> None:
    assert layer_kinds(architecture) == [Full(), Full()]


def test_layers_with_one_window_are_of_one_kind() -> None:
    assert layer_kinds("MistralForCausalLM", sliding_window=9, num_hidden_layers=3) == [Window(9)] * 3


def test_kinds_come_in_the_order_of_the_layers() -> None:
    kinds = layer_kinds(
        "Gemma3ForCausalLM",
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        num_hidden_layers=3,
    )
    assert kinds == [Window(7), Full(), Window(7)]
