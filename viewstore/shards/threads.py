"""How many threads OpenCV and torch use in this process: what a builder sets, given back."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def threads_restored(*, torch: bool) -> Iterator[None]:
    """Give the numbers of threads back after the block; builders in this process change them.

    `torch` says whether they may set torch's too, which is imported for that.
    """
    library = importlib.import_module("torch") if torch else sys.modules.get("torch")
    before = cv2.getNumThreads()
    of_torch = None if library is None else library.get_num_threads()
    try:
        yield
    finally:
        cv2.setNumThreads(before)
        if library is not None:
            library.set_num_threads(of_torch)
