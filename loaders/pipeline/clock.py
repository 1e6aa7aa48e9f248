"""Totals of a loader: seconds by what they were spent on, samples and bytes delivered."""

from __future__ import annotations

import threading

TOTALS = (
    "plan_seconds",
    "fetch_seconds",
    "decode_seconds",
    "copy_seconds",
    "render_seconds",
    "wait_seconds",
    "away_seconds",
    "samples",
    "bytes",
    "corrupt_samples",
)


class Clock:
    """Totals of one loader, to which all of its threads add.

    Add once for a batch or a slice of it, never for a view: small raw views take less than a
    microsecond each. `ViewLoader.stats` says what each total means.
    """

    def __init__(self) -> None:
        self._totals = dict.fromkeys(TOTALS, 0.0)
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to totals, by their names in TOTALS."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount

    @property
    def totals(self) -> dict[str, float]:
        """Every total by name."""
        with self._lock:
            return dict(self._totals)

    @property
    def wait_share(self) -> float:
        """Share of a loop's time that was spent waiting for batches; 0 before the first one."""
        totals = self.totals
        waited = totals["wait_seconds"]
        spent = waited + totals["away_seconds"]
        return waited / spent if spent else 0.0
