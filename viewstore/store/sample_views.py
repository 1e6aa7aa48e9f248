"""The views that a finished view set holds of one sample, for generators that start from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.images.colours import Pixels
from viewstore.store.view_set import ViewSet


@dataclass(frozen=True)
class StoredViews:
    """The views of row `row` of `view_set`, read through their checksums when they are asked for.

    Raises, at each of them:
        FormatError: Its shard is absent or damaged.
    """

    view_set: ViewSet
    row: int

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """What became of each view, [V]: values of `Status`."""
        return self.params("status")

    @cached_property
    def _pixels(self) -> Pixels:
        return self.view_set[self.row]

    def pixels(self) -> Pixels:
        """Return its views as a reader sees them, uint8 [V, H, W, 3]; read at the first call."""
        return self._pixels

    def params(self, name: str) -> NDArray[Any]:
        """Return its row of a params column. Raises ConfigError: there is no such column."""
        found: NDArray[Any] = self.view_set.params.take(name, np.array([self.row]))[0]
        return found
