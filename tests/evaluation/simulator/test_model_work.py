"""What steps take in operations and bytes, against the models' published figures and against counting by hand."""

from pathlib import Path

import pytest
import torch

from octavo.checkpoints.locate import locate
from octavo.evaluation.shapes import SHAPES, shape_folder
from octavo.evaluation.simulator.model_work import ModelWork, count_work
from octavo.execution.plan import Plan
from octavo.kernels.cache import CacheShape
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import group_layers
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import read_config
from octavo.models.registry import build_model
from tiny_checkpoints import make_checkpoint

BLOCK_SIZE = 16


def work_of(folder: Path, num_ranks: int = 1, dtype: torch.dtype = torch.float16) -> ModelWork:
    config = read_config(locate(str(folder)))
    build = ModelBuild(dtype, torch.device("meta"), ReferenceKernels(), TensorParallel(0, num_ranks))
    groups = group_layers(build_model(config, build).layer_kinds())
    heads = config.num_key_value_heads // num_ranks
    return count_work(config, build, CacheShape(1, groups, BLOCK_SIZE, heads, config.head_dim, dtype))


def shape_work(name: str, num_ranks: int = 1) -> ModelWork:
    with shape_folder(name) as folder:
        return work_of(folder, num_ranks)


@pytest.mark.parametrize(
    ("name", "layers", "width"), [("opt-13b", 40, 5120), ("opt-66b", 64, 9216), ("opt-175b", 96, 12288)]
)
def test_a_layer_of_opt_has_twelve_weights_for_each_pair_of_its_width(name: str, layers: int, width: int) -> None:
    work = shape_work(name)
    assert (work.layer_weights, work.expert_weights) == (layers * 12 * width**2, 0)
    assert work.head_weights == SHAPES[name]["vocab_size"] * width


def test_a_token_of_opt_13b_takes_800_kb() -> None:
    """Paper, section 3: 2 (key and value) x 5120 x 40 layers x 2 bytes."""
    work = shape_work("opt-13b")
    assert work.block_bytes == BLOCK_SIZE * 819_200
    assert work.token_bytes * work.num_layers == 819_200


def test_ranks_have_a_part_each() -> None:
    whole, part = shape_work("opt-66b"), shape_work("opt-66b", num_ranks=4)
    for name in ("layer_weights", "head_weights", "query_width", "token_bytes"):
        assert getattr(part, name) * 4 == getattr(whole, name)
    assert part.block_bytes == whole.block_bytes


def decode(contexts: list[int]) -> Plan:
    rows = list(range(len(contexts)))
    return Plan(
        rows=rows,
        starts=[context - 1 for context in contexts],
        num_new=[1] * len(contexts),
        sampled_rows=rows,
        logits_from=rows,
    )


def test_a_step_is_the_sum_of_its_rows(tmp_path: Path) -> None:
    """Counted query by query, with windows: Gemma's layers."""
    work = work_of(make_checkpoint(tmp_path, "Gemma3ForCausalLM"))
    windows = [(len(group.layers), group.kind.most_seen) for group in work.layer_groups.groups]
    assert {size is None for _, size in windows} == {True, False}
    plan = Plan(rows=[0, 1, 2], starts=[40, 0, 3], num_new=[1, 30, 9], sampled_rows=[0, 2], logits_from=[0, 2])
    amounts = work.of(plan)
    pairs = read = 0
    for num_layers, window in windows:
        for start, new in zip(plan.starts, plan.num_new, strict=True):
            seen = [
                position + 1 if window is None else min(position + 1, window) for position in range(start, start + new)
            ]
            pairs += num_layers * sum(seen)
            read += num_layers * (start + new if window is None else min(start, window) + new)
    assert amounts.context_bytes == work.token_bytes * read
    assert amounts.attention_ops == pytest.approx(4 * work.query_width * pairs, rel=0.2)
    assert (amounts.num_tokens, amounts.num_rows, amounts.num_sampled) == (40, 3, 2)


def test_attention_without_windows_is_counted_exactly() -> None:
    work = shape_work("opt-13b")
    plan = Plan(rows=[0, 1], starts=[7, 0], num_new=[5, 4])
    pairs = sum(range(8, 13)) + sum(range(1, 5))
    assert work.of(plan).attention_ops == 4 * work.query_width * work.num_layers * pairs


def test_experts_are_counted_beside_what_every_token_takes(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "MixtralForCausalLM")
    config, work = read_config(locate(str(folder))), work_of(folder)
    one = 3 * config.hidden_size * config.intermediate_size
    num_experts, num_chosen = config.extra["num_local_experts"], config.extra["num_experts_per_tok"]
    assert work.expert_weights == config.num_hidden_layers * num_experts * one
    assert work.chosen_share == num_chosen / num_experts
    assert 0 < work.layer_weights < work.expert_weights


def test_a_step_that_only_moves_blocks_computes_nothing() -> None:
    work = shape_work("opt-13b")
    amounts = work.of(Plan(swap_out=[(0, 0), (1, 1)], swap_in=[(2, 2)], copies=[(3, 4)]))
    assert amounts.moved_bytes == 3 * work.block_bytes
    assert amounts.copied_bytes == work.block_bytes
    computed = ("num_tokens", "num_sampled", "attention_ops", "context_bytes", "activations", "reduced_bytes")
    assert [getattr(amounts, name) for name in computed] == [0] * len(computed)


def test_results_are_added_up_twice_a_layer_where_there_are_ranks() -> None:
    amounts, alone = shape_work("opt-66b", num_ranks=4).of(decode([9, 9])), shape_work("opt-66b").of(decode([9, 9]))
    assert (alone.num_reductions, alone.reduced_bytes) == (0, 0)
    assert amounts.num_reductions == 2 * 64 + 1
    assert amounts.reduced_bytes == pytest.approx(amounts.num_reductions * 2 * 3 / 4 * 2 * 9216 * 2)
