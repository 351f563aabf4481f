"""A server whose model is split over two processes: it ends when one of them does."""

import threading
from pathlib import Path

import psutil
import pytest

from e2e.server_process import Server, serving, until
from tiny_checkpoints import make_llama


def streaming(server: Server, model: str) -> tuple[threading.Thread, list[str]]:
    """A long answer on its way when this returns; the error that ends it is put into the list."""
    first, errors = threading.Event(), list[str]()

    def read() -> None:
        try:
            for _ in server.client.completions.create(
                model=model, prompt=[1, 2, 3], max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
            ):
                first.set()
        except Exception as error:
            errors.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    first.wait()
    return thread, errors


@pytest.mark.parametrize("is_busy", [True, False])
def test_the_end_of_a_rank_ends_open_requests_and_the_server(tmp_path: Path, is_busy: bool) -> None:
    folder = str(make_llama(tmp_path, max_position_embeddings=8192))
    with serving(
        "--model", folder, "--tokenizer", "smollm2", "--tensor-parallel-size", "2", "--max-model-len", "8192"
    ) as server:
        [engine] = psutil.Process(server.process.pid).children()
        ranks = engine.children()
        assert len(ranks) == 2
        if is_busy:
            thread, errors = streaming(server, folder)
            ranks[1].suspend()  # the step that runs cannot end any more
            until(lambda: ranks[1].status() == psutil.STATUS_STOPPED)
        ranks[1].kill()
        assert server.wait() == 1
        if is_busy:
            thread.join()
            assert "the engine has stopped" in errors[0]
        assert f"rank 1 of the model (process {ranks[1].pid}) was ended by SIGKILL" in server.printed
        assert not psutil.wait_procs([engine, *ranks], timeout=20)[1]
