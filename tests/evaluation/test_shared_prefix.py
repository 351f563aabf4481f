"""Behind a shared prefix each request computes its own tokens only."""

from collections.abc import Iterator

import pytest

from octavo.config import EngineConfig
from octavo.evaluation import shared_prefix
from octavo.evaluation.workloads import Work
from octavo.execution.local import LocalExecutor
from tiny_checkpoints import make_llama

WORK = [Work([5 + number, 7, 9 * number % 50, 11], 6) for number in range(5)]


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExecutor]:
    folder = make_llama(tmp_path_factory.mktemp("tiny"), max_position_embeddings=128)
    yield (executor := LocalExecutor(EngineConfig(model=str(folder), kv_cache_memory="2MiB", block_size=4)))
    executor.close()


@pytest.mark.parametrize(("prefix_tokens", "shared_blocks"), [(8, 2), (30, 7)])
def test_each_request_gets_the_prefixs_whole_blocks_from_the_cache(executor, prefix_tokens, shared_blocks):
    told: list[int] = []
    gain = shared_prefix.measure(
        executor,
        EngineConfig(max_num_seqs=8, max_num_batched_tokens=64),
        WORK,
        prefix_tokens=prefix_tokens,
        rounds=2,
        produced=told.append,
    )
    assert gain.cached_tokens == len(WORK) * shared_blocks * 4
    assert told == [30] * 4, "two rounds, with the cache on and off"
    assert gain.shared_tok_s > 0
    assert gain.unshared_tok_s > 0
