"""Selection: an epoch of a training's log as columns of the store that was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.train.selections import EPOCH_STEPS, log_steps
from tests.viewstore.commands import run
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.build.repair import repair
from viewstore.errors import CheckpointError, ConfigError
from viewstore.loaders.loader import ViewLoader
from viewstore.sources.open import open_source
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify
from viewstore.train.loop.selection_log import selection_files
from viewstore.train.selection_file import Selections, load_selections, save_selections

NAME = "choices"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of views, and the log of the second epoch of a training on its images."""
    folder = tmp_path_factory.mktemp("selection")
    source = write_npz(folder / "images.npz")
    build_small(folder / "s", source)
    digest = open_source(source).table.images_digest
    steps = 2 * EPOCH_STEPS
    log_steps(folder, after=0, until=steps, rows=ROWS, source=digest, checkpoints=(steps,))
    log = selection_files(folder)[1]
    build_small(
        folder / "s", None, generator="selection", view_set=NAME, settings={}, shard_rows=None,
        files={"selection": log},
    )  # fmt: skip
    return folder / "s", log


@pytest.fixture
def store(world: tuple[Path, Path]) -> Store:
    return open_store(world[0])


@pytest.fixture
def log(world: tuple[Path, Path]) -> Selections:
    return load_selections(world[1])


def test_each_logged_sample_has_its_last_choice(store: Store, log: Selections) -> None:
    columns = store.view_sets[NAME]
    assert (columns.kind, columns.of, columns.num_views) == ("columns", "source", 1)
    assert store.columns_of("source") == (NAME,)
    params = columns.params
    last = {sample: place for place, sample in enumerate(log.sample.tolist())}
    assert len(last) < len(log) < ROWS  # some samples were logged twice, others never
    for row in range(ROWS):
        if row not in last:
            assert params["status"][row].tolist() == [1]
            assert params["x_pair"][row] == 65535
            assert np.isnan(params["x_losses"][row]).all()
            continue
        place = last[row]
        assert log.iou is not None
        losses, iou = log.losses[place].numpy(), log.iou[place].numpy()
        pair = int(losses.argmax())
        first, second = log.pairs[pair].tolist()
        expected = {
            "status": [1],
            "x_epoch": 1,
            "x_iou": iou.tolist(),
            "x_losses": losses.tolist(),
            "x_min_iou": int(iou.argmin() == pair),
            "x_min_iou_ties": int(iou[pair] == iou.min()),
            "x_pair": pair,
            "x_pair_iou": float(iou[pair]),
            "x_selected": [first, second],
            "x_step": int(log.step[place]),
        }
        assert {name: params[name][row].tolist() for name in params} == expected


def test_filters_read_the_choices(store: Store, log: Selections) -> None:
    params = store.view_sets[NAME].params
    where = f"{NAME}.x_min_iou = 1 and {NAME}.x_step >= {EPOCH_STEPS}"
    with ViewLoader(
        store, views="cached:simclr", batch_size=1, where=where, num_threads=0
    ) as loader:
        rows = sorted(int(batch.index[0]) for batch in loader)
    assert rows == np.flatnonzero(params["x_min_iou"] == 1).tolist()
    assert 0 < len(rows) < len(set(log.sample.tolist()))
    missing = matching_rows(store, f"{NAME}.x_pair is missing")
    assert set(missing.tolist()) == set(range(ROWS)) - set(log.sample.tolist())


def test_commands_build_show_and_prove_the_choices(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, log = world
    row = load_selections(log).sample[0].item()
    build = ("build", "--generator", "selection", "--view-set", "again", "--selection", log)
    for words in (
        (*build, "--out", store, "-j", "1"),
        ("inspect", store),
        ("inspect", store, str(row)),
        ("inspect", store, "--sheet", tmp_path / "a.png"),
        ("inspect", store, "--html", tmp_path / "a.html"),
        ("stats", store, "--view-set", NAME, "--column", "x_pair_iou"),
        ("verify", store, "--content"),
        ("rm", store, "again"),
    ):
        code, out, err = run(capsys, *words)
        assert code == 0, (words, err)
        if words[0] == "inspect" and words[2:] == (str(row),):
            assert f"columns {NAME}, of source" in out
            assert "x_losses" in out


def test_a_damaged_shard_is_made_again_of_the_same_log(world: tuple[Path, Path]) -> None:
    store, log = world
    path = sorted((store / "views" / NAME).rglob("*.params"))[0]
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    faults = list(verify(store))
    assert {fault.view_set for fault in faults} == {NAME}
    with pytest.raises(CheckpointError, match="planned with weights for selection"):
        repair(store, faults, workers=1)
    repair(store, faults, files={"selection": log}, workers=1)
    assert list(verify(store)) == []
    assert path.read_bytes() == good


def refused(store: Path, **changes: Any) -> ConfigError | CheckpointError:  # noqa: ANN401
    """Return the error of a build of another view set."""
    settings: dict[str, Any] = {"generator": "selection", "view_set": "x", "settings": {}}
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        build_small(store, None, shard_rows=None, **(settings | changes))
    assert not (store / "views" / "x").exists()
    return caught.value


def test_a_build_without_a_log_or_with_one_of_other_images_is_refused(
    world: tuple[Path, Path], log: Selections, tmp_path: Path
) -> None:
    store, path = world
    assert "--selection RUN/selection/epoch-" in str(refused(store).fix)
    other = tmp_path / "other.safetensors"
    save_selections(other, replace(log, source="ef" * 32))
    assert "other images than those" in str(refused(store, files={"selection": other}))
    other.write_bytes(path.read_bytes()[:100])
    refused(store, files={"selection": other})
    error = refused(store, generator="quality", files={"selection": path})
    assert "--selection cannot be given: quality takes no such" in str(error)
    missing = refused(store, files={"selection": tmp_path / "none"})
    assert (missing.fix, missing.exit_code) == ("check --selection", 2)


def test_losses_that_are_not_finite_and_boxes_that_are_not_there(
    world: tuple[Path, Path], log: Selections, tmp_path: Path
) -> None:
    losses = log.losses.clone()
    last = {sample: place for place, sample in enumerate(log.sample.tolist())}
    row, place = next(iter(last.items()))
    losses[place, 1] = float("nan")
    path = tmp_path / "odd.safetensors"
    save_selections(path, replace(log, losses=losses, iou=None))
    build_small(
        world[0], None, generator="selection", view_set="odd", settings={}, shard_rows=None,
        files={"selection": path}, on_error="skip",
    )  # fmt: skip
    params = viewstore.open(world[0]).view_sets["odd"].params
    assert params["status"][row].tolist() == [3]
    assert params["x_selected"][row].tolist() == [255, 255]
    assert [name for name in params if "iou" in name] == []
    assert np.flatnonzero(params["status"][:, 0] != 1).tolist() == [row]
    assert set(np.flatnonzero(params["x_pair"] != 65535)) == set(last) - {row}
    assert np.isnan(params["x_losses"][row]).all()
