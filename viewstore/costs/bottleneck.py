"""What bounds the loading of views: `bench` asks, with times that it measured apart. Pure.

Of the time that the loader takes for a sample, three parts are known: what a bare loop needs to
copy or decode the views, what the disk needs, and what rendering took. The rest is Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["disk", "decode", "copy", "render", "python"]

ADVICE: Mapping[Kind, str] = {
    "disk": "the disk delivers no more: store fewer bytes (--codec jpg), a faster disk, or more "
    "memory, so that later epochs do not read",
    "decode": "JPEG decoding takes the cores: more cores, smaller views, or --codec raw where "
    "`viewstore stats` advises it",
    "copy": "the bytes themselves take the time: nothing to win but by fewer or smaller views",
    "render": "rendering takes the cores: cache what is drawn online, use fewer or smaller online "
    "views, or photometric='device'",
    "python": "the loader's own work takes the time: larger batches, fewer params columns "
    "(Cached(..., params=())), fewer slots",
}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Seconds per sample, with all cores at work.

    Attributes:
        loader: The whole time in the loader.
        copy: Time of a bare loop that copies its raw views; 0 if it has none.
        decode: Time of a bare loop that decodes its encoded views; 0 if it has none.
        disk: Time to read its bytes; 0 if they stay in memory.
        render: Time in the loader for crops, flips and colours; 0 if it has no online views.
    """

    loader: float
    copy: float = 0.0
    decode: float = 0.0
    disk: float = 0.0
    render: float = 0.0

    @property
    def limit(self) -> float:
        """Least time that is possible: disk and cores work at the same time."""
        return max(self.copy + self.decode, self.disk)

    @property
    def rest(self) -> float:
        """Time that neither a bare loop, nor the disk, nor rendering explains; 0 or more."""
        return max(0.0, self.loader - self.limit - self.render)

    @property
    def share_of_limit(self) -> float:
        """Share of the possible rate that the loader reaches; noise may lift it above 1."""
        return self.limit / self.loader


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What takes most of the time, and what the user can do about it."""

    bound: Kind
    advice: str


def judge(parts: Parts) -> Verdict:
    """Return what takes most of the time of a loader: one of `Kind`, and its advice."""
    seconds: dict[Kind, float] = {"render": parts.render, "python": parts.rest}
    if parts.disk > parts.copy + parts.decode:
        seconds["disk"] = parts.disk
    else:
        seconds |= {"copy": parts.copy, "decode": parts.decode}
    bound = max(seconds, key=lambda kind: seconds[kind])
    return Verdict(bound=bound, advice=ADVICE[bound])
