"""Every way to the same pixels: maps, calls, memory, mirrored or not, in used buffers."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import viewstore
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.loaders.pipeline.buffers import BufferPool
from viewstore.loaders.read.memory import keep_resident
from viewstore.loaders.read.mirror import mirror_some
from viewstore.loaders.read.resident import Resident, SharedResident, resident_bytes
from viewstore.loaders.read.set_reader import ViewSetReader
from viewstore.store.store import Store

AnyResident = Resident | SharedResident | None


def whole(reader: ViewSetReader, *, mirrored: bool) -> ViewSetReader:
    reader.resident = Resident(reader, mirrored=mirrored)
    while reader.resident.copy_some():
        pass
    assert reader.resident.ready
    return reader


def readers(store: Store, name: str) -> Iterator[ViewSetReader]:
    views = store.view_sets[name]
    yield ViewSetReader(views)
    yield ViewSetReader(views, mapped=False)
    if views.codec.name == "raw":
        yield whole(ViewSetReader(views), mirrored=False)
        yield whole(ViewSetReader(views), mirrored=True)


@pytest.mark.parametrize("name", ["hard", "digits"])
@pytest.mark.parametrize("large", [False, True])
def test_every_way_gives_the_same_raw_views(
    digits: Store, name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("viewstore.loaders.read.raw.LARGE_VIEW_BYTES", 1)
        monkeypatch.setattr("viewstore.loaders.read.mirror.LARGE_VIEW_BYTES", 1)
    rng = np.random.default_rng(0)
    rows, flips = rng.permutation(70), rng.random((2, 70)) < 0.5
    numbers = np.stack([rows % 3, (rows + 1) % 3], axis=1)
    for reader in readers(digits, name):
        out = [np.empty((70, *reader.shape), np.uint8) for _ in range(2)]
        reader.read(rows, numbers, out, [flips[0], None])
        for place, row in enumerate(rows.tolist()):
            first, second = (digits.view_sets[name][row][n] for n in numbers[place])
            shown = first[:, ::-1] if flips[0][place] else first
            assert np.array_equal(out[0][place], shown)
            assert np.array_equal(out[1][place], second)


def test_jpg_views_are_the_same_by_maps_and_by_calls(photos: Store) -> None:
    rows, numbers = np.arange(22), np.zeros((22, 1), np.int64)
    found = []
    for reader in readers(photos, "jpg"):
        found.append([np.empty((22, *reader.shape), np.uint8)])
        reader.read(rows, numbers, found[-1], [rows % 2 == 0])
    assert len(found) == 2
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0][0][0], photos.view_sets["jpg"][0][0][:, ::-1])


def test_batches_do_not_change_when_the_copy_is_whole(digits: Store) -> None:
    views = "hard+flip,hard,digits+flip"
    with (
        ViewLoader(digits, views, batch_size=16, num_threads=2, resident=False) as mapped,
        ViewLoader(digits, views, batch_size=16, num_threads=2, resident=True) as resident,
    ):
        for _ in range(3):  # the copying begins after the first batch
            for one, other in zip(mapped, resident, strict=True):
                for mine, theirs in zip(one.views, other.views, strict=True):
                    assert torch.equal(mine.pixels, theirs.pixels)


def test_without_threads_a_copy_is_made_before_the_first_batch(digits: Store) -> None:
    plain = next(iter(ViewLoader(digits, "hard+flip", batch_size=64, num_threads=0)))
    loader = ViewLoader(digits, "hard+flip", batch_size=64, num_threads=0, resident=True)
    first = next(iter(loader))
    assert torch.equal(plain.views[0].pixels, first.views[0].pixels)


def test_a_damaged_view_is_never_copied(tmp_path: Path, digits: Store) -> None:
    shutil.copytree(digits.root, tmp_path / "digits")
    store = viewstore.open(tmp_path / "digits")
    damage(store, "hard", 35)
    reader = ViewSetReader(store.view_sets["hard"])
    reader.resident = Resident(reader, mirrored=False)
    while reader.resident.copy_some():
        pass
    assert not reader.resident.ready
    out = [np.empty((1, 12, 12, 3), np.uint8)]
    reader.read(np.array([34]), np.array([[0]]), out)
    with pytest.raises(FormatError, match="row 35 of hard"):
        reader.read(np.array([35]), np.array([[0]]), out)


def damage(store: Store, name: str, row: int) -> None:
    shard = store.view_sets[name].shards[row // store.shard_rows]
    offset = int(store.view_sets[name].members[row, -1]["offset"]) + 200
    shard.path.chmod(0o644)
    data = bytearray(shard.path.read_bytes())
    data[offset] ^= 1
    shard.path.write_bytes(data)


def test_copies_stay_within_the_share_of_the_memory(
    digits: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def residents(share: float, *, flipped: bool, ranks: int) -> list[AnyResident]:
        monkeypatch.setattr("viewstore.loaders.read.memory.machine_bytes", lambda: int(share))
        pairs = [(ViewSetReader(digits.view_sets[n]), flipped) for n in ("hard", "digits")]
        keep_resident(pairs, "auto", ranks=ranks)
        return [each.resident for each, _ in pairs]

    def kept(share: float, *, flipped: bool) -> list[bool | None]:
        found = residents(share, flipped=flipped, ranks=1)
        assert all(each is None or isinstance(each, Resident) for each in found)
        return [each.mirrored if isinstance(each, Resident) else None for each in found]

    sizes = [
        resident_bytes(ViewSetReader(digits.view_sets[n]), mirrored=False)
        for n in ("hard", "digits")
    ]
    assert sizes == [70 * 4 * 432, 70 * 3 * 432]
    assert kept(4 * sizes[0], flipped=False) == [False, None]
    assert kept(4 * sum(sizes) - 1, flipped=False) == [False, None]
    assert kept(4 * sum(sizes), flipped=False) == [False, False]
    assert kept(8 * sizes[0], flipped=True) == [True, None]
    assert kept(4 * sum(sizes), flipped=True) == [False, False]
    # Ranks share the copy, and so all of the share of the memory.
    shared = residents(4 * sizes[0], flipped=False, ranks=2)
    assert [type(each) for each in shared] == [SharedResident, type(None)]


def test_a_copy_that_cannot_be_made_is_refused(photos: Store, digits: Store) -> None:
    with pytest.raises(ConfigError, match="resident=True needs a complete raw view set"):
        ViewLoader(photos, "jpg", batch_size=4, resident=True)
    with pytest.raises(ConfigError, match="verify other than always"):
        ViewLoader(digits, "hard", batch_size=4, resident=True, verify="always")


def test_mirroring_some_views_leaves_the_others() -> None:
    for shape in ((5, 6, 4, 3), (3, 90, 80, 3)):
        views = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        expected = views.copy()
        expected[[0, 2]] = expected[[0, 2]][:, :, ::-1]
        mirror_some(views, np.isin(np.arange(shape[0]), [0, 2]))
        assert np.array_equal(views, expected)


def test_a_buffer_comes_back_when_the_last_tensor_on_it_dies() -> None:
    pool = BufferPool()
    pool.expect(0)
    array = pool.take((4, 8, 8, 3))
    address = array.ctypes.data
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)[1:]
    del array
    assert pool.num_spare == 0
    del tensor
    assert pool.num_spare == 1
    again = pool.take((4, 8, 8, 3))
    assert again.ctypes.data == address
    other = pool.take((4, 8, 8, 3))
    assert other.ctypes.data != address
    kept = [again, other, *(pool.take((4, 8, 8, 3)) for _ in range(3))]
    del again, other
    kept.clear()
    assert pool.num_spare == 2


def test_batches_that_are_dropped_lend_their_memory_to_later_ones(digits: Store) -> None:
    with ViewLoader(digits, "hard,simclr", batch_size=8, num_threads=2) as loader:
        addresses = set()
        for _ in range(6):
            addresses |= {batch.views[0].pixels.data_ptr() for batch in loader}
    assert len(addresses) < 12 < 6 * len(loader)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_quarantined_sample_is_black_not_valid_and_counted(
    tmp_path: Path, digits: Store, threads: int
) -> None:
    shutil.copytree(digits.root, tmp_path / "digits")
    store = viewstore.open(tmp_path / "digits")
    damage(store, "hard", 35)
    views = "hard+flip,hard+crop,online:digits"
    settings: dict[str, Any] = {"batch_size": 10, "shuffle": "none", "num_threads": threads}
    loader = ViewLoader(store, views, on_corrupt="quarantine", **settings)
    sound = ViewLoader(digits, views, **settings)
    seen = 0
    for batch, other in zip(loader, sound, strict=True):
        bad = batch.index == 35
        assert torch.equal(batch.valid, ~bad)
        for mine, theirs in zip(batch.views, other.views, strict=True):
            assert not mine.pixels[bad].any()
            assert torch.equal(mine.pixels[~bad], theirs.pixels[~bad])
        seen += int(bad.sum())
    assert seen == 1
    assert loader.stats()["corrupt_samples"] == 1
    loader.close()
    sound.close()


def test_a_source_image_that_cannot_be_read_is_quarantined(
    tmp_path: Path, photos: Store, photo_folder: Path
) -> None:
    broken = next(p for p in photo_folder.rglob("*.jpg") if photos.keys[14].endswith(p.name))
    kept = broken.read_bytes()
    try:
        broken.write_bytes(kept[:-40] + bytes(40))
        loader = ViewLoader(
            viewstore.open(photos.root),
            [Online("moco", size=24), Cached("png")],
            batch_size=22,
            num_threads=0,
            on_corrupt="quarantine",
        )
        batch = next(iter(loader))
    finally:
        broken.write_bytes(kept)
    assert batch.index[~batch.valid].tolist() == [14]
    assert not any(view.pixels[~batch.valid].any() for view in batch.views)
    assert all(view.pixels[batch.valid].any() for view in batch.views)


def test_images_are_decoded_smaller_only_where_every_crop_has_room(photos: Store) -> None:
    asked = [Online("crop", n=2, size=6)]
    plain, scaled = (
        next(
            iter(
                ViewLoader(photos, asked, batch_size=22, num_threads=0, scaled_decode=scaled_decode)
            )
        )
        for scaled_decode in (False, True)
    )
    for one, other in zip(plain.views, scaled.views, strict=True):
        assert torch.equal(one.params["crop_box"], other.params["crop_box"])
        difference = (one.pixels.int() - other.pixels.int()).abs().float()
        assert 0 < difference.mean() < 12
    assert plain.state["views"] != scaled.state["views"]


def test_memory_does_not_grow_over_epochs(digits: Store) -> None:
    def resident_pages() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    with ViewLoader(digits, "hard+flip,simclr", batch_size=8, num_threads=2) as loader:
        for _ in range(10):
            list(loader)
        before = resident_pages()
        for _ in range(20):
            for _ in loader:
                pass
        assert resident_pages() < before * 1.02
