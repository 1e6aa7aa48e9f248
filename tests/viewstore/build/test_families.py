"""View sets made from others: what a break of their links must not do without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.costs.disk_space import shard_bytes
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import Cached, ViewLoader
from viewstore.store.matching import matching_rows
from viewstore.store.store import open_store
from viewstore.store.verify import verify

HEAVY = {"of": "simclr", "views": 3}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `simclr`, `heavy` of it and `quality` of both. Nobody changes it."""
    folder = tmp_path_factory.mktemp("family")
    build_small(folder / "s", write_npz(folder / "images.npz"))
    build_small(folder / "s", None, generator="heavy", settings=HEAVY)
    build_small(folder / "s", None, generator="quality", settings={"of": "simclr"})
    return folder / "s"


def test_boxes_are_not_composed_through_another_parent(family: Path, tmp_path: Path) -> None:
    """Flips of an unrelated set of the same name would mirror them."""
    shutil.copytree(family, tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "views" / "simclr")
    build_small(tmp_path / "s", None, seed=9)
    with pytest.raises(ConfigError, match="simclr is not the one that heavy was made from"):
        ViewLoader(tmp_path / "s", [Cached("heavy", then="crop")], batch_size=4)


def test_numbers_of_64_bits_are_compared_exactly(family: Path) -> None:
    store = open_store(family)
    value = int(store.view_sets["quality"].params["dhash"][3, 1])
    assert 3 in matching_rows(store, f"any(quality.dhash = {value})", ())
    with pytest.raises(ConfigError, match=f"{value + 1}"):
        matching_rows(store, f"any(quality.dhash = {value + 1})", ())


def test_small_views_are_stored_as_they_are_whatever_the_photographs(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    (tmp_path / "photos").mkdir()
    (tmp_path / "made").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (150, 120, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / "made" / f"{number}.png"
        )
    files = {"files": f"{tmp_path}/made/{{key}}"}
    source = str(tmp_path / "photos")
    built = build_small(tmp_path / "s", source, generator="import", settings=files)
    assert built.plan.form == "raw"
    assert build_small(tmp_path / "s", None, codec="params").plan.height == 16
    assert build_small(tmp_path / "s", None, generator="heavy", settings=HEAVY).plan.form == "raw"
    assert build_small(tmp_path / "s", None, generator="jigsaw", settings={}).plan.form == "jpg"


def test_a_digit_of_one_pixel_is_cut_and_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((1, 9, 3), 70, np.uint8)).save(tmp_path / "photos" / "a.png")
    settings = {"views": 3, "height": 17, "width": 17}
    build_small(
        tmp_path / "s", str(tmp_path / "photos"), generator="digits", codec="params",
        settings=settings,
    )  # fmt: skip
    assert open_store(tmp_path / "s").view_sets["digits"][0].shape == (3, 17, 17, 3)
    assert list(verify(tmp_path / "s", level="content")) == []


@pytest.mark.parametrize("generator", ["randaugment", "jigsaw"])
def test_recipes_of_operators_are_rendered_of_smaller_images_too(
    tmp_path: Path, generator: str
) -> None:
    source = write_npz(tmp_path / "images.npz", rows=4, side=160)
    settings = {"views": 2, "height": 32, "width": 32}
    build_small(tmp_path / "s", source, generator=generator, codec="params", settings=settings)
    with ViewLoader(
        tmp_path / "s", [Cached(generator, n=2)], batch_size=4, scaled_decode=True
    ) as loader:
        (batch,) = list(loader)
    assert batch.views[0].pixels.shape == (4, 3, 32, 32)


def test_params_that_were_drawn_blindly_say_nothing_of_images(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "images", 5, cut=2)
    build_small(tmp_path / "s", str(source), on_error="skip")
    blind = {"views": 2, "height": 16, "width": 16, "proof": False}
    build_small(tmp_path / "s", None, generator="moco", codec="params", settings=blind)
    with ViewLoader(tmp_path / "s", "online:cifar", batch_size=4) as loader:
        assert loader.stats()["left_out"] == 1
        (batch,) = list(loader)
    assert sorted(batch.index.tolist()) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("generator", "settings"), [("heavy", HEAVY), ("quality", {"of": "simclr"})]
)
def test_children_of_a_recipe_keep_a_row_whose_image_cannot_be_read(
    tmp_path: Path, generator: str, settings: dict[str, object]
) -> None:
    """It could be read when the recipe was built, and cannot now."""
    source = write_photographs(tmp_path / "images", 5, cut=2)
    (source / "2.jpg").unlink()
    build_small(tmp_path / "s", str(source), codec="params")
    damaged = source / "3.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-200] + bytes(200))
    with pytest.raises(FormatError, match=r"source image 3\.jpg cannot be read"):
        build_small(tmp_path / "s", None, generator=generator, settings=settings)
    built = build_small(
        tmp_path / "s", None, generator=generator, settings=settings, on_error="skip"
    )
    assert built.failed_rows == [2]
    status = open_store(tmp_path / "s").view_sets[generator].params["status"]
    assert (status[2] == 4).all()
    assert (status[[0, 1, 3]] == 1).all()


def test_a_shard_without_pixels_needs_no_room_for_them(family: Path, tmp_path: Path) -> None:
    raw = open_store(family).view_sets["simclr"].plan
    source = write_npz(tmp_path / "images.npz")
    params = build_small(tmp_path / "s", source, codec="params").plan
    assert shard_bytes(params) < shard_bytes(raw) / 4


def test_view_sets_are_made_one_from_the_other_four_deep_at_most(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz", rows=3))
    above = "simclr"
    for number in range(4):
        name = f"z{number}"
        build_small(tmp_path / "s", None, generator="heavy", view_set=name, settings={"of": above})
        above = name
    with pytest.raises(ConfigError, match="z4 would be made from z3, which 4 others were made"):
        build_small(tmp_path / "s", None, generator="heavy", view_set="z4", settings={"of": "z3"})
    with pytest.raises(ConfigError, match="source names the images"):
        build_small(
            tmp_path / "s", None, generator="heavy", view_set="y", settings={"of": "source"}
        )
