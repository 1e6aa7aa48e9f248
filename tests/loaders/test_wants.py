"""Slots that depend on the step: what is not wanted is not made, and nothing else changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Mix, Online, ViewDataset, ViewLoader, keep_batch
from viewstore.loaders.batches.batch import Batch, View
from viewstore.loaders.read.reader import CachedReader
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store

SEED = 3
STEPS = 3  # of an epoch of the kindred store
KINDRED = [
    Cached("simclr", n=2),  # recipes of the images
    Cached("heavy", follow=0),  # rendered on the pixels of slot 0
    Cached("heavy", follow=1, then="flip"),  # by a reader of its own
    Cached("stored"),
    Online("moco", size=20),
    Online("ra16", on=5),
    Online("crop", on=6, size=16),
    Cached("stored", then="crop", size=10),
]
MIXED = [Mix({"digits": 1, "hard": 2}, n=2), Online("simclr"), Online("flip", on=1), Cached("hard")]


def every(steps: int, slots: Sequence[int]) -> Callable[[int], Sequence[int] | None]:
    """Want all slots at every so many steps, else these."""
    return lambda step: None if step % steps == 0 else slots


def make(store: Any, views: Any, wants: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    plain = {"batch_size": 8, "num_threads": 0, "seed": SEED}
    return ViewLoader(store, views, wants=wants, **plain | changes)


def same(one: View, other: View) -> bool:
    """Whether two views are alike to the last bit, params and all."""
    return (
        one.pixels.equal(other.pixels)
        and one.status.equal(other.status)
        and one.view.equal(other.view)
        and one.parent.equal(other.parent)
        and (one.role, one.source, one.parent_slot) == (other.role, other.source, other.parent_slot)
        and list(one.params) == list(other.params)
        and all(
            np.array_equal(one.params[name].numpy(), other.params[name].numpy(), equal_nan=True)
            for name in one.params
        )
    )


def check(batch: Batch, whole: Batch, wanted: Sequence[int] | None) -> None:
    """Assert that a batch has the wanted views of the whole one, and nothing of the others."""
    assert batch.index.equal(whole.index)
    assert batch.state == whole.state
    assert len(batch.views) == len(whole.views)
    for slot, (view, full) in enumerate(zip(batch.views, whole.views, strict=True)):
        if wanted is None or slot in wanted:
            assert not view.absent
            assert same(view, full), slot
            continue
        assert view.absent
        assert view.pixels.shape == (0, *full.pixels.shape[1:])
        assert (len(view.status), len(view.view), len(view.parent), len(view.params)) == (0,) * 4
        assert (view.role, view.source) == (full.role, full.source)
        assert view.parent_slot == full.parent_slot


@settings(max_examples=40, deadline=None)
@given(wanted=st.sets(st.integers(0, 8), min_size=1), threads=st.sampled_from([0, 2]))
def test_a_step_shows_the_views_that_it_wants_and_no_others(
    kindred: Store, wanted: set[int], threads: int
) -> None:
    """Whatever a wanted slot follows or lies on, wanted or not."""
    slots = tuple(sorted(wanted))
    with (
        make(kindred, KINDRED, None) as plain,
        make(kindred, KINDRED, every(2, slots), num_threads=threads) as loader,
    ):
        for step, (batch, whole) in enumerate(zip(loader, plain, strict=True)):
            check(batch, whole, None if step % 2 == 0 else slots)


@pytest.mark.parametrize("slots", [(1,), (0, 4), (3,), (2, 3), (4,)])
@pytest.mark.parametrize("threads", [0, 3])
def test_views_of_several_sets_and_of_several_stores_may_be_wanted(
    digits: Store, slots: tuple[int, ...], threads: int
) -> None:
    for store, more in ((digits, {}), ([digits, digits], {"rates": [1.0, 0.5]})):
        with (
            make(store, MIXED, None, **more) as plain,
            make(store, MIXED, every(3, slots), num_threads=threads, **more) as loader,
        ):
            for step, (batch, whole) in enumerate(zip(loader, plain, strict=True)):
                check(batch, whole, None if step % 3 == 0 else slots)


def test_steps_are_counted_over_all_epochs_and_ahead(digits: Store) -> None:
    """As training counts them, with batches of the next epoch made before this one ends."""
    asked: list[int] = []

    def wants(step: int) -> Sequence[int] | None:
        asked.append(step)
        return (step % 2,)

    with make(digits, "hard,hard", wants, num_threads=2, batch_size=10) as loader:
        shown = [batch for _ in range(2) for batch in loader]
    assert [batch.views[step % 2].absent for step, batch in enumerate(shown)] == [False] * 14
    assert [batch.views[1 - step % 2].absent for step, batch in enumerate(shown)] == [True] * 14
    assert set(range(14)) <= set(asked)


def test_a_resumed_run_goes_on_with_the_slots_of_its_steps(kindred: Store) -> None:
    wants = every(2, (0, 2))
    with make(kindred, KINDRED, wants) as loader:
        whole = [batch for _ in range(2) for batch in loader]
    for stop in range(2 * STEPS - 1):
        with make(kindred, KINDRED, wants, num_threads=1) as loader:
            loader.load_state_dict(whole[stop].state)
            check(next(iter(loader)), whole[stop + 1], None if (stop + 1) % 2 == 0 else (0, 2))
    with make(kindred, KINDRED, wants) as loader:
        check(loader.batch(1, 1), whole[STEPS + 1], None)


@pytest.mark.parametrize(
    ("wanted", "decoded", "read"),
    [
        ((0,), True, []),  # a recipe: of the image
        ((4,), False, [4]),
        ((8,), False, [8]),
        ((7,), True, []),  # on 6, on 5
        ((3,), True, [3]),
        (None, True, [3, 4, 8]),
    ],
)
def test_what_is_not_wanted_is_neither_read_nor_rendered(
    kindred: Store,
    monkeypatch: pytest.MonkeyPatch,
    wanted: tuple[int, ...] | None,
    decoded: bool,
    read: list[int],
) -> None:
    images: list[int] = []
    shapes: list[tuple[str, int]] = []
    decode, real = SourceReader.decode, CachedReader.read

    def recording(self: SourceReader, row: int, *rest: Any) -> Any:  # noqa: ANN401
        images.append(row)
        return decode(self, row, *rest)

    def counting(self: CachedReader, rows: Any, views: Any, out: Any, *rest: Any) -> None:  # noqa: ANN401
        shapes.append((self.group.name, len(out)))
        real(self, rows, views, out, *rest)

    monkeypatch.setattr(SourceReader, "decode", recording)
    monkeypatch.setattr(CachedReader, "read", counting)
    with make(kindred, KINDRED, lambda _: wanted) as loader:
        batch = next(iter(loader))
    assert bool(images) is decoded
    sets = {3: "heavy", 4: "stored", 8: "stored"}
    assert sorted(name for name, _ in shapes) == sorted(sets[slot] for slot in read)
    assert sum(count for _, count in shapes) == len(read)
    assert len(batch.index) == 8


def test_a_step_without_some_slots_is_that_of_a_loader_without_them(digits: Store) -> None:
    """Bit for bit, also where images are decoded as small as the slots that are shown allow."""
    for scaled in (False, True):
        with (
            make(digits, "online:simclr", None, scaled_decode=scaled) as two,
            make(digits, [Online("simclr", n=4)], lambda _: (0,), scaled_decode=scaled) as four,
        ):
            for one, other in zip(two, four, strict=True):
                assert same(one.views[0], other.views[0])


def test_a_batch_moves_normalises_and_pickles_without_absent_views(digits: Store) -> None:
    with make(digits, [Online("simclr", n=2), Cached("hard")], lambda _: (0,)) as loader:
        batch = pickle.loads(pickle.dumps(next(iter(loader))))
        stats = loader.stats()
    moved = batch.to("cpu")
    assert [view.absent for view in moved.views] == [False, True, True]
    assert [len(x) for x in moved.normalised()] == [8, 0, 0]
    assert stats["bytes"] == batch.views[0].pixels.numel()


@pytest.mark.parametrize("photometric", ["device", "caller"])
def test_late_colours_leave_absent_views_alone(kindred: Store, photometric: Any) -> None:  # noqa: ANN401
    wanted = (1, 5)
    views = [Cached("simclr", n=2), Online("moco", size=20, n=4)]
    with (
        make(kindred, views, None) as plain,
        make(kindred, views, lambda _: wanted, photometric=photometric) as loader,
    ):
        for batch, whole in zip(loader, plain, strict=True):
            check(batch.to("cpu"), whole, wanted)


def first_of_two(step: int) -> Sequence[int] | None:
    return (0,) if step % 2 else None


def test_workers_make_the_batches_of_the_loader(digits: Store) -> None:
    dataset = ViewDataset(digits, "hard,hard", batch_size=16, wants=first_of_two)
    batches = DataLoader(
        dataset, batch_sampler=dataset.batches(), collate_fn=keep_batch, num_workers=1
    )
    with ViewLoader(digits, "hard,hard", batch_size=16) as plain:
        for step, (batch, whole) in enumerate(zip(batches, plain, strict=True)):
            check(batch, whole, first_of_two(step))


def test_a_damaged_image_of_a_slot_that_is_not_wanted_harms_nobody(
    kindred: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewstore.errors import FormatError

    def broken(self: SourceReader, row: int, *rest: Any) -> Any:  # noqa: ANN401
        raise FormatError(f"source image {row} cannot be read", code="VS205")

    monkeypatch.setattr(SourceReader, "decode", broken)
    for corrupt in ("raise", "quarantine"):
        with make(kindred, KINDRED, lambda _: (4,), on_corrupt=corrupt) as loader:
            assert next(iter(loader)).valid.all()
    with make(kindred, KINDRED, lambda _: (4, 5), on_corrupt="quarantine") as loader:
        batch = next(iter(loader))
    assert not batch.valid.any()
    assert not batch.views[4].pixels.any()
    assert torch.equal(batch.views[4].status, torch.ones(8, dtype=torch.uint8))


@pytest.mark.parametrize("wanted", [(), (2,), (0, -1), ("0",), [True, 5]])
def test_slots_that_are_not_there_are_refused_before_anything_is_read(
    digits: Store,
    wanted: Any,  # noqa: ANN401
) -> None:
    with pytest.raises(ConfigError, match="wants must give some of the slots 0 to 1, or None") as e:
        make(digits, "hard,hard", lambda _: wanted)
    assert "for step 0" in str(e.value)


def test_a_later_step_that_wants_no_slot_raises_at_its_batch(digits: Store) -> None:
    with make(digits, "hard,hard", lambda step: None if step < 2 else (7,)) as loader:
        batches = iter(loader)
        next(batches)
        next(batches)
        with pytest.raises(ConfigError, match=r"got \(7,\) for step 2"):
            next(batches)


def test_wants_must_be_a_function(digits: Store) -> None:
    with pytest.raises(ConfigError, match=r"wants must be a function of the step or None, got \(0"):
        make(digits, "hard,hard", (0, 1))
