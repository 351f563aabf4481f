"""One `LLM` called from several threads gives the texts of one; a forked process is told what to do."""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import EngineError, RequestError
from tiny_checkpoints import make_llama


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = make_llama(tmp_path_factory.mktemp("tiny"))
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="256KiB", block_size=4, num_threads=2) as llm:
        yield llm
        assert llm.ledger().num_used_blocks == 0


def params(number: int) -> SamplingParams:
    return SamplingParams(max_tokens=2 + number % 9, n=1 + number % 3, seed=number, ignore_eos=True)


def ask(llm: LLM, number: int) -> list[list[int]]:
    prompt = [1 + number % 90] * (1 + number % 20)
    [output] = llm.generate([prompt], params(number), use_tqdm=False)
    return [sequence.token_ids for sequence in output.outputs]


def streamed(llm: LLM, number: int) -> list[list[int]]:
    got: list[list[int]] = [[] for _ in range(params(number).n)]
    for request in llm.stream([[1 + number % 90] * (1 + number % 20)], params(number)):
        for delta in request.take_delta():
            got[delta.index] += delta.token_ids
    return got


def generate_for_ever(llm: LLM) -> None:
    while True:
        llm.generate([[3] * 8] * 2, SamplingParams(max_tokens=60, ignore_eos=True), use_tqdm=False)


def test_eight_threads_get_the_texts_of_one_over_five_hundred_calls(llm: LLM) -> None:
    wanted = [ask(llm, number) for number in range(50)]
    numbers = [random.Random(0).randrange(50) for _ in range(500)]

    def ask_somehow(place: int) -> bool:
        number = numbers[place]
        return (ask, streamed)[place % 2](llm, number) == wanted[number]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask_somehow, range(500)))


def test_a_call_that_is_refused_or_left_early_leaves_the_others_right(llm: LLM) -> None:
    wanted = [ask(llm, number) for number in range(20)]

    def disturb(_: int) -> bool:
        with pytest.raises(RequestError):
            llm.generate([[1], [2] * 5000], SamplingParams(max_tokens=4), use_tqdm=False)
        next(llm.stream([[5] * 9] * 3, SamplingParams(max_tokens=100, ignore_eos=True)))
        return True

    with ThreadPoolExecutor(8) as threads:
        disturbed = threads.map(disturb, range(40))
        got = list(threads.map(lambda number: ask(llm, number), range(20)))
        assert all(disturbed)
    assert got == wanted


def test_ctrl_c_ends_the_main_threads_call_and_no_other(llm: LLM) -> None:
    wanted = [ask(llm, number) for number in range(12)]
    go_on = threading.Event()

    def work() -> list[list[list[list[int]]]]:
        rounds = []
        while not go_on.is_set():
            rounds.append([ask(llm, number) for number in range(12)])
        return rounds

    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(work) for _ in range(2)]
        for _ in range(20):
            timer = threading.Timer(random.uniform(0.01, 0.1), os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                generate_for_ever(llm)
        go_on.set()
        assert all(got == wanted for other in others for got in other.result())


@pytest.mark.parametrize("call", ["generate", "chat", "stream", "ledger"])
def test_a_forked_process_is_told_to_make_its_own(llm: LLM, call: str) -> None:
    stream = iter(llm.stream([[1, 2]], SamplingParams(max_tokens=50, ignore_eos=True)))
    next(stream)  # left open over the fork
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def work() -> None:
        try:
            if call == "ledger":
                llm.ledger()
            elif call == "stream":
                next(llm.stream([[1, 2]]))
            elif call == "chat":
                llm.chat([{"role": "user", "content": "a"}], use_tqdm=False)
            else:
                llm.generate([[1, 2]], use_tqdm=False)
        except EngineError as error:
            llm.close()
            answers.put(str(error))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert f"made in process {os.getpid()}" in (told := answers.get())
    assert "spawn" in told
    del stream
    assert ask(llm, 1) == ask(llm, 1)


def test_a_forked_process_makes_a_model_that_runs_or_is_told_what_would(tmp_path: Path) -> None:
    """Threads of OpenMP's that have run before a fork are not there behind it: waiting for them would never end."""
    folder = str(make_llama(tmp_path))
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def asked(num_threads: int) -> list[list[int]]:
        with LLM(folder, tokenizer="smollm2", kv_cache_memory="1MiB", num_threads=num_threads) as llm:
            return ask(llm, 1)

    def work() -> None:
        try:
            asked(2)
        except EngineError as error:
            answers.put((str(error), asked(1)))

    before = asked(2)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0
    told, after = answers.get()
    assert after == before
    assert "spawn" in told
    assert "num_threads" in told


def test_two_ranks_serve_several_threads(tmp_path: Path) -> None:
    with LLM(str(make_llama(tmp_path)), tokenizer="smollm2", kv_cache_memory="1MiB", tensor_parallel_size=2) as llm:
        wanted = [ask(llm, number) for number in range(10)]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda number: ask(llm, number), range(10))) == wanted
