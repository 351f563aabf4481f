"""A script ends as its author meant, without a word of ours, whatever of a model's still runs or is still held."""

import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from octavo import LLM, BeamSearchParams, SamplingParams
from octavo.execution.local import LocalExecutor
from tiny_checkpoints import make_llama

MAKE = """
import asyncio, os, signal, sys, threading, time
from octavo import LLM, AsyncEngineArgs, AsyncLLM, LLMEngine, SamplingParams
KNOBS = dict(model=sys.argv[1], tokenizer="smollm2", kv_cache_memory="1MiB", num_threads=1)
SHORT, LONG = SamplingParams(max_tokens=2), SamplingParams(max_tokens=90, ignore_eos=True)

async def stream(engine, params, leave_after=10**9):
    count = 0
    async for _ in engine.generate([1] * 9, params, request_id="a"):
        count += 1
        if count == leave_after:
            return engine

def serve_for_ever(llm):
    while True:
        llm.generate([[1] * 30] * 8, LONG, use_tqdm=False)
"""

SCRIPTS = {
    "a daemon thread amid a call": """
llm = LLM(**KNOBS)
threading.Thread(target=serve_for_ever, args=(llm,), daemon=True).start()
time.sleep(0.2)
""",
    "several daemon threads": """
llm = LLM(**KNOBS)
for _ in range(4):
    threading.Thread(target=serve_for_ever, args=(llm,), daemon=True).start()
time.sleep(0.2)
""",
    "an engine of coroutines, idle": """
engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**KNOBS))
asyncio.run(stream(engine, SHORT))
""",
    "an engine of coroutines amid a request": """
engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**KNOBS))
async def main():
    running = asyncio.ensure_future(stream(engine, LONG))
    await stream_of_another(engine)
async def stream_of_another(engine):
    async for _ in engine.generate([1] * 30, LONG, request_id="b"):
        return
asyncio.run(main())
""",
    "a stream left open": """
llm = LLM(**KNOBS)
rest = llm.stream([[1] * 9], LONG)
next(rest)
""",
    "an engine stepped by hand, with requests": """
from octavo import EngineArgs
engine = LLMEngine.from_engine_args(EngineArgs(**KNOBS))
engine.add_request("a", [1] * 9, LONG)
engine.step()
""",
    "two models, one held in a cycle": """
class Holder: pass
holder, other = Holder(), LLM(**KNOBS)
holder.holder, holder.llm = holder, LLM(**KNOBS)
holder.llm.generate([[1]], SHORT, use_tqdm=False), other.generate([[1]], SHORT, use_tqdm=False)
""",
    "two ranks and a daemon thread": """
llm = LLM(**KNOBS, tensor_parallel_size=2)
threading.Thread(target=serve_for_ever, args=(llm,), daemon=True).start()
time.sleep(0.2)
""",
    "a fork that exits too": """
llm = LLM(**KNOBS)
llm.generate([[1]], SHORT, use_tqdm=False)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
""",
}


def ended(script: str, model: Path) -> tuple[int, str]:
    """A script's status and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MAKE + script, str(model)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_exits_in_silence(name: str, model: Path) -> None:
    assert ended(SCRIPTS[name], model) == (0, "")


@pytest.mark.parametrize("name", ["a daemon thread amid a call", "an engine of coroutines, idle"])
def test_a_scripts_own_status_is_kept(name: str, model: Path) -> None:
    assert ended(SCRIPTS[name] + "sys.exit(3)", model) == (3, "")
    status, told = ended(SCRIPTS[name] + "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", model)
    assert status in (130, -2)
    assert told.endswith("KeyboardInterrupt\n")


def test_a_model_that_is_let_go_is_gone_at_once(model: Path) -> None:
    llm = LLM(str(model), tokenizer="smollm2", kv_cache_memory="1MiB", num_threads=1)
    llm.generate([[1]], SamplingParams(max_tokens=2), use_tqdm=False)
    llm.beam_search([[1]], BeamSearchParams(beam_width=2, max_tokens=2), use_tqdm=False)
    next(llm.stream([[1]], SamplingParams(max_tokens=50)))
    llm.llm_engine.add_request("a", [1], SamplingParams(max_tokens=50))
    llm.llm_engine.step()
    llm.get_metrics(), llm.get_tokenizer(), llm.ledger()
    executor = llm.engine.executor
    assert isinstance(executor, LocalExecutor)
    made, runner = weakref.ref(llm), weakref.ref(executor.runner)
    del llm, executor
    assert made() is None
    assert runner() is None
