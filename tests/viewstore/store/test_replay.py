"""A view made anew from its stored params is the stored view."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import ConfigError, FormatError
from viewstore.store.store import Store, open_store


def test_cut_views_are_replayed_bit_for_bit_whatever_their_codec(store: Store) -> None:
    view_set = store.view_sets["simclr"]
    for row in (0, 7, 19):
        for view in range(view_set.num_views):
            assert np.array_equal(view_set.replay(row, view), view_set[row][view])
    assert not np.array_equal(view_set.replay(7, 0), view_set[7][1])


@pytest.mark.parametrize("generator", ["moco", "dino", "dino-local", "digits"])
def test_every_policy_is_replayed_with_the_settings_of_its_plan(
    tmp_path: Path, generator: str
) -> None:
    """Views alternate between policies, have a size of their own, and a filter of their own."""
    settings = {"views": 3, "height": 48, "width": 40, "filter": "pil"}
    source = write_npz(tmp_path / "images.npz", rows=3, side=60)
    build_small(tmp_path / "s", source, generator=generator, settings=settings)
    view_set = open_store(tmp_path / "s").view_sets[generator]
    for row in range(3):
        again = np.stack([view_set.replay(row, view) for view in range(3)])
        assert np.array_equal(again, view_set[row])


@pytest.mark.parametrize("policy", ["paper3", "dino+either"])
def test_stored_operators_are_replayed_from_their_record(tmp_path: Path, policy: str) -> None:
    settings = {"policy": policy, "views": 4, "height": 40, "width": 30}
    source = write_npz(tmp_path / "images.npz", rows=3, side=60)
    build_small(tmp_path / "s", source, settings=settings)
    view_set = open_store(tmp_path / "s").view_sets["simclr"]
    for row in range(3):
        again = np.stack([view_set.replay(row, view) for view in range(4)])
        assert np.array_equal(again, view_set[row])
    numbers = view_set.params["ops"].copy()
    numbers[1, 2, 0] = 99
    view_set.params._whole["ops"] = numbers
    with pytest.raises(FormatError, match="ops of row 1 view 2 of simclr cannot be"):
        view_set.replay(1, 2)


def test_rows_and_views_that_are_not_there_are_refused(raw_store: Store) -> None:
    view_set = raw_store.view_sets["simclr"]
    with pytest.raises(IndexError, match=r"view must be in \[0, 2\), got 2"):
        view_set.replay(0, 2)
    with pytest.raises(IndexError, match=r"row must be in \[0, 20\), got -1"):
        view_set.replay(-1, 0)


def test_a_view_that_was_never_made_says_why(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("a", "b"):
        Image.fromarray(noise).save(source / f"{name}.jpg", quality=95)
    whole = (source / "b.jpg").read_bytes()
    (source / "b.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    build_small(tmp_path / "s", str(source), on_error="skip")
    store = open_store(tmp_path / "s")
    with pytest.raises(
        ConfigError, match="its source image could not be read when it was"
    ) as error:
        store.view_sets["simclr"].replay(1, 0)
    assert error.value.code == "VS208"


def test_a_network_view_without_latents_says_how_to_keep_them(searched: Path) -> None:
    views = open_store(searched).view_sets["w-search"]
    with pytest.raises(ConfigError, match="its latents were not stored") as error:
        views.replay(0, 0)
    assert "the setting keep_latents off" in str(error.value.why)
    assert "--set keep_latents=true" in str(error.value.fix)
    assert error.value.code == "VS208"


def test_a_latent_view_wants_its_network(searched: Path) -> None:
    with pytest.raises(ConfigError, match="was made by a network") as error:
        open_store(searched).view_sets["recon"].replay(0, 0)
    assert "--gan" in str(error.value.fix)
    assert error.value.code == "VS208"


def test_a_view_set_that_was_read_and_pickled_replays(raw_store: Store) -> None:
    """Columns and mapped shards stay behind: they hold locks, and all bytes of a shard."""
    read = raw_store.view_sets["simclr"]
    assert read[3].any()
    assert read.params["status"].all()
    raw = pickle.dumps(read)
    view_set = pickle.loads(raw)
    assert len(raw) < read.num_bytes
    assert np.array_equal(view_set.replay(3, 1), view_set[3][1])
    assert pickle.loads(pickle.dumps(raw_store)).view_sets["simclr"].params["status"].all()


def test_numbers_of_any_type_are_taken_and_nothing_else(raw_store: Store) -> None:
    view_set = raw_store.view_sets["simclr"]
    assert np.array_equal(view_set.replay(np.int64(3), np.uint8(1)), view_set[3][1])
    for row, view in (("3", 0), (0.5, 0), (0, None)):
        with pytest.raises(ConfigError, match="must be a number from 0, got"):
            view_set.replay(row, view)  # type: ignore[arg-type]
