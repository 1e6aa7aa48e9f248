"""Quality: brightness and hashes against oracles in exact numbers, twins against a loop."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.errors import ConfigError
from viewstore.generators.contract import Sample
from viewstore.generators.scored.quality import (
    LARGEST_HASH,
    Quality,
    QualityGenerator,
    ResolvedQuality,
    brightness,
    difference_hash,
    luma_of,
    twins,
)
from viewstore.images.colours import Pixels
from viewstore.store.store import open_store

PICTURES = arrays(
    np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))
) | st.integers(1, 24).map(lambda side: np.full((side, side, 3), 200, np.uint8))


def exact_hash(pixels: Pixels) -> int:
    """Return the hash by exact fractions, pixel by pixel of each cell."""
    height, width, _ = pixels.shape
    luma = pixels.astype(int) @ np.array([299, 587, 114])

    def shares(size: int, cells: int, cell: int) -> list[tuple[int, Fraction]]:
        first, last = Fraction(cell * size, cells), Fraction((cell + 1) * size, cells)
        found = ((i, min(last, Fraction(i + 1)) - max(first, Fraction(i))) for i in range(size))
        return [(i, share) for i, share in found if share > 0]

    def mean(row: int, column: int) -> Fraction:
        return sum(
            (int(luma[y, x]) * tall * wide
             for y, tall in shares(height, 8, row)
             for x, wide in shares(width, 9, column)),
            Fraction(0),
        )  # fmt: skip

    signs = [mean(row, i + 1) > mean(row, i) for row in range(8) for i in range(8)]
    return min(int("".join("01"[sign] for sign in signs), 2), LARGEST_HASH)


@settings(deadline=None)
@given(PICTURES)
def test_a_hash_is_that_of_exact_fractions(pixels: Pixels) -> None:
    assert int(difference_hash(luma_of(pixels))) == exact_hash(pixels)


@settings(deadline=None)
@given(PICTURES)
def test_brightness_is_that_of_exact_numbers(pixels: Pixels) -> None:
    luma = [Fraction(int(v), 1000) for v in (pixels.astype(int) @ [299, 587, 114]).ravel()]
    mean = sum(luma, Fraction(0)) / len(luma)
    variance = sum(((each - mean) ** 2 for each in luma), Fraction(0)) / len(luma)
    found = brightness(luma_of(pixels))
    assert found[0] == pytest.approx(float(mean), rel=1e-6)
    assert found[1] == pytest.approx(math.sqrt(variance), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (33, 47), (224, 224), (375, 500)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (17, 3, 77), (128, 129, 130)])
def test_a_flat_picture_has_no_sign_and_no_deviation(
    size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Averages in floats differ in their last digit, which would be signs of nothing."""
    luma = luma_of(np.full((*size, 3), colour, np.uint8))
    assert int(difference_hash(luma)) == 0
    assert brightness(luma)[1] == 0


def test_a_rising_picture_has_the_largest_hash_that_is_no_fill_value() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (16, 90, 3))
    assert int(difference_hash(luma_of(np.ascontiguousarray(ramp)))) == 2**64 - 2
    assert int(difference_hash(luma_of(np.ascontiguousarray(ramp[:, ::-1])))) == 0


def test_a_hash_is_nearly_that_of_pillow_on_smooth_pictures() -> None:
    """Pillow averages to whole levels, so that signs of small differences may differ."""
    rng = np.random.Generator(np.random.Philox(2))
    differing = []
    for _ in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        smooth = coarse.resize((180, 120), Image.Resampling.BICUBIC)
        small = np.asarray(smooth.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        signs = np.packbits(small[:, 1:] > small[:, :-1])
        other = int.from_bytes(signs.tobytes(), "big")
        found = int(difference_hash(luma_of(np.asarray(smooth))))
        differing.append((found ^ other).bit_count())
    assert np.mean(differing) < 1.5
    assert max(differing) <= 6


@settings(deadline=None)
@given(
    hashes=st.lists(st.integers(0, 255) | st.sampled_from([0, 1, 3, 7]), min_size=1, max_size=8),
    bits=st.integers(0, 64),
    lost=st.integers(0, 8),
)
def test_twins_are_those_of_a_loop(hashes: list[int], bits: int, lost: int) -> None:
    made = np.arange(len(hashes)) != lost
    expected = []
    for view, one in enumerate(hashes):
        near = [
            i
            for i, other in enumerate(hashes)
            if i not in (view, lost) and (one ^ other).bit_count() <= bits
        ]
        expected.append(255 if view == lost else min(near, default=254))
    assert twins(np.array(hashes, np.uint64), made, bits).tolist() == expected


def test_no_bits_make_twins_of_equal_hashes_only() -> None:
    hashes = np.array([5, 4, 5, 5], np.uint64)
    assert twins(hashes, np.ones(4, bool), 0).tolist() == [2, 254, 0, 0]


def test_images_have_no_twin() -> None:
    names = [
        each.name for each in ResolvedQuality(of="source", described=("source",), bits=4).columns()
    ]
    assert names == ["dhash", "luma_mean", "luma_std", "status"]
    two = ResolvedQuality(of="v", described=("a", "b"), bits=4).columns()
    assert "twin" in [each.name for each in two]
    with pytest.raises(ConfigError, match=r"quality\.bits must be in \[0, 64\], got 65"):
        Quality(bits=65)


def test_a_picture_of_one_pixel_is_measured() -> None:
    settings = ResolvedQuality(of="source", described=("source",), bits=4)
    sample = Sample.of(0, np.full((1, 1, 3), 9, np.uint8))
    (rendered,) = QualityGenerator(settings).render([sample])
    assert rendered.params["luma_mean"].tolist() == [9.0]
    assert rendered.params["status"].tolist() == [1]


def test_columns_of_views_and_of_images_are_stored_and_opened(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "s", source)
    for name, of in (("of-views", "simclr"), ("quality", "source")):
        build_small(tmp_path / "s", None, generator="quality", view_set=name, settings={"of": of})
    store = open_store(tmp_path / "s")
    views, stored = store.view_sets["simclr"], store.view_sets["of-views"]
    assert (stored.kind, stored.of, stored.num_views) == ("columns", "simclr", 2)
    assert store.columns_of("simclr") == ("of-views",)
    assert store.columns_of("source") == ("quality",)
    for row in range(len(views)):
        for view in range(2):
            luma = luma_of(views[row][view])
            assert stored.params["dhash"][row, view] == difference_hash(luma)
            assert stored.params["luma_mean"][row, view] == brightness(luma)[0]
        image = store.view_sets["quality"].params["luma_std"][row, 0]
        assert image == brightness(luma_of(store.source.image(row)))[1]


def test_what_was_never_made_is_not_measured(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "images", 4, cut=2)
    for codec in ("raw", "params"):
        name = f"v-{codec}"
        build_small(tmp_path / "s", str(source), view_set=name, codec=codec, on_error="skip")
        build_small(
            tmp_path / "s", None, generator="quality", view_set=f"q-{codec}", settings={"of": name}
        )
    build_small(
        tmp_path / "s", None, generator="quality", settings={"of": "source"}, on_error="skip"
    )
    store = open_store(tmp_path / "s")
    for name in ("q-raw", "q-params", "quality"):
        params = store.view_sets[name].params
        assert params["status"][:, 0].tolist() == [1, 1, 4, 1]
        assert params["dhash"][2, 0] == 2**64 - 1
        assert np.isnan(params["luma_std"][2]).all()
    assert store.view_sets["q-raw"].params["twin"][2].tolist() == [255, 255]
