"""Near duplicates: groups against brute force, and data on which a naive way would end nowhere."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError
from viewstore.generators.scored.duplicates import Duplicates, bands, lowest_alike
from viewstore.loaders import Cached, ViewLoader
from viewstore.store.store import open_store
from viewstore.store.verify import verify

Hashes = NDArray[np.uint64]


def by_brute_force(hashes: Hashes, bits: int) -> list[int]:
    """Return the lowest place of each connected component, by labels that spread."""
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= bits
    lowest = np.arange(len(hashes))
    while True:
        spread = np.where(near, lowest, len(hashes)).min(axis=1, initial=len(hashes))
        if (spread == lowest).all():
            break
        lowest = spread
    sizes = np.bincount(lowest, minlength=len(hashes))
    return np.where(sizes[lowest] > 1, lowest, -1).tolist()


def related(count: int, seed: int) -> Hashes:
    """Return hashes of which many are others with a few bits flipped, in chains."""
    rng = np.random.Generator(np.random.Philox(seed))
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for row in range(count // 3, count):
        flips = rng.integers(0, 64, rng.integers(0, 7)).tolist()
        mask = sum(1 << bit for bit in set(flips))
        hashes[row] = hashes[rng.integers(0, row)] ^ np.uint64(mask)
    return rng.permutation(hashes)


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_groups_are_those_of_brute_force(bits: int) -> None:
    hashes = related(1500, seed=bits)
    found = lowest_alike(hashes, bits).tolist()
    assert found == by_brute_force(hashes, bits)
    assert -1 in found
    assert len(set(found)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_groups_of_ten_thousand_are_those_of_brute_force(bits: int) -> None:
    hashes = related(10_000, seed=bits)
    assert lowest_alike(hashes, bits).tolist() == by_brute_force(hashes, bits)


@given(
    hashes=st.lists(
        st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda bit: 1 << bit) | st.just(0),
        max_size=40,
    ),
    bits=st.integers(0, 8),
)
def test_groups_of_any_hashes_are_those_of_brute_force(hashes: list[int], bits: int) -> None:
    array = np.array(hashes, np.uint64)
    assert lowest_alike(array, bits).tolist() == by_brute_force(array, bits)


@given(st.sets(st.integers(0, 63), max_size=8))
def test_two_hashes_agree_in_a_band_wherever_they_differ(differing: set[int]) -> None:
    mask = sum(1 << bit for bit in differing)
    bits = max(len(differing), 1)
    assert any(int(band) & mask == 0 for band in bands(bits))


def test_two_bits_more_are_another_picture() -> None:
    hashes = np.array([0, 0b1111, 0b11111 << 20], np.uint64)
    assert lowest_alike(hashes, 4).tolist() == [0, 0, -1]
    assert lowest_alike(hashes, 3).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "hashes",
    [
        np.zeros(100_000, np.uint64),
        np.arange(100_000, dtype=np.uint64) % np.uint64(3),
        np.repeat(related(1000, 1), 100),
    ],
    ids=["identical", "three", "a hundred of each"],
)
def test_many_equal_pictures_take_neither_time_nor_memory(hashes: Hashes) -> None:
    """Their pairs are 5e9. The limits are a hundred times what it takes."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = lowest_alike(hashes, 4)
    assert (found >= 0).all()
    assert time.process_time() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def write_pictures(folder: Path) -> str:
    """Write nine pictures: 1, 4 and 7 are one, 8 is nearly it, 3 cannot be read."""
    folder.mkdir()
    for number in range(9):
        same = number in (1, 4, 7, 8)
        rng = np.random.Generator(np.random.Philox(100 if same else number))
        coarse = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((90, 80), Image.Resampling.NEAREST)
        if number == 8:
            picture = picture.point(lambda level: min(255, level + 1))
        picture.save(folder / f"{number}.png")
    path = folder / "3.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of nine rows in three shards, with duplicates; quality was built for them."""
    folder = tmp_path_factory.mktemp("duplicates")
    source = write_pictures(folder / "images")
    build_small(folder / "s", source, shard_rows=3, on_error="skip")
    built = build_small(
        folder / "s", None, generator="duplicates", settings={}, on_error="skip", shard_rows=None
    )
    assert [each.plan.view_set for each in built.before] == ["quality"]
    return folder / "s"


def test_near_duplicates_of_a_store_have_the_lowest_row_of_their_group(store: Path) -> None:
    opened = open_store(store)
    found = opened.view_sets["duplicates"]
    assert found.params["duplicate"].tolist() == [-1, 1, -1, -2, 1, -1, -1, 1, 1]
    assert found.params["x_extra"].tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 1]
    assert found.params["status"][:, 0].tolist() == [1, 1, 1, 4, 1, 1, 1, 1, 1]
    assert (found.plan.reach, found.plan.links["parent"]["view_set"]) == ("set", "quality")
    assert list(verify(store, level="content")) == []


def test_what_is_about_columns_describes_what_those_do(store: Path) -> None:
    opened = open_store(store)
    assert opened.columns_of("source") == ("duplicates", "quality")
    assert opened.columns_of("quality") == ("duplicates",)
    assert opened.columns_of("simclr") == ()


def test_a_loader_leaves_near_duplicates_out(store: Path) -> None:
    """One of each group is kept, or none."""
    for where, rows in (
        ("duplicates.x_extra = 0 and not duplicates.status = 4", [0, 1, 2, 5, 6]),
        ("duplicates.duplicate = -1", [0, 2, 5, 6]),
    ):
        with ViewLoader(
            str(store), [Cached("simclr")], batch_size=2, where=where, tail="keep"
        ) as loader:
            assert sorted(row for batch in loader for row in batch.index.tolist()) == rows


def test_settings_that_cannot_be_are_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"duplicates\.bits must be in \[0, 8\], got 9"):
        Duplicates(bits=9)
    with pytest.raises(ConfigError, match=r"duplicates\.of must be a view set that measured"):
        Duplicates(of="source")
    with pytest.raises(ConfigError, match="hashes of the images, which simclr does not have"):
        build_small(
            store, None, generator="duplicates", view_set="d", settings={"of": "simclr"},
            shard_rows=None,
        )  # fmt: skip
