"""A bounded memory of what was computed or read: the least recently used goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by key, none of them None, up to a total weight; safe to share between threads.

    Of threads that ask for one key at once, one makes the value and the others wait for it.
    """

    def __init__(self, limit: int, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        """Keep values that weigh up to `limit` together, by `weigh`; a heavier one is not kept."""
        self.limit = limit
        self._weigh = weigh
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> int:
        """What the values that are kept weigh together."""
        return self._weight

    def find(self, key: Hashable) -> Value | None:
        """Return the value of `key` if it is kept, else None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made by `make` if it is not kept. Raises what `make` does."""
        found = self.find(key)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                found = self.find(key)
                if found is None:
                    found = make()
                    self.put(key, found)
                return found
        finally:
            with self._lock:
                self._making.pop(key, None)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep `value`, and let go of what was used longest ago where that is too much."""
        weight = self._weigh(value)
        with self._lock:
            self._drop(key)
            if weight > self.limit:
                return
            self._values[key] = value
            self._weight += weight
            while self._weight > self.limit:
                self._drop(next(iter(self._values)))

    def _drop(self, key: Hashable) -> None:
        gone: Any = self._values.pop(key, self)
        if gone is not self:
            self._weight -= self._weigh(gone)
