"""Choosers on what a loader delivers: candidates of a store, with boxes, and colours made late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import viewstore
from tests.loaders.stores import digits_store
from tests.train.world import make_method
from viewstore.errors import ConfigError
from viewstore.progress import Silent
from viewstore.store.store import Store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.distributed import Ranks
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.pretrain import pretrain
from viewstore.train.loop.run import Run, RunOptions
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.plan import Plan
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, views_of

ALONE = Ranks(0, 1, torch.device("cpu"))
FOUR = ("online:simclr",) * 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("choosers") / "digits"
    return viewstore.open(digits_store(root, limit=32).root)


def config_of(name: str, *views: str, **settings: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=views,
        method=method_of("simclr", {}),
        strategy=strategy_of(name, settings),
        network=NetworkSettings(backbone="conv3", projector=(16, 8)),
        steps=3,
        batch_size=8,
        size=16,
    )


def first_plan(store: Store, config: PretrainConfig) -> Plan:
    at = At(0, 0, 4, 4, config.seed)
    with open_feed(store, config, num_threads=0) as feed:
        batch = next(iter(feed.loader))
        views = views_of(batch, roles=feed.roles, device=torch.device("cpu"), at=at)
        return config.strategy.plan(views, make_method(SimCLRSettings()))


@pytest.mark.parametrize("colours", ["one", "none"])
def test_what_is_trained_on_has_its_own_colours(store: Store, colours: str) -> None:
    late = first_plan(store, config_of("hvp", *FOUR, select_colors=colours))
    own = first_plan(store, config_of("hvp", *FOUR))
    assert late.views.colourless == ()
    for one, other in zip(late.views.pixels, own.views.pixels, strict=True):
        assert (one.int() - other.int()).abs().max() <= 2  # as the loader's colours on a device
    assert not late.log["losses"].allclose(own.log["losses"])


def test_a_memory_is_filled_by_views_with_their_own_colours(store: Store, tmp_path: Path) -> None:
    def shown(**settings: Any) -> list[Plan]:  # noqa: ANN401
        config = config_of("hvp", *FOUR, allow_per_view=True, **settings)
        method = method_of("deepcluster-v2", {"prototypes": (4,)})
        config = replace(config, method=method)
        with open_feed(store, config, num_threads=0) as feed:
            run = Run(config, feed, RunOptions(out=tmp_path), ALONE)
            return list(run._sweep())

    for late, own in zip(shown(select_colors="none"), shown(), strict=True):
        assert late.views.colourless == ()
        for one, other in zip(late.views.pixels, own.views.pixels, strict=True):
            assert (one.int() - other.int()).abs().max() <= 2


@pytest.mark.parametrize("name", ["hvp", "standard"])
def test_clusters_of_views_that_do_not_train_are_refused_before_data_is_read(
    store: Store, tmp_path: Path, name: str
) -> None:
    settings = {"allow_per_view": True} if name == "hvp" else {}
    config = config_of(name, *FOUR, **settings)
    clusters = method_of("deepcluster-v2", {"prototypes": (4,), "crops_for_assign": (0, 2)})
    config = replace(config, method=clusters)
    with open_feed(store, config, num_threads=0) as feed:
        unread = replace(feed, loader=None)  # type: ignore[arg-type]
        if name == "standard":
            assert Run(config, unread, RunOptions(out=tmp_path), ALONE).method.traits.name
            return
        with pytest.raises(ConfigError, match=r"below the 2 views that train, got \[0, 2\]"):
            Run(config, unread, RunOptions(out=tmp_path), ALONE)


def test_views_that_are_stored_with_their_colours_can_have_no_others(store: Store) -> None:
    config = config_of("hvp", *["hard"] * 4, select_colors="none")
    with (
        pytest.raises(ConfigError, match="those of hard cannot have others") as caught,
        open_feed(store, config, num_threads=0),
    ):
        pass
    assert "--codec params" in str(caught.value.fix)


@pytest.mark.parametrize("name", ["hvp", "min_iou"])
def test_the_overlap_of_online_crops_is_logged(store: Store, name: str) -> None:
    log = first_plan(store, config_of(name, *FOUR)).log
    assert log["iou"].shape == (6, 8)
    assert ((log["iou"] >= 0) & (log["iou"] <= 1)).all()
    least = log["iou"].gather(0, log["chosen"][None])[0] == log["iou"].amin(0)
    assert log["min_iou"].equal(least & log["min_iou"])


@pytest.mark.parametrize("name", ["hvp", "cooperative", "random", "min_iou"])
def test_a_run_with_a_chooser_ends(store: Store, tmp_path: Path, name: str) -> None:
    config = config_of(name, *FOUR)
    with open_feed(store, config, num_threads=0) as feed:
        result = pretrain(config, feed, RunOptions(out=tmp_path), Silent())
    assert result.steps == 3
    assert result.encoder.exists()
