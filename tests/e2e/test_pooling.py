"""What is pooled of prompts: as transformers' states give it, and the same bits however a prompt is computed."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM

from late_queue import LateQueue
from octavo import SamplingParams
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import RequestError
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Task
from octavo.pooling import NOTHING_SAMPLED, PoolingParams
from octavo.scheduling.messages import EngineRequest, RequestUpdate
from scheduling.checking import check_engine
from tiny_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[(7 * i + 3 * j * j + i * j) % 97 for j in range(1 + 23 * i % 64)] for i in range(8)]


def pool(number: int, token_ids: list[int], task: Task = "embed", **asked: Any) -> EngineRequest:
    return EngineRequest(f"pool-{number}", token_ids, NOTHING_SAMPLED, 0.0, task=task, pooling=PoolingParams(**asked))


def generation(number: int, num_tokens: int) -> EngineRequest:
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    return EngineRequest(f"generate-{number}", [number + 1], params, 0.0)


def updates(engine: Engine, requests: list[EngineRequest]) -> Iterator[RequestUpdate]:
    """What a run of requests gives; at its end the engine holds nothing."""
    for number, request in enumerate(requests):
        engine.add(msgspec.structs.replace(request, arrival_s=float(number)))
    while engine.has_unfinished:
        yield from engine.step()
        check_engine(engine)
    ledger = engine.ledger()
    assert (ledger.num_used_blocks, ledger.num_swapped_blocks) == (0, 0)


def pooled(engine: Engine, requests: list[EngineRequest]) -> dict[str, NDArray[np.float32]]:
    """The numbers of each request that pools."""
    return numbers_of(updates(engine, requests))


def numbers_of(told: Iterable[RequestUpdate]) -> dict[str, NDArray[np.float32]]:
    found = {}
    for update in told:
        assert update.error is None
        for sequence in update.sequences:
            if sequence.pooled is not None:
                assert (sequence.finish_reason, sequence.token_ids) == ("stop", [])
                found[update.request_id] = np.frombuffer(sequence.pooled, np.float32)
    return found


def open_engine(folder: Path, queue: Any = None, num_blocks: int = 0, **knobs: Any) -> Engine:
    executor_knobs = {"block_size": 4, "kv_cache_memory": "2MiB", "dtype": "float32", "speculate": "off", **knobs}
    if num_blocks:
        probe = LocalExecutor(EngineConfig(model=str(folder), **executor_knobs))
        executor_knobs["kv_cache_memory"] = num_blocks * probe.capacity.block_bytes
    config = EngineConfig(model=str(folder), **executor_knobs)
    return Engine.configured(LocalExecutor(config, queue=queue), config)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "LlamaForCausalLM")


def expected(folder: Path, kind: str, token_ids: list[int]) -> NDArray[np.float64]:
    """A unit vector of the states that transformers computes."""
    model = AutoModel.from_pretrained(folder).double()
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([token_ids])).last_hidden_state[0]
    state = {"last": states[-1], "mean": states.mean(0), "cls": states[0]}[kind]
    vector: NDArray[np.float64] = (state / state.norm()).numpy()
    return vector


@pytest.mark.parametrize("kind", ["last", "mean", "cls"])
@pytest.mark.parametrize(("architecture", "kernels"), [("LlamaForCausalLM", "cpu"), ("GPT2LMHeadModel", "reference")])
def test_embeddings_are_those_of_transformers(tmp_path: Path, architecture: str, kind: str, kernels: str) -> None:
    folder = make_checkpoint(tmp_path, architecture)
    engine = open_engine(folder, pooling=kind, kernels=kernels)
    found = pooled(engine, [pool(i, PROMPTS[i]) for i in (3, 5)])
    for i in (3, 5):
        np.testing.assert_allclose(found[f"pool-{i}"], expected(folder, kind, PROMPTS[i]), atol=1e-5)


SCARCE: dict[str, Any] = {"num_blocks": 26, "max_num_batched_tokens": 4, "max_num_seqs": 4}
"""A long prompt takes many steps, in which generations before it come to need its blocks."""
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"max_num_seqs": 1},
    "in pieces of a few tokens": {"max_num_batched_tokens": 12, "max_num_seqs": 4},
    "without a prefix cache": {"prefix_cache_scope": "off", "max_num_batched_tokens": 40, "max_num_seqs": 12},
    "preempted by recompute": {**SCARCE, "preemption_mode": "recompute"},
    "preempted by swap": {**SCARCE, "preemption_mode": "swap"},
    "on a device that works beside the host": {"queue": LateQueue, "steps_in_flight": 2, "kernels": "reference"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["last", "mean"])
def test_a_vector_has_the_same_bits_however_its_prompt_is_computed(llama: Path, kind: str, way: str) -> None:
    options = {**WAYS[way]}
    queue = options.pop("queue", lambda: None)()
    kernels = options.get("kernels", "cpu")
    prompts, num_tokens = (PROMPTS[:3], 60) if "preempted" in way else (PROMPTS, 6)
    together = [pool(i, prompt) for i, prompt in enumerate(prompts)]
    wanted = pooled(open_engine(llama, pooling=kind, kernels=kernels), together)
    engine = open_engine(llama, queue, pooling=kind, swap_space="1MiB", **options)
    # Generations between them, so that a small pool preempts, and each prompt twice, so that blocks are found.
    work = [
        each
        for i, own in enumerate(together)
        for each in (generation(2 * i, num_tokens), generation(2 * i + 1, num_tokens), own)
    ]
    again = [pool(100 + i, prompt) for i, prompt in enumerate(prompts)]
    told = list(updates(engine, work + again))
    found = numbers_of(told)
    assert len(found) == 2 * len(prompts)
    for i in range(len(prompts)):
        for name in (f"pool-{i}", f"pool-{100 + i}"):
            assert found[name].tobytes() == wanted[f"pool-{i}"].tobytes()
    if "preempted" in way:
        assert sum(update.memory.num_preemptions for update in told if update.request_id in found) > 0


def test_a_prompt_as_long_as_the_context_has_a_vector_and_a_longer_one_is_refused(llama: Path) -> None:
    engine = open_engine(llama)
    longest = [i % 97 for i in range(128)]
    [found] = pooled(engine, [pool(0, longest)]).values()
    np.testing.assert_allclose(found, expected(llama, "last", longest), atol=1e-5)
    with pytest.raises(RequestError, match=r"context length is 128 tokens.*it has 129 tokens; shorten it"):
        engine.add(pool(1, [*longest, 1]))


def test_the_first_numbers_of_an_embedding_are_normalised_again(llama: Path) -> None:
    engine = open_engine(llama)
    asked: list[dict[str, Any]] = [{"normalize": False}, {}, {"dimensions": 5}, {"dimensions": 5, "normalize": False}]
    found = pooled(engine, [pool(i, PROMPTS[3], **each) for i, each in enumerate(asked)])
    raw = found["pool-0"]
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    np.testing.assert_allclose(found["pool-1"], raw / np.linalg.norm(raw), rtol=1e-6)
    np.testing.assert_allclose(found["pool-2"], raw[:5] / np.linalg.norm(raw[:5]), rtol=1e-6)
    assert found["pool-3"].tolist() == raw[:5].tolist()
    with pytest.raises(RequestError, match="dimensions=33 is over the 32 numbers"):
        engine.add(pool(9, [1, 2], dimensions=33))


def test_a_score_is_the_share_of_tokens_in_what_comes_next(llama: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(llama)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([PROMPTS[4]])).logits[0, -1]
    engine = open_engine(llama)
    asked: dict[str, Any] = {"task": "score", "label_token_ids": [7, 90, 13]}
    found = pooled(engine, [pool(0, PROMPTS[4], **asked), pool(1, PROMPTS[4], **asked, use_activation=False)])
    np.testing.assert_allclose(found["pool-0"], logits[[7, 90, 13]].softmax(0), atol=1e-5)
    np.testing.assert_allclose(found["pool-1"], logits[[7, 90, 13]], atol=1e-4)
    with pytest.raises(RequestError, match="label_token_ids holds token id 97"):
        engine.add(pool(2, [1], task="score", label_token_ids=[3, 97]))


def test_generation_is_what_it_is_without_prompts_that_are_pooled(llama: Path) -> None:
    def tokens(engine: Engine, others: list[EngineRequest]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for update in updates(engine, [each for pair in zip(work, others, strict=False) for each in pair] or work):
            for sequence in update.sequences:
                found.setdefault(update.request_id, []).extend(sequence.token_ids)
        return {name: own for name, own in found.items() if name.startswith("generate")}

    work = [generation(i, 20) for i in range(8)]
    alone = tokens(open_engine(llama), [])
    assert tokens(open_engine(llama, pooling="mean"), [pool(i, prompt) for i, prompt in enumerate(PROMPTS)]) == alone


def test_aborting_a_prompt_that_is_pooled_gives_back_what_it_holds(llama: Path) -> None:
    engine = open_engine(llama, max_num_batched_tokens=8, max_num_seqs=4)
    for i, prompt in enumerate(PROMPTS):
        engine.add(pool(i, prompt))
    engine.step()
    assert engine.ledger().num_used_blocks > 0
    for i in range(len(PROMPTS)):
        engine.abort(f"pool-{i}")
    assert not engine.has_unfinished
    assert engine.ledger().num_used_blocks == 0


def test_states_that_are_no_numbers_fail_their_own_request(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(llama)
    executor: Any = engine.executor
    pooler = executor.runner.pooler
    spoil = pooler.pooled

    def pooled_badly(*arguments: Any) -> Any:
        first, *others = spoil(*arguments)
        first.values[0] = float("nan")
        return [first, *others]

    monkeypatch.setattr(pooler, "pooled", pooled_badly)
    told = list(updates(engine, [pool(i, PROMPTS[i]) for i in range(3)]))
    assert [update.error for update in told if update.error] == [
        "the model gave hidden states that are no finite numbers"
    ]
    assert {update.request_id for update in told if not update.error} == {"pool-1", "pool-2"}
