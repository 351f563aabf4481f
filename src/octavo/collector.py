"""Python's garbage collector, kept from looking again and again at what stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """While modules are imported: they are all kept, and collections among them take a tenth of an import of torch.

    What has come by then counts as old: the next collection of young objects would look at all of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else others keep objects there, which `unfreeze` would let go
            gc.freeze()
            gc.unfreeze()  # to the oldest generation
        if was_enabled:
            gc.enable()


def keep_all() -> None:
    """What is there by now stays, as long as this process does: no collection looks at it again, or holds a step or a
    request up with that. Those of 200,000 objects, torch's and a model's, take 0.1 s."""
    gc.freeze()
