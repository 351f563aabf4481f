"""A chat template that never ends, or takes all memory, ends in an error; nothing outlives the process that asked."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from octavo.errors import EngineError, RequestError
from octavo.tokenization.tokenizer import Tokenizer

HI = [{"role": "user", "content": "Hi"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
PATIENCE_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Processes that run chat templates for another."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == pid and b"octavo.tokenization.template_process" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (ENDLESS, "takes too long"),
        ("{{ 9**(9**9) }}", "takes too long"),
        ("{% set n = messages | length + 8 %}{{ n**(n**n) }}", "takes too long"),
        ("{% for _ in range(200) %}" * 19 + "{% endfor %}" * 19, "takes too long"),
        ("{{ 'a' * 10**10 }}", "too much memory"),
        ("{{ messages | tojson(indent=10**9) }}", "too much memory"),
        ("{{ '%1000000000d' % 1 }}", "too much memory"),
        (
            "{% set ns = namespace(a='a') %}{% for _ in range(99) %}{% set ns.a = ns.a * 2 %}{% endfor %}",
            "too (much|long)",
        ),
        (ENDLESS.replace("%}{% endfor", "%}{{ 'a' * 100 }}{% endfor", 1), "writes more than .* characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "not valid Jinja"),
    ],
)
def test_a_template_without_an_end_refuses_its_request_alone(source: str, cause: str, smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match=cause):
        smollm2.render_chat(HI, chat_template=source)
    assert smollm2.render_chat(HI).endswith("assistant\n")


def test_the_variables_of_a_template_are_told(byte_level_folder: Path) -> None:
    source = (
        "{% if thinking is not defined %}{% set thinking = true %}{% endif %}{% set own = 1 %}{{ bos_token }}"
        "{% macro show() %}{{ reasoning_effort | default('high') }}{{ own }}{% endmacro %}{{ range(2) | list }}"
    )
    tokenizer = Tokenizer.from_folder(byte_level_folder, chat_template=source)
    names = {"thinking", "bos_token", "reasoning_effort"}
    assert tokenizer.template_variables() == tokenizer.template_variables(source) == names
    assert tokenizer.template_variables("{{ enable_thinking }}") == {"enable_thinking"}
    tokenizer.close()
    assert tokenizer.template_variables() == names
    with pytest.raises(EngineError, match="closed"):
        tokenizer.template_variables("{{ enable_thinking }}")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("{% if %}", "not valid Jinja"),
        ("{{ 9**(9**9) }}", "takes too long"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "not valid Jinja"),
    ],
)
def test_a_hostile_template_is_looked_into_within_bounds(source: str, cause: str, smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match=cause):
        smollm2.template_variables(source)
    assert "messages" in smollm2.template_variables()


def test_a_conversation_goes_on_beside_a_template_that_hangs(smollm2: Tokenizer) -> None:
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(smollm2.render_chat, HI, chat_template=ENDLESS)
        assert smollm2.render_chat(HI)
        assert isinstance(hanging.exception(PATIENCE_S), RequestError)


def test_an_ended_process_is_replaced(byte_level_folder: Path) -> None:
    before = set(children(os.getpid()))
    tokenizer = Tokenizer.from_folder(byte_level_folder)
    first = tokenizer.render_chat(HI)
    [process] = set(children(os.getpid())) - before
    os.kill(process, signal.SIGKILL)
    assert tokenizer.render_chat(HI) == first
    tokenizer.close()


def test_a_process_outlives_the_thread_that_started_it_or_is_replaced(byte_level_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(byte_level_folder)
    thread = threading.Thread(target=tokenizer.render_chat, args=(HI,))
    thread.start()
    thread.join()
    assert all(tokenizer.render_chat(HI) for _ in range(3))
    tokenizer.close()


def test_closing_ends_what_is_being_rendered(byte_level_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(byte_level_folder)
    tokenizer.render_chat(HI)
    with ThreadPoolExecutor() as threads:
        hanging = threads.submit(tokenizer.render_chat, HI, chat_template=ENDLESS)
        tokenizer.close()
        assert isinstance(hanging.exception(PATIENCE_S), EngineError | RequestError)
    with pytest.raises(EngineError, match="closed"):
        tokenizer.render_chat(HI)


def test_a_forked_process_renders_with_a_process_of_its_own(byte_level_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(byte_level_folder)
    first = tokenizer.render_chat(HI)
    if (child := os.fork()) == 0:
        is_same = False
        try:
            is_same = tokenizer.render_chat(HI) == first
            tokenizer.close()
        finally:
            os._exit(0 if is_same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tokenizer.render_chat(HI) == first
    tokenizer.close()


@pytest.mark.parametrize("source", ["{{ messages[0].content }}", "{% set n = messages | length + 8 %}{{ n**(n**n) }}"])
def test_processes_end_with_the_one_that_started_them(source: str, byte_level_folder: Path) -> None:
    code = (
        "import sys, threading, time; from octavo.tokenization.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.from_folder(sys.argv[1])\n"
        "print(tokenizer.render_chat([{'role': 'user', 'content': 'Hi'}]), flush=True)\n"
        "tokenizer.render_chat([{'role': 'user', 'content': 'Hi'}], chat_template=sys.argv[2]); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(byte_level_folder), source]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        [process] = children(parent.pid)
        parent.kill()
        parent.wait()
        until(lambda: not Path(f"/proc/{process}").exists())


def test_a_template_process_is_small_and_loads_neither_torch_nor_numpy(smollm2: Tokenizer) -> None:
    smollm2.render_chat(HI)
    for process in children(os.getpid()):
        [resident] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in line]
        assert int(resident.split()[1]) < 64 * 1024
        maps = Path(f"/proc/{process}/maps").read_text()
        assert "torch" not in maps
        assert "numpy" not in maps


def test_messages_that_json_cannot_say_are_refused(smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match="must be what JSON can say"):
        smollm2.render_chat([{"role": "user", "content": "a", "made": {1, 2}}])


def test_messages_that_are_nested_too_deeply_are_refused(smollm2: Tokenizer) -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(RequestError, match="recursion"):
        smollm2.render_chat([{"role": "user", "content": "a", "made": nested}])
