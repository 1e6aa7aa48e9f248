"""The settings of a loader: written once, for ViewLoader and for the adapters that make one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Required, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from viewstore.errors import ConfigError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.batches.maker import OnCorrupt
from viewstore.loaders.plan.cut import Tail
from viewstore.loaders.plan.late import Photometric
from viewstore.loaders.plan.numbers import check_seed, whole_number
from viewstore.loaders.plan.schedule import Missing
from viewstore.loaders.plan.wants import Wants

if TYPE_CHECKING:
    import torch

INTEGERS = {  # the least that each may be
    "batch_size": 1,
    "rank": 0,
    "world_size": 1,
    "num_threads": 0,
    "prefetch": 1,
}
NEVER_NONE = ("batch_size", "prefetch")
FLAGS = ("uneven", "scaled_decode", "pin")
CHOICES = {
    "missing": ("raise", "fallback", "resample"),
    "photometric": ("cpu", "device", "caller"),
    "on_corrupt": ("raise", "quarantine"),
}


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """The settings of a ViewLoader, by name and default.

    Attributes:
        batch_size: Samples per step over ALL ranks.
        seed: Seed of order, draws and view schedule, below 2^53.
        shuffle: "global", "block:B" (windows of B shards) or "none".
        rates: Share of the rows of each of several stores that an epoch has; 1 where it is
            None. What an epoch leaves out, the next ones have.
        rows: Only these rows, by number or as a mask of all; None means all. One of each for
            several stores.
        where: Only rows that match, such as "distance < 0.35 and label in ['cat', 'dog']";
            the grammar is that of viewstore.store.where. With `rows`, those in both.
        rank: This rank. None: RANK of the environment, else of torch.distributed, else 0.
        world_size: Ranks; None as for `rank`. Giving one of the two is an error.
        uneven: Let the first ranks take one sample more; batch.weight makes up for it.
        num_threads: Threads of the pool; 0 works in the caller's thread, None takes the
            CPUs that the process may use.
        prefetch: Batches made ahead, at most 1 GiB; of small ones that are copied as they
            are stored, eight times as many, each eight in one block of memory.
        verify: Check CRCs, of source images too, at the "first" touch, "always", or "off".
        missing: Views that were not made: "raise", "fallback" (show what is stored) or
            "resample" (another view of the sample). Samples of which every view failed are left
            out whatever it is.
        tail: A short last step: "drop", "pad" or "keep" (evaluation).
        on_corrupt: "raise" at the batch of a damaged sample, or "quarantine" it: its views
            are black, it is not valid, and stats() counts it.
        resident: Copy raw view sets into memory: "auto" does, in the background, while they
            fit a quarter of the machine's memory; several ranks of a host share one file in the
            cache.
        scaled_decode: Decode a JPEG at a half, a quarter or an eighth where every crop of it
            is that much larger than its view; it changes pixels.
        pin: Put pixels into pinned memory.
        device: Where pixels, index, label and valid are delivered.
        photometric: Where colours of online views and recipe sets are made: on the "cpu" with
            Pillow, or for whole batches on the "device" from the same params. Both give the same
            pixels. "caller" leaves them to you: `View.coloured` makes them, or others. What has no
            form without colours is delivered with them; `slot.colourless` says which.
        wants: A function that says which slots a step shows, by number, or None for all; it is
            given the step counted over all epochs and must depend on nothing else. The others are
            neither read nor rendered: `view.absent`. None: every step shows all.

    Raises:
        ConfigError: A setting is none of its choices, or no number of its kind.
    """

    batch_size: int
    seed: int = 0
    shuffle: str = "global"
    rates: Sequence[float] | None = None
    rows: ArrayLike | Sequence[ArrayLike | None] | None = None
    where: str | None = None
    rank: int | None = None
    world_size: int | None = None
    uneven: bool = False
    num_threads: int | None = None
    prefetch: int = 3
    verify: Verify = "first"
    missing: Missing = "raise"
    tail: Tail = "drop"
    on_corrupt: OnCorrupt = "raise"
    resident: bool | Literal["auto"] = "auto"
    scaled_decode: bool = False
    pin: bool = False
    device: str | torch.device = "cpu"
    photometric: Photometric = "cpu"
    wants: Wants | None = None

    def __post_init__(self) -> None:
        for name, least in INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name in NEVER_NONE:
                object.__setattr__(self, name, whole_number(name, value, least=least))
        object.__setattr__(self, "seed", check_seed(self.seed))
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in FLAGS:
            object.__setattr__(self, name, _flag(name, getattr(self, name)))
        if self.resident != "auto":
            object.__setattr__(self, "resident", _flag("resident", self.resident, "auto"))
        if not isinstance(self.shuffle, str):
            raise ConfigError(
                f"shuffle must be 'global', 'block:B' or 'none', got {self.shuffle!r}",
                fix="shuffle='global' shuffles all rows, shuffle='none' keeps their order",
            )
        if not (self.where is None or isinstance(self.where, str)):
            raise ConfigError(f"where must be a filter in words or None, got {self.where!r}")
        if not (self.wants is None or callable(self.wants)):
            raise ConfigError(
                f"wants must be a function of the step or None, got {self.wants!r}",
                fix="wants=lambda step: None if step % 2 == 0 else (0, 1)",
            )


def _flag(name: str, value: object, *others: str) -> bool:
    """Return a setting that is on or off. Raises ConfigError: it is neither."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    choices = ", ".join(("True", "False", *map(repr, others)))
    raise ConfigError(f"{name} must be one of {choices}, got {value!r}")


class LoaderArguments(TypedDict, total=False):
    """LoaderSettings as keyword arguments, for type checkers; a test holds the two together."""

    batch_size: Required[int]
    seed: int
    shuffle: str
    rates: Sequence[float] | None
    rows: ArrayLike | Sequence[ArrayLike | None] | None
    where: str | None
    rank: int | None
    world_size: int | None
    uneven: bool
    num_threads: int | None
    prefetch: int
    verify: Verify
    missing: Missing
    tail: Tail
    on_corrupt: OnCorrupt
    resident: bool | Literal["auto"]
    scaled_decode: bool
    pin: bool
    device: str | torch.device
    photometric: Photometric
    wants: Wants | None
