"""Source images of online views are checked as often as the loader's `verify` says."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.files.crc_checks import Verify
from viewstore.loaders import Batch, Online, ViewLoader
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store

NUM_IMAGES = 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files without a checksum of their own: a changed pixel is decoded like any other."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.ppm")
    return folder


@pytest.fixture
def store(tmp_path: Path, source: Path) -> Store:
    settings = {"views": 1, "height": 4, "width": 4}
    out = tmp_path / "store"
    build(BuildRequest(generator="moco", out=out, source=str(source), settings=settings, workers=1))
    return viewstore.open(out)


def loader(store: Store, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 2, "shuffle": "none", "num_threads": 0, **changes}
    return ViewLoader(store, [Online("crop", n=2, size=8)], **settings)


def spoil(path: Path) -> None:
    """Change the last pixel."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("verify", "checks"),
    [("first", [NUM_IMAGES, 0, 0]), ("always", [NUM_IMAGES] * 3), ("off", [0, 0, 0])],
)
def test_an_image_is_checked_at_its_first_touch_at_every_one_or_never(
    store: Store, verify: Verify, checks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def crc32(data: bytes, value: int = 0) -> int:
        checked.append(len(data))
        return whole(data, value)

    whole = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", crc32)
    epochs = loader(store, verify=verify)
    found = []
    for _ in range(3):
        checked.clear()
        list(epochs)
        found.append(len(checked))
    assert found == checks


def test_moving_to_another_seed_forgets_no_check(store: Store, source: Path) -> None:
    """A loader makes its batches anew then, and reads the same images."""
    first = loader(store)
    list(first)
    spoil(source / "7.ppm")
    first.load_state_dict(loader(store, seed=1).state_dict())
    list(first)


def test_images_that_were_seen_do_not_vouch_for_others(store: Store, source: Path) -> None:
    batches = iter(loader(store))
    next(batches)
    spoil(source / "3.ppm")
    with pytest.raises(FormatError, match=r"3\.ppm cannot be read"):
        next(batches)


def test_an_image_that_was_refused_is_refused_again(store: Store, source: Path) -> None:
    spoil(source / "0.ppm")
    batches = loader(store)
    for _ in range(2):
        with pytest.raises(FormatError, match=r"0\.ppm cannot be read"):
            next(iter(batches))


def test_only_always_sees_damage_after_the_first_touch(store: Store, source: Path) -> None:
    def after_damage(verify: Verify) -> Batch:
        again = loader(store, verify=verify)
        whole = next(iter(again))
        again.seek(0, 0)
        spoil(source / "1.ppm")
        try:
            found = next(iter(again))
        finally:
            spoil(source / "1.ppm")  # the same bit: whole again
        assert whole.index.equal(found.index)
        return found

    after_damage("off")
    after_damage("first")
    with pytest.raises(FormatError, match=r"1\.ppm cannot be read"):
        after_damage("always")


@pytest.mark.parametrize("verify", ["first", "always", "off"])
def test_an_image_of_another_size_is_refused_even_unchecked(
    store: Store, source: Path, verify: Verify
) -> None:
    """Its crop boxes were drawn for the size that the store recorded."""
    again = loader(store, verify=verify)
    list(again)
    Image.new("RGB", (24, 21)).save(source / "4.ppm")
    with pytest.raises(FormatError, match=r"4\.ppm cannot be read"):
        list(again)


def test_an_unknown_verify_is_refused_though_no_view_is_cached(store: Store) -> None:
    with pytest.raises(ConfigError, match="verify must be first, always or off, got 'once'"):
        loader(store, verify="once")


def test_a_reader_that_was_sent_to_a_process_checks_as_often(store: Store, source: Path) -> None:
    spoil(source / "2.ppm")
    unchecked = pickle.loads(pickle.dumps(SourceReader(store.table, verify="off")))
    assert unchecked.image(2).shape == (20, 24, 3)
    with pytest.raises(FormatError, match=r"2\.ppm cannot be read"):
        pickle.loads(pickle.dumps(store.source)).image(2)
