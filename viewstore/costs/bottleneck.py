"""What bounds the loading of views, from times that were measured apart. Pure.

A sample takes so many seconds of all cores in the loader. Of these, what a bare loop needs for
copying or decoding its views is known, and how long it rendered; the rest is its own Python.
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
    """Seconds that one sample takes, all cores at work.

    Attributes:
        loader: In the loader.
        copy, decode: What a bare loop over the same views needs; 0 where there are none.
        disk: To read its bytes, if they do not stay in memory; else 0.
        render: In the loader, for crops, flips and colours; 0 where there are none.
    """

    loader: float
    copy: float = 0.0
    decode: float = 0.0
    disk: float = 0.0
    render: float = 0.0

    @property
    def limit(self) -> float:
        """Seconds of a loader that costs nothing: disk and cores work at the same time."""
        return max(self.copy + self.decode, self.disk)

    @property
    def rest(self) -> float:
        """Seconds that neither a bare loop, nor the disk, nor rendering explains."""
        return max(0.0, self.loader - self.limit - self.render)

    @property
    def share_of_limit(self) -> float:
        """How much of the possible rate the loader reaches; may pass 1 by noise."""
        return self.limit / self.loader


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What takes most of the time, and what to do about it."""

    bound: Kind
    advice: str


def judge(parts: Parts) -> Verdict:
    """Return what bounds a loader."""
    seconds: dict[Kind, float] = {"render": parts.render, "python": parts.rest}
    if parts.disk > parts.copy + parts.decode:
        seconds["disk"] = parts.disk
    else:
        seconds |= {"copy": parts.copy, "decode": parts.decode}
    bound = max(seconds, key=lambda kind: seconds[kind])
    return Verdict(bound=bound, advice=ADVICE[bound])
