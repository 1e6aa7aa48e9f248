"""Training with columns sets: joined targets reach a strategy, and picks the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import viewstore
from tests.loaders.families import family_store
from tests.loaders.told import feature, tell
from tests.train.loop.test_commands import train
from viewstore.errors import ConfigError
from viewstore.progress import Silent
from viewstore.store.store import Store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.pretrain import pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.base import Method
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.plan import Row
from viewstore.train.strategies.base import Strategy
from viewstore.train.strategies.standard import Standard
from viewstore.train.views import Views

DIM = 4
NAMES = ("teacher.feature", "flip")


@dataclass(frozen=True)
class Told(Standard):
    """A chooser that looks at what a teacher says of its two views."""

    NAME: ClassVar[str] = "told"
    seen: ClassVar[list[Views]] = []

    @property
    def columns(self) -> tuple[str, ...]:
        """The target of each view, and a column of its own."""
        return NAMES

    def rows(self, views: Views, method: Method) -> tuple[Row, ...]:
        """Keep the batch; pair its views."""
        self.seen.append(views)
        return super().rows(views, method)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits of 8 px, 6 views of each, features of them, and pairs of each of 3 groups."""
    out = tmp_path_factory.mktemp("told") / "store"
    family_store(out, {"cands": 6, "others": 2})
    tell(out, "hard", "cands", groups=3, choose=2, salt=1)
    return tell(out, "teacher", "cands", dim=DIM)


def config_of(*views: str) -> PretrainConfig:
    return PretrainConfig(
        views=views,
        method=method_of("simclr", {}),
        strategy=Strategy(Told()),
        network=NetworkSettings(backbone="conv3", projector=(8, 4)),
        steps=2,
        batch_size=8,
    )


def test_a_strategy_gets_the_targets_of_the_views_it_is_shown(store: Store, tmp_path: Path) -> None:
    Told.seen.clear()
    config = config_of("cands", "cands")
    with open_feed(store, config, num_threads=0) as feed:
        expected = feed.loader.batch(0, 0).views  # type: ignore[attr-defined]
        pretrain(config, feed, RunOptions(out=tmp_path / "run", device="cpu"), Silent())
    first = Told.seen[0]
    targets = [first.column("teacher.feature", view) for view in (0, 1)]
    assert targets[0].shape == (8, DIM)
    for slot, view in enumerate(expected):
        for place, (row, number) in enumerate(
            zip(first.sample.tolist(), view.view.tolist(), strict=True)
        ):
            wanted = torch.from_numpy(feature(row, number, DIM))
            assert targets[slot][place].equal(wanted)
    assert first.column("flip", torch.tensor([0, 1] * 4)).shape == (8,)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (("cands", "others"), "teacher describes cands, not others"),
        (("cands", "online:flip"), "reads the column teacher.feature, which flip lacks"),
    ],
)
def test_views_without_targets_are_refused(
    store: Store, tmp_path: Path, views: tuple[str, ...], message: str
) -> None:
    config = config_of(*views)
    with (
        pytest.raises(ConfigError, match=message),
        open_feed(store, config, num_threads=0) as feed,
    ):
        pretrain(config, feed, RunOptions(out=tmp_path / "run", device="cpu"), Silent())


def test_the_command_trains_on_views_that_were_picked(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pick goes into the views of the run: rows of which nothing was chosen give way."""
    views = "cands@hard,cands@hard.selected"
    more = ("--steps", 3, "--out", tmp_path / "run", "--missing", "resample")
    result = train(capsys, store.root, "--views", views, *more)
    assert (result["steps"], result["views"]) == (3, views.split(","))
    assert np.isfinite(result["loss"])
    chosen = np.asarray(viewstore.open(store.root).view_sets["hard"].params["selected"])
    config = replace(
        config_of(*views.split(",")), strategy=Strategy(Standard()), missing="resample"
    )
    with open_feed(store, config, num_threads=0) as feed:
        for batch in feed.loader:
            pairs = torch.stack([view.view for view in batch.views], dim=1).numpy()
            of_row = chosen[np.asarray(batch.index)]
            there = (of_row == pairs[:, None]).all(-1).any(-1)
            none = (of_row == 255).any((1, 2))
            assert (there | none).all()
            assert there.any()
