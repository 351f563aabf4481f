"""Layers split over two ranks compute what the whole ones do."""

from pathlib import Path

import pytest

from octavo.errors import ConfigError
from octavo.layers.parallel import TensorParallel
from parallel_ranks import check_layers, on_ranks


def test_split_layers_compute_what_whole_ones_do(tmp_path: Path) -> None:
    on_ranks(2, check_layers, tmp_path)
    check_layers(TensorParallel())


def test_units_are_shared_out_in_order_and_completely() -> None:
    shards = [TensorParallel(rank, 4).shard(12, "heads") for rank in range(4)]
    assert [unit for shard in shards for unit in shard] == list(range(12))
    assert {len(shard) for shard in shards} == {3}


def test_fewer_units_than_ranks_are_replicated_where_allowed() -> None:
    shards = [TensorParallel(rank, 8).shard(2, "KV heads", replicate=True) for rank in range(8)]
    assert [list(shard) for shard in shards] == [[0]] * 4 + [[1]] * 4


@pytest.mark.parametrize(("num_units", "replicate"), [(2, False), (9, False), (3, True)])
def test_units_that_cannot_be_shared_evenly_are_refused_naming_the_flag(num_units: int, replicate: bool) -> None:
    with pytest.raises(ConfigError, match=rf"{num_units} heads.*--tensor-parallel-size"):
        TensorParallel(0, 4).shard(num_units, "heads", replicate=replicate)


def test_a_vocabulary_may_leave_the_last_ranks_less_but_never_nothing() -> None:
    shards = [TensorParallel(rank, 4).uneven_shard(97, "tokens") for rank in range(4)]
    assert [unit for shard in shards for unit in shard] == list(range(97))
    assert [len(shard) for shard in shards] == [25, 25, 25, 22]
    with pytest.raises(ConfigError, match=r"6 tokens.*--tensor-parallel-size"):
        TensorParallel(0, 4).uneven_shard(6, "tokens")
