"""Which of the ranks of a job this process is."""

from __future__ import annotations

import os
import sys

from viewstore.errors import ConfigError


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and world size: as given, else RANK and WORLD_SIZE, else torch.distributed.

    Raises:
        ConfigError: One of the two is there without the other, or is no number.
    """
    if rank is not None and world_size is not None:
        return rank, world_size
    if rank is not None or world_size is not None:
        raise ConfigError(
            "rank and world_size must be given together, "
            f"got rank {rank} and world_size {world_size}"
        )
    given = [os.environ.get("RANK"), os.environ.get("WORLD_SIZE")]
    if given == [None, None]:
        distributed = sys.modules.get("torch.distributed")  # who set it up has imported it
        if distributed and distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    values = [int(text) for text in given if text is not None and text.isdecimal()]
    if len(values) != 2:
        raise ConfigError(
            "the environment must have RANK and WORLD_SIZE as numbers, or neither, "
            f"got RANK {given[0]!r} and WORLD_SIZE {given[1]!r}"
        )
    return values[0], values[1]
