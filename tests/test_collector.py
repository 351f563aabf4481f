"""Collections leave alone what stays."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from octavo import collector
from tiny_checkpoints import make_llama

ENGINE = """
import gc, json, socket, sys
from octavo.config import EngineConfig
from octavo.engine.channel import Channel
from octavo.engine.process import EngineProcess
own, front = socket.socketpair()
EngineProcess(Channel(own), EngineConfig(model=sys.argv[1], kv_cache_memory="1MiB"))
print(gc.isenabled(), gc.get_freeze_count() > 10 * len(gc.get_objects()))
"""


def test_what_has_come_in_a_pause_counts_as_old() -> None:
    with collector.paused():
        kept: list[list[int]] = [[] for _ in range(1000)]
    old = {id(each) for each in gc.get_objects(generation=2)}
    assert {id(each) for each in kept} <= old
    assert not gc.get_freeze_count()


def test_a_pause_lets_nothing_go_that_is_kept() -> None:
    gc.freeze()
    try:
        with collector.paused():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def failing_import() -> None:
    assert not gc.isenabled()
    raise ImportError("gone")


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_pause_leaves_the_collector_as_it_was(is_enabled: bool) -> None:
    assert gc.isenabled()
    try:
        if not is_enabled:
            gc.disable()
        with pytest.raises(ImportError, match="gone"), collector.paused():
            failing_import()
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_an_engine_process_keeps_all_that_it_has_when_it_is_ready(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINE, str(make_llama(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True True"], done.stderr
