"""Python's garbage collector, kept away from objects that are made to stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def staying() -> Iterator[None]:
    """Within this, objects are made that stay, those of a large import.

    The collector would go through them again and again, and find nothing: an eighth of the time
    that `import torch` takes.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what the caller froze would be thawed
            gc.freeze()
            gc.unfreeze()  # together: all that is there is old now, and not gone through at once
        if collects:
            gc.enable()
