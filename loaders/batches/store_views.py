"""What a loader shows of one store: its rows, its slots, and what reads and renders them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from viewstore.errors import ConfigError
from viewstore.files.crc_checks import Verify
from viewstore.loaders.pipeline.clock import Clock
from viewstore.loaders.plan.asked import AnyViews, as_views
from viewstore.loaders.plan.late import late_slots
from viewstore.loaders.plan.pairs import check_follows, check_iou_pairs, check_pairs
from viewstore.loaders.plan.resolve import resolve
from viewstore.loaders.plan.rows import selected_rows
from viewstore.loaders.plan.slots import (
    CachedSlots,
    LinkedSlot,
    OnlineSlot,
    RecordedSlot,
    Slot,
    public_slots,
    recorded_slots,
)
from viewstore.loaders.plan.usable import leave_out
from viewstore.loaders.read.one_set import SetReader
from viewstore.loaders.read.reader import CachedReader
from viewstore.loaders.render.layered import Mirrored, mirrored_in_group
from viewstore.loaders.render.online import SourceImages
from viewstore.loaders.render.recipe_reader import RecipeReader
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store, open_store
from viewstore.store.view_set import ViewSet

StoreOrPath = Store | str | Path


def opened(store: StoreOrPath | Sequence[StoreOrPath]) -> tuple[list[Store], bool]:
    """Return the stores that are given or lie at paths or URLs, and whether they were a list.

    Raises:
        ConfigError: There is no store at a path, or something else was given.
    """
    if isinstance(store, str | Path):
        return [open_store(store)], False
    if not isinstance(store, Sequence):
        if not hasattr(store, "view_sets"):  # `train --source` has something else that has them
            raise ConfigError(f"a store must be a Store, a path or a URL, got {store!r}")
        return [store], False
    return [each for one in store for each in opened(one)[0]], True


@dataclass(frozen=True, kw_only=True)
class StoreViews:
    """The views that a loader shows of one store.

    Attributes:
        store: The store.
        selected: The rows that the loader goes through, ascending; None: all.
        left_out: How many rows are left out, for no view of them was made.
        cached: The slots that show view sets.
        readers: What reads the views of each of `cached`.
        mirrored: For each of `cached` which views show their box from right to left; None where
            no view does, or nothing is rendered on them.
        images: Renders views from the source images.
        online: The slots that are drawn and rendered from source images.
        recorded: The slots that show a recipe set and nothing on it: they are rendered like
            online ones, by recorded params.
        linked: The slots that are rendered on other slots, ascending.
    """

    store: Store
    selected: NDArray[np.int64] | None
    left_out: int
    cached: Sequence[CachedSlots]
    readers: Sequence[CachedReader]
    mirrored: Sequence[Mirrored | None]
    images: SourceImages
    online: Sequence[OnlineSlot]
    recorded: Sequence[RecordedSlot]
    linked: Sequence[LinkedSlot]

    @classmethod
    def open(
        cls,
        store: Store,
        views: AnyViews,
        *,
        rows: ArrayLike | None,
        where: str | None,
        verify: Verify,
        scaled_decode: bool,
        make_reader: Callable[[ViewSet], SetReader],
        clock: Clock,
    ) -> StoreViews:
        """Resolve `views` against `store`; `make_reader` makes what reads a set of pixels.

        The other arguments are those of `LoaderSettings`.

        Raises:
            ConfigError: The views, or the rows, do not fit the store.
        """
        cached, rendered = resolve(as_views(views, store.names), store)
        check_pairs(cached, store)
        check_follows(cached, public_slots(cached, rendered), store)
        check_iou_pairs(cached, rendered)
        linked = [slot for slot in rendered if isinstance(slot, LinkedSlot)]
        online = [slot for slot in rendered if not isinstance(slot, LinkedSlot)]
        under = {slot.on for slot in linked}
        shown = [each for slots in cached for each in slots.group.view_sets]
        asked = selected_rows(store, rows, where, [each.name for each in shown])
        selected, left_out = leave_out(store, asked, shown, online=bool(online))
        looks = bool(online) or any(_starts_from_images(each) for each in shown)
        images = SourceImages(
            SourceReader(store.source_table if looks else store.table, verify=verify),
            store.table.height,
            store.table.width,
            scaled=scaled_decode,
            clock=clock,
        )

        def reader_of(view_set: ViewSet) -> SetReader:
            if view_set.kind == "pixels":
                return make_reader(view_set)
            parent = None if view_set.of is None else reader_of(view_set.parent)
            return RecipeReader(view_set, images, parent, clock=clock)

        return cls(
            store=store,
            selected=selected,
            left_out=left_out,
            cached=cached,
            readers=[
                CachedReader(slots.group, [reader_of(each) for each in slots.group.view_sets])
                for slots in cached
            ],
            mirrored=[
                mirrored_in_group(store, slots.group)
                if any(slots.then) or under.intersection(slots.slots)
                else None
                for slots in cached
            ],
            images=images,
            online=online,
            recorded=recorded_slots(cached),
            linked=linked,
        )

    @property
    def num_rows(self) -> int:
        """Rows that the loader goes through."""
        return self.store.num_samples if self.selected is None else len(self.selected)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every slot, by number."""
        return public_slots(self.cached, self.rendered)

    @property
    def late(self) -> frozenset[int]:
        """The slots whose colours may be made after all else."""
        return late_slots(self.cached, self.online, self.recorded, self.linked)

    @property
    def rendered(self) -> list[OnlineSlot]:
        """The slots that are drawn and rendered: of source images, then those on other slots."""
        return [*self.online, *self.linked]

    @property
    def set_readers(self) -> Iterator[tuple[CachedSlots, SetReader, float]]:
        """What reads each view set, with its slots, and how often they show this set, of 1."""
        for slots, reader in zip(self.cached, self.readers, strict=True):
            for part, weight in zip(reader.parts, slots.group.weights, strict=True):
                yield slots, part, weight

    def close(self) -> None:
        """Close what is open."""
        for reader in self.readers:
            reader.close()


def _starts_from_images(view_set: ViewSet) -> bool:
    """Whether views are rendered from source images, or from views that are."""
    if view_set.kind != "recipe":
        return False
    return view_set.of is None or _starts_from_images(view_set.parent)
