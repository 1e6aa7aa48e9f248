"""Descriptors that are kept open and shared by threads: a process may have few of them."""

from __future__ import annotations

import os
import resource

# Each of those who keep descriptors takes this share of what the process may have.
SHARE = 8


class Descriptor:
    """An open file. It is closed when the last one who reads it lets go of it."""

    def __init__(self, number: int) -> None:
        """Take over a descriptor."""
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def most_descriptors() -> int:
    """Return how many descriptors one reader of many files may keep."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // SHARE) if soft != resource.RLIM_INFINITY else 1 << 16
