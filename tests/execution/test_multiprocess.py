"""A model on several processes: the tokens of one, and what happens when one of them ends, fails or cannot start."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import toy_grammars
from octavo import LLM, SamplingParams
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import ConfigError, EngineError, RequestError
from octavo.execution.executor import Executor, PendingOutput
from octavo.execution.local import LocalExecutor, threads_of_a_rank
from octavo.execution.multiprocess import MultiProcessExecutor
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.pooling import NOTHING_SAMPLED, PoolingParams, PoolingTask, numbers
from octavo.scheduling import EngineRequest
from octavo.scheduling.messages import RequestUpdate
from octavo.structured_outputs import Grammar
from tiny_checkpoints import make_llama
from toy_grammars import KINDS

PROMPT = [5, 17, 3, 80, 41]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"))


def config(folder: Path, size: int = 2, **knobs: Any) -> EngineConfig:
    return EngineConfig(model=str(folder), kv_cache_memory="1MiB", tensor_parallel_size=size, **knobs)


@pytest.fixture(scope="module")
def executor(folder: Path) -> Iterator[MultiProcessExecutor]:
    executor = MultiProcessExecutor(config(folder))
    yield executor
    executor.close()


def prefill(row: int, **params: Any) -> Plan:
    """A prompt in a row of its own, and its first token."""
    new = NewRow(row, 0, PROMPT, SamplingParams(temperature=0, **params), seed=0, stop_token_ids=[])
    tables = [TableEdit(row, [row])]
    return Plan(
        added=[new],
        tables=tables,
        rows=[row],
        starts=[0],
        num_new=[len(PROMPT)],
        sampled_rows=[row],
        logits_from=[0],
        scored=[0] if new.params.prompt_logprobs else [],
    )


def decode(row: int, start: int) -> Plan:
    return Plan(rows=[row], starts=[start], num_new=[1], sampled_rows=[row], logits_from=[0])


def gone(process_ids: list[int]) -> bool:
    """Whether none of these processes is left, or about to be."""
    left = [process for process in psutil.process_iter() if process.pid in process_ids]
    return not psutil.wait_procs(left, timeout=20)[1]


def test_two_ranks_give_the_tokens_and_scores_of_one_process(folder: Path, executor: MultiProcessExecutor) -> None:
    alone = LocalExecutor(config(folder, 1))
    assert executor.capacity == alone.capacity, "memory flags are totals of the machine"
    assert executor.loaded.dtype == alone.loaded.dtype
    plans = [prefill(0, logprobs=3, prompt_logprobs=2), decode(0, 5), decode(0, 6)]
    ours, theirs = ([each.submit(plan).result() for plan in plans] for each in (executor, alone))
    assert [step.token_ids for step in ours] == [step.token_ids for step in theirs]
    told, expected = (step.prompt_logprobs[0] + (step.logprobs[0] or []) for step in (ours[0], theirs[0]))
    assert [each.token_id for each in told] == [each.token_id for each in expected]
    assert [each.logprob for each in told] == pytest.approx([each.logprob for each in expected], abs=1e-4)


def test_two_ranks_pool_what_one_process_does(folder: Path, executor: MultiProcessExecutor) -> None:
    def pooled(task: PoolingTask, asked: PoolingParams) -> Plan:
        new = NewRow(0, 0, PROMPT, NOTHING_SAMPLED, seed=0, stop_token_ids=[], task=task, pooling=asked)
        tables = [TableEdit(0, [0])]
        return Plan(removed=[0], added=[new], tables=tables, rows=[0], starts=[0], num_new=[len(PROMPT)], pooled=[0])

    alone = LocalExecutor(config(folder, 1))
    plans = [pooled("embed", PoolingParams()), pooled("score", PoolingParams(label_token_ids=[9, 90]))]
    ours, theirs = ([each.submit(plan).result().pooled[0] for plan in plans] for each in (executor, alone))
    assert [len(numbers(own)) for own in ours] == [32, 2]
    for own, expected in zip(ours, theirs, strict=True):
        assert numbers(own).tolist() == pytest.approx(numbers(expected).tolist(), abs=1e-4)


def test_two_ranks_on_the_kernels_of_a_gpu_give_the_tokens_of_one_process(folder: Path) -> None:
    """In Triton's interpreter, and with gloo in place of NCCL."""
    pytest.importorskip("triton")
    alone = LocalExecutor(config(folder, 1, kernels="reference"))
    ranks = MultiProcessExecutor(config(folder, kernels="triton", dtype="float32"))
    assert "'triton'" in ranks.loaded.kernels
    plans = [prefill(0), decode(0, 5)]
    ours, theirs = ([each.submit(plan).result().token_ids for plan in plans] for each in (ranks, alone))
    assert ours == theirs
    ranks.close()


@pytest.mark.parametrize("depth", [1, 2])
def test_rank_0_follows_grammars_that_it_imports(folder: Path, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_grammars.__file__).parent))
    alone = LocalExecutor(config(folder, 1), grammars=KINDS)
    ranks = MultiProcessExecutor(config(folder, steps_in_flight=depth), grammars=KINDS)
    assert ranks.depth == depth
    params = SamplingParams(n=3, temperature=2, max_tokens=8, ignore_eos=True)
    request = EngineRequest("odd", PROMPT, params, 0.0, seed=1, grammar=Grammar("alternating"))
    ours, theirs = (outputs(each, request) for each in (ranks, alone))
    assert ours == theirs
    assert [[token % 2 for token in token_ids] for token_ids in ours.values()] == [[1, 0] * 4] * 3
    ranks.close()


def test_a_row_that_fails_on_rank_0_fails_its_own_request_and_no_rank_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_grammars.__file__).parent))
    ranks = MultiProcessExecutor(config(folder), grammars=KINDS)
    engine = Engine(ranks, max_num_seqs=16, max_num_batched_tokens=64)
    params = SamplingParams(n=2, max_tokens=8, ignore_eos=True)
    engine.add(EngineRequest("well", PROMPT, params, 0.0, seed=1))
    engine.add(EngineRequest("cursed", PROMPT, params, 0.0, seed=2, grammar=Grammar("failing", "ValueError")))
    updates: list[RequestUpdate] = []
    while engine.has_unfinished:
        updates += engine.step()
    assert {update.request_id for update in updates if update.error} == {"cursed"}
    well = [own for update in updates if update.request_id == "well" for own in update.sequences]
    assert {own.index: own.finish_reason for own in well if own.finish_reason} == {0: "length", 1: "length"}
    assert outputs(ranks, EngineRequest("next", PROMPT, params, 0.0, seed=1))
    ranks.close()


def outputs(executor: Executor, request: EngineRequest) -> dict[int, list[int]]:
    """The tokens of each of a request's sequences."""
    engine = Engine(executor, max_num_seqs=16, max_num_batched_tokens=64)
    engine.add(request)
    got: dict[int, list[int]] = {}
    while engine.has_unfinished:
        for update in engine.step():
            for sequence in update.sequences:
                got.setdefault(sequence.index, []).extend(sequence.token_ids)
    return got


def test_a_grammar_that_the_ranks_have_no_kind_for_is_refused_by_name(executor: MultiProcessExecutor) -> None:
    with pytest.raises(RequestError, match=r"kind of grammar 'alternating' is unknown .* knows choice"):
        outputs(executor, EngineRequest("a", PROMPT, SamplingParams(), 0.0, grammar=Grammar("alternating")))


def test_a_kind_of_grammar_that_the_ranks_cannot_import_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ConfigError, match="kind 'odd' cannot be imported from 'nowhere:maker'"):
        MultiProcessExecutor(config(folder), grammars={"odd": "nowhere:maker"})


def test_a_step_whose_output_nobody_took_does_not_disturb_the_next(executor: MultiProcessExecutor) -> None:
    """So Ctrl-C leaves it."""
    expected = executor.submit(prefill(1)).result().token_ids
    executor.submit(Plan(rows=[1], starts=[5], num_new=[1]))
    assert executor.submit(prefill(2)).result().token_ids == expected


def test_threads_are_shared_out_over_the_ranks(folder: Path) -> None:
    shares = [threads_of_a_rank(config(folder, size, num_threads=6)) for size in (1, 2, 4, 64)]
    assert shares == [6, 3, 1, 1]


def test_a_rank_killed_in_the_middle_of_a_step_ends_every_request_and_the_other_rank(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(str(folder), tokenizer="smollm2", kv_cache_memory="1MiB", tensor_parallel_size=2)
    executor = llm.engine.executor
    assert isinstance(executor, MultiProcessExecutor)
    ranks = executor.process_ids
    os.kill(ranks[1], signal.SIGSTOP)  # so the step cannot get to its end before it is killed
    submit = executor.submit

    def submit_and_kill(plan: Plan) -> PendingOutput:
        step = submit(plan)
        os.kill(ranks[1], signal.SIGKILL)
        return step

    monkeypatch.setattr(executor, "submit", submit_and_kill)
    many = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    with pytest.raises(EngineError, match=rf"rank 1 of the model \(process {ranks[1]}\) was ended by SIGKILL"):
        llm.generate(many, SamplingParams(n=2, max_tokens=50), use_tqdm=False)
    assert gone(ranks)
    with pytest.raises(EngineError, match="rank 1"):
        llm.generate([1, 2, 3], use_tqdm=False)
    llm.close()


def test_a_rank_that_fails_in_a_step_says_what_has_failed(folder: Path) -> None:
    executor = MultiProcessExecutor(config(folder))
    ranks = executor.process_ids
    with pytest.raises(EngineError, match=r"rank \d of the model failed:(?s:.)*IndexError"):
        executor.submit(decode(12345, 0)).result()
    assert gone(ranks)
    executor.close()


def test_a_model_that_cannot_be_split_so_is_refused_with_the_flag(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model's \d+ .*cannot be split evenly over 3 .*--tensor-parallel-size"):
        MultiProcessExecutor(config(folder, 3))


def test_no_rank_outlives_its_executor_however_that_ends(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "from octavo.config import EngineConfig\nfrom octavo.execution.multiprocess import MultiProcessExecutor\n"
        "config = EngineConfig(model=sys.argv[1], kv_cache_memory='1MiB', tensor_parallel_size=2)\n"
        "executor = MultiProcessExecutor(config)\n"
        "assert 'torch' not in sys.modules\n"
        "print(*executor.process_ids, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    ranks = [int(number) for number in done.stdout.split()]
    assert len(ranks) == 2
    assert gone(ranks)


def test_an_executor_in_one_process_refuses_to_stand_for_several(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--tensor-parallel-size is 2: leave it at 1"):
        LocalExecutor(config(folder, 2))
