"""Damaged, truncated, absent: a view is delivered right, or its batch raises."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.loaders.stores import NUM_DIGITS, SHARD_ROWS, batches_before_error, damage
from viewstore.errors import FormatError
from viewstore.files.crc_checks import Verify
from viewstore.loaders import Cached, ViewLoader
from viewstore.loaders.read.memory import keep_resident
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.store.store import Store


@pytest.fixture
def photo_copy(tmp_path: Path, photos: Store) -> Store:
    shutil.copytree(photos.root, tmp_path / "photos")
    return viewstore.open(tmp_path / "photos")


def loader(store: Store, name: str, *, n: int = 1, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 10, "shuffle": "none", "num_threads": 0, **changes}
    return ViewLoader(store, [Cached(name, n=n)], **settings)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_view_raises_at_its_batch_and_names_its_shard(copy: Store, threads: int) -> None:
    damage(copy, "hard", 35)
    with loader(copy, "hard", num_threads=threads) as damaged:
        delivered, error = batches_before_error(damaged)
    assert delivered == 3
    assert isinstance(error, FormatError)
    assert "views.npy of row 35 of hard, shard 2, does not match its CRC-32" in str(error)
    assert error.code == "VS203"
    assert "--repair --view-set hard --only 2" in str(error.fix)


def test_without_verification_damage_is_delivered_in_silence(copy: Store, digits: Store) -> None:
    """What the CRC is for: the same damage, unnoticed."""
    damage(copy, "hard", 35)
    damaged, whole = (
        next(iter(loader(store, "hard", n=4, batch_size=70, verify="off")))
        for store in (copy, digits)
    )
    changed = sum(
        int((one.pixels != other.pixels).sum())
        for one, other in zip(damaged.views, whole.views, strict=True)
    )
    assert changed == 1


def test_a_damaged_jpg_raises_at_its_batch(photo_copy: Store) -> None:
    damage(photo_copy, "jpg", 13)
    batches = loader(photo_copy, "jpg", n=2, batch_size=4)
    with pytest.raises(FormatError, match=r"v1.jpg of row 13 of jpg, shard 1, does not match"):
        list(batches)


def test_views_are_verified_at_their_first_touch_or_at_every_one(copy: Store) -> None:
    def read_twice(verify: Verify) -> Iterator[None]:
        reader = ViewSetReader(copy.view_sets["hard"], verify=verify)
        out = [np.empty((1, 12, 12, 3), np.uint8)]
        for _ in range(2):
            reader.read(np.array([20]), np.array([[1]]), out)
            yield

    first, always = read_twice("first"), read_twice("always")
    next(first)
    next(always)
    damage(copy, "hard", 20)
    next(first)
    with pytest.raises(FormatError, match="row 20 of hard"):
        next(always)


@pytest.mark.parametrize("change", [-1, -512, 512])
def test_a_shard_of_another_length_is_refused_before_it_is_mapped(copy: Store, change: int) -> None:
    """Reading a map beyond the end of its file would end the process."""
    shard = copy.view_sets["hard"].shards[1]
    shard.path.chmod(0o644)
    os.truncate(shard.path, shard.path.stat().st_size + change)
    what = "longer" if change > 0 else "shorter"
    with pytest.raises(FormatError, match=f"shard 1 of hard is {what} than its commit says"):
        list(loader(copy, "hard"))


def test_a_missing_shard_is_named(copy: Store) -> None:
    copy.view_sets["hard"].shards[4].path.unlink()
    with pytest.raises(FormatError, match="shard 4 of hard is missing"):
        list(loader(copy, "hard", tail="keep"))


def test_views_that_were_seen_do_not_vouch_for_others(photo_copy: Store) -> None:
    reader = ViewSetReader(photo_copy.view_sets["jpg"])
    out = [np.empty((21, 48, 40, 3), np.uint8)]
    others = np.delete(np.arange(22), 13)
    for view in (0, 1):
        reader.read(others, np.full((21, 1), view), out)
    damage(photo_copy, "jpg", 13)
    reader.read(others, np.ones((21, 1), np.int64), out)
    with pytest.raises(FormatError, match="row 13 of jpg"):
        reader.read(np.array([13]), np.array([[1]]), [out[0][:1]])


def test_slices_of_views_are_gathered_from_all_shards_in_any_order(digits: Store) -> None:
    views = digits.view_sets["hard"]
    rows = np.random.default_rng(0).permutation(NUM_DIGITS)
    numbers = np.stack([rows % 4, (rows + 1) % 4], axis=1)
    out = [np.empty((NUM_DIGITS, 12, 12, 3), np.uint8) for _ in range(2)]
    ViewSetReader(views).read(rows, numbers, out)
    for place, row in enumerate(rows.tolist()):
        for slot in range(2):
            assert np.array_equal(out[slot][place], views[row][numbers[place, slot]])


def test_no_rows_are_read_without_complaint(digits: Store) -> None:
    empty = np.empty((0, 12, 12, 3), np.uint8)
    none = np.empty(0, np.int64)
    reader = ViewSetReader(digits.view_sets["hard"])
    reader.read(none, none.reshape(0, 1), [empty])
    keep_resident([(reader, False)], True, ranks=1)
    assert reader.resident is not None
    while reader.resident.copy_some():
        pass
    reader.read(none, none.reshape(0, 1), [empty])  # a set of a Mix may have none of a batch


def test_params_of_the_sample_are_told_from_those_of_its_views(digits: Store) -> None:
    reader = ViewSetReader(digits.view_sets["hard"])
    rows, views = np.array([3, 60]), np.array([[1, 2, 3], [0, 1, 2]])
    boxes = reader.params("crop_box", rows, views)
    whole = digits.view_sets["hard"].params["crop_box"]
    assert boxes.shape == (2, 3, 4)
    assert np.array_equal(boxes[1, 2], whole[60, 2])


def test_columns_too_large_to_load_are_gathered_from_their_chunks(
    digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ViewSetReader(digits.view_sets["hard"])
    rows, views = np.array([3, 60, 61]), np.array([[1], [0], [3]])
    loaded = reader.params("crop_box", rows, views)
    monkeypatch.setattr("viewstore.store.params.WHOLE_BYTES", 0)
    again = ViewSetReader(viewstore.open(digits.root).view_sets["hard"])
    assert np.array_equal(again.params("crop_box", rows, views), loaded)
    assert not again.in_memory("crop_box")


def test_views_that_were_not_built_raise_unless_they_are_asked_for(partial: Store) -> None:
    with pytest.raises(FormatError, match="row 16 of some was not made: its status is 0"):
        list(loader(partial, "some"))
    with pytest.raises(FormatError, match="no view of row 16 of some was made"):
        list(loader(partial, "some", missing="resample"))


def test_fallback_delivers_black_for_what_was_never_built(partial: Store) -> None:
    built = set(range(SHARD_ROWS)) | set(range(2 * SHARD_ROWS, 3 * SHARD_ROWS))
    for batch in loader(partial, "some", missing="fallback"):
        (view,) = batch.views
        for place, row in enumerate(batch.index.tolist()):
            assert bool(view.pixels[place].any()) == (row in built)
            assert int(view.status[place]) == (row in built)


def test_rows_that_were_built_can_be_read_alone(partial: Store) -> None:
    rows = np.arange(2 * SHARD_ROWS, 3 * SHARD_ROWS)
    batches = list(loader(partial, "some", rows=rows, batch_size=16))
    assert batches[0].views[0].status.tolist() == [1] * 16
