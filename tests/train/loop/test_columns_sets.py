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
from viewstore.train.loop.pretrain import RunOptions, pretrain
from viewstore.train.losses import Negatives
from viewstore.train.methods.base import Method, Traits
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.objective import Plan
from viewstore.train.strategies.base import make_plan
from viewstore.train.strategies.standard import Standard
from viewstore.train.strategies.table import method_settings
from viewstore.train.views import ViewBatch, ViewSpec

DIM = 4
NAMES = ("teacher.feature", "flip")


@dataclass(frozen=True)
class Told:
    """A strategy that looks at what a teacher says of its two views."""

    NAME: ClassVar[str] = "told"
    NEGATIVES: ClassVar[Negatives] = "both"
    USE: ClassVar[str] = "looks at targets"
    seen: ClassVar[list[ViewBatch]] = []

    def check(self, traits: Traits) -> None:
        """Accept every method."""

    def request(self, traits: Traits, step: int) -> ViewSpec:
        """Return the wanted views, and the target of each."""
        return ViewSpec(least=2, most=2, params=NAMES)

    def plan(self, vb: ViewBatch, method: Method) -> Plan:
        """Keep the batch; pair its views."""
        self.seen.append(vb)
        return make_plan(vb, [0, 1], [(0, 1, 0.5, "total"), (1, 0, 0.5, "total")])


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
        method=method_settings("simclr", {}),
        strategy=Told(),
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
    targets = first.params["teacher.feature"]
    assert targets.shape == (2, 8, DIM)
    for slot, view in enumerate(expected):
        for place, (row, number) in enumerate(
            zip(first.index.tolist(), view.view.tolist(), strict=True)
        ):
            wanted = torch.from_numpy(feature(row, number, DIM))
            assert targets[slot, place].equal(wanted)
    assert first.params["flip"].shape == (2, 8)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (("cands", "others"), "teacher describes cands, not others"),
        (("cands", "online:flip"), "reads the column teacher.feature, which view 1"),
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
    config = replace(config_of(*views.split(",")), strategy=Standard(), missing="resample")
    with open_feed(store, config, num_threads=0) as feed:
        for batch in feed.loader:
            pairs = torch.stack([view.view for view in batch.views], dim=1).numpy()
            of_row = chosen[np.asarray(batch.index)]
            there = (of_row == pairs[:, None]).all(-1).any(-1)
            none = (of_row == 255).any((1, 2))
            assert (there | none).all()
            assert there.any()
