"""The five workloads: what every contender has to deliver. Pure; peers' Pythons import it too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["raw", "jpg", "online"]


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Slots that show random resized crops, ratio 3/4 to 4/3, flipped with probability .5.

    Attributes:
        n: Slots.
        side: Height and width of a view.
        scale: Least and greatest area, as a share of the image.
    """

    n: int
    side: int
    scale: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is delivered: uint8, channels last in memory, shuffled anew every epoch.

    Attributes:
        kind: "raw" and "jpg" show cached views, flipped with probability .5; "online" crops.
        data: Folder of its data; workloads may share one.
        samples: A multiple of the batch, so that nobody drops any.
        cached: Views of each sample in the cache.
        side: Height and width of the cached views.
        from_disk: Whether the page cache is emptied before every epoch.
    """

    name: str
    title: str
    kind: Kind
    data: str
    samples: int
    batch_size: int
    cached: int = 0
    side: int = 0
    crops: tuple[Crops, ...] = ()
    from_disk: bool = False

    @property
    def slots(self) -> int:
        """Views of each sample in a batch."""
        return 2 if self.kind != "online" else sum(crop.n for crop in self.crops)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each slot's views."""
        if self.kind != "online":
            return (self.side,) * self.slots
        return tuple(crop.side for crop in self.crops for _ in range(crop.n))


WORKLOADS = {
    each.name: each
    for each in (
        Workload(
            name="A",
            title="cached raw 32 px, 2 of 8 views, flip",
            kind="raw",
            data="small",
            samples=20_480,
            batch_size=512,
            cached=8,
            side=32,
        ),
        Workload(
            name="B",
            title="2 online 224 px crops of JPEG, flip",
            kind="online",
            data="photos",
            samples=2_048,
            batch_size=128,
            crops=(Crops(n=2, side=224, scale=(0.2, 1.0)),),
        ),
        Workload(
            name="C",
            title="cached 224 px JPEG, 2 views, flip",
            kind="jpg",
            data="jpg",
            samples=2_048,
            batch_size=128,
            cached=2,
            side=224,
        ),
        Workload(
            name="D",
            title="cached raw 224 px, 2 views, flip",
            kind="raw",
            data="raw",
            samples=2_048,
            batch_size=128,
            cached=2,
            side=224,
        ),
        Workload(
            name="D-disk",
            title="D, page cache emptied before each epoch",
            kind="raw",
            data="raw",
            samples=2_048,
            batch_size=128,
            cached=2,
            side=224,
            from_disk=True,
        ),
        Workload(
            name="E",
            title="2 global 224 px + 8 local 96 px online crops",
            kind="online",
            data="photos",
            samples=1_024,
            batch_size=64,
            crops=(
                Crops(n=2, side=224, scale=(0.4, 1.0)),
                Crops(n=8, side=96, scale=(0.05, 0.4)),
            ),
        ),
    )
}

VIEW_SET = "views"  # of the cached views
CHECKED = 64  # samples whose pixels are compared before anything is timed
CHECK_DATA = "check"


def checked(workload: Workload) -> Workload:
    """Return the workload whose pixels are compared.

    Cached views are found in the cache whatever view a contender chose. Random crops cannot be
    compared, so online views show whole square images.
    """
    if workload.kind != "online":
        return replace(workload, from_disk=False)
    crops = tuple(replace(crop, scale=(1.0, 1.0)) for crop in workload.crops)
    return replace(workload, data=CHECK_DATA, samples=CHECKED, batch_size=CHECKED // 4, crops=crops)


def ratio_of(crop: Crops) -> tuple[float, float]:
    """Return least and greatest width / height of a crop box."""
    return (1.0, 1.0) if crop.scale == (1.0, 1.0) else (3 / 4, 4 / 3)
