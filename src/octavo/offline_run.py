"""Running the requests of one call to their end, over a shared engine."""

import time
from collections.abc import Callable, Iterable

from tqdm import tqdm

from octavo.errors import RequestError
from octavo.outputs import RequestOutput
from octavo.shared_engine import OpenRequests, SharedEngine


def open_all(shared: SharedEngine, queues: Iterable[Callable[[OpenRequests], object]]) -> OpenRequests:
    """Queue all requests of a call, or none where one is refused.

    Args:
        queues: of each prompt, what tokenizes and queues it.

    Raises:
        RequestError: one can never be served here; the message tells its number.
    """
    opened = OpenRequests()
    try:
        for number, queue in enumerate(queues):
            try:
                queue(opened)
            except RequestError as error:
                raise RequestError(f"prompt {number}: {error}") from error
    except BaseException:
        shared.abort(opened)
        raise
    return opened


def run_all(shared: SharedEngine, opened: OpenRequests, use_tqdm: bool) -> list[RequestOutput]:
    """Wait for the requests of a call, under a progress bar where that is wanted; whatever happens, none stays open."""
    num_tokens, start_s = 0, time.monotonic()
    try:
        total = len(opened.assemblers)
        with tqdm(total=total, desc="Requests", unit="request", disable=not use_tqdm, dynamic_ncols=True) as bar:
            for assembler in shared.steps(opened):
                num_tokens += sum(len(delta.token_ids) for delta in assembler.take_delta())
                if assembler.finished:
                    rate = num_tokens / (time.monotonic() - start_s)
                    bar.set_postfix_str(f"{rate:.0f} output tokens/s", refresh=False)
                    bar.update()
    finally:
        shared.abort(opened)
    return [assembler.output for assembler in opened.assemblers.values()]
