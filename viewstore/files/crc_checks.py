"""Decides which items a reader compares with their CRC: at first use, at every use, or never."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError

Verify = Literal["first", "always", "off"]


class CrcChecks:
    """Says which of `count` numbered items to check; remembers in a bit each which passed.

    Threads may share it: of two that set bits of one byte one may be lost, and what it stands for
    is checked again.
    """

    def __init__(self, count: int, verify: Verify) -> None:
        """Check `count` items as `verify` says. Raises ConfigError: `verify` is unknown."""
        if verify not in ("first", "always", "off"):
            raise ConfigError(f"verify must be first, always or off, got {verify!r}")
        self.verify = verify
        self._passed = np.zeros(-(-count // 8) if verify == "first" else 0, np.uint8)

    def due(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of `numbers` to check now, of their shape."""
        if self.verify != "first":
            return np.full(numbers.shape, self.verify == "always")
        bits = self._passed[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1
        return np.asarray(bits == 0)

    def is_due(self, number: int) -> bool:
        """Whether to check one item now; as `due`, without an array for each call."""
        if self.verify != "first":
            return self.verify == "always"
        return not int(self._passed[number >> 3]) >> (number & 7) & 1

    def passed(self, number: int) -> None:
        """Remember that an item matched its CRC."""
        if self.verify == "first":
            self._passed[number >> 3] |= 1 << (number & 7)
