"""How networks compute, and what they are shown: the same bits in every worker."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from viewstore.images.colours import Pixels

Precision = Literal["fp32", "bf16"]

# mallopt: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (32 MiB is the most it takes).
MALLOC_OPTIONS = {-1: 1 << 30, -2: 1 << 27, -3: 1 << 25}


def device_class(device: str) -> str:
    """Return "cpu" or "cuda" of a torch device: machines of one class round in the same way."""
    return device.partition(":")[0]


@contextlib.contextmanager
def repeatable(device: str, threads: int) -> Iterator[None]:
    """Compute so that the same tensors give the same bits in every worker.

    A thread count other than the plan's splits sums elsewhere; TF32 and autotuned kernels round
    differently from one run to the next.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if device_class(device) == "cuda":
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ):
                yield
        else:
            yield
    finally:
        torch.set_num_threads(before)


def autocast(device: str, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which networks run: bfloat16 products, or nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, once and for all, where glibc manages it.

    A step on CPU takes the same megabytes again and again. By default glibc hands them back each
    time and the kernel clears them anew, which is a fifth of the step.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC_OPTIONS.items():
            mallopt(option, value)


def from_pixels(pixels: Pixels, device: str) -> Tensor:
    """Return pixels, uint8 [..., H, W, 3], as networks take them: float32 [..., 3, H, W].

    They are in [0, 1].
    """
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))
    return torch.from_numpy(planes).to(device).float().div_(255)
