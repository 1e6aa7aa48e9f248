"""The sample keys of a store: the key of a row, and the row of a key, found by bisection."""

from __future__ import annotations

import bisect
import difflib
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError

NEAR_KEYS = 3  # that an error names
SEARCHED_KEYS = 50_000  # for a part of one


class Keys(Sequence[str]):
    """The sample keys in row order, with look-up by bisection."""

    def __init__(self, keys: Sequence[str], order: Sequence[int] | NDArray[np.uint64]) -> None:
        """Take the keys, and their rows in the order of the keys' bytes."""
        self._keys, self._order = keys, order

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: Any) -> Any:  # noqa: ANN401
        return self._keys[row]

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The place of each row in the order of the keys' bytes, int64 [N]."""
        places = np.empty(len(self), np.int64)
        places[self._order] = np.arange(len(self))
        return places

    def lookup(self, key: str) -> int | None:
        """Return the row of a key, None where there is none."""
        position = self._position(key)
        return int(self._order[position]) if self._is_at(position, key) else None

    def row(self, key: str) -> int:
        """Return the row of a key. Raises ConfigError naming the three nearest keys."""
        position = self._position(key)
        if self._is_at(position, key):
            return int(self._order[position])
        raise ConfigError(
            f"there is no sample with key {key!r}; {self._near(key, position)}", code="VS102"
        )

    def find(self, text: str) -> int:
        """Return the row that a user means by `text`: the one of that key, else of that number.

        Raises:
            ConfigError: It is neither; the three nearest keys are named, and the row numbers.
        """
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1
        position = self._position(text)
        if self._is_at(position, text):
            return int(self._order[position])
        if 0 <= number < len(self):
            return number
        raise ConfigError(
            f"there is no sample with key {text!r}; {self._near(text, position)}",
            code="VS102",
            fix=f"give a key, or a row number from 0 to {len(self) - 1}",
        )

    def _position(self, key: str) -> int:
        """Return where a key stands, or would stand, in the order of the keys' bytes."""
        return bisect.bisect_left(
            range(len(self)),
            key.encode(errors="surrogateescape"),
            key=lambda each: self._at(each).encode(),
        )

    def _is_at(self, position: int, key: str) -> bool:
        return position < len(self) and self._at(position) == key

    def _near(self, key: str, position: int) -> str:
        """Return a question that names three keys: those with `key` in them, whatever the case.

        After them come those around `position` that are most like it, then those that are not.
        """
        within = self._within(key)
        around = range(max(0, position - 50), min(len(self), position + 50))
        alike = difflib.get_close_matches(key, [self._at(each) for each in around], n=NEAR_KEYS)
        alike = within + [each for each in alike if each not in within]
        others = (self._at(each) for each in sorted(around, key=lambda at: abs(at - position)))
        alike += [each for each in others if each not in alike]
        *first, last = map(repr, alike[:NEAR_KEYS])
        return f"did you mean {', '.join(first)} or {last}?" if first else f"there is only {last}"

    def _within(self, text: str) -> list[str]:
        """Return the first three keys with `text` in them, among the first 50,000 of the store."""
        wanted = text.casefold()
        some = (self._keys[row] for row in range(min(len(self), SEARCHED_KEYS)))
        found = (each for each in some if wanted in each.casefold())
        return list(itertools.islice(found, NEAR_KEYS)) if wanted else []

    def _at(self, position: int) -> str:
        return self._keys[int(self._order[position])]
