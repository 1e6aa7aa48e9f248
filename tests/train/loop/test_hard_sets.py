"""Training on the choices of a hard set: from a checkpoint to a run, and how far they agree."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.loop.test_commands import run, train
from tests.train.scoring.made import write_checkpoint
from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError, FormatError
from viewstore.loaders import ViewLoader
from viewstore.loaders.plan.asked import Cached
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.plan import Plan
from viewstore.train.scoring.load import load_scorer
from viewstore.train.scoring.scorer import MethodScorer
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, views_of

PAIR = ("simclr@hard", "simclr@hard")
BEHIND = ("cached:simclr",) * 4
SIMSIAM = ("--method", "simsiam")
CACHED = ("--strategy", "hvp", "--set", "strategy.source=cached")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views of 24 images, crops of them, and choices of two scorers."""
    folder = tmp_path_factory.mktemp("hard-sets")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(folder / "images.npz", images=images, labels=np.arange(24) % 2)
    out, source = folder / "s", str(folder / "images.npz")
    side = {"height": 16, "width": 16}
    build_small(out, source, view_set="simclr", settings={"views": 4, **side})
    build_small(out, None, generator="dino", settings={"views": 4, **side}, shard_rows=None)
    local = {"views": 4, "height": 8, "width": 8}
    build_small(out, None, generator="dino-local", settings=local, shard_rows=None)
    for name, of in (("simsiam", "simclr"), ("moco-v2", "simclr"), ("dino", "dino")):
        write_checkpoint(folder / name, name)
        settings: dict[str, Any] = {"of": of}
        if of == "dino":
            settings["locals"] = "dino-local"
        choose(out, folder / name, {"simsiam": "hard"}.get(name, f"by-{name}"), settings)
    crops = {"of": "dino-local", "globals": "by-dino", "choose": 2}
    choose(out, folder / "dino", "small", crops)
    return out


def choose(store: Path, scorer: Path, name: str, settings: dict[str, Any]) -> None:
    build_small(
        store, None, generator="hard", view_set=name, settings=settings, shard_rows=None,
        files={"scorer": scorer},
    )  # fmt: skip


def config_of(method: str, *views: str, **given: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=views,
        method=method_of(method, {}),
        strategy=strategy_of("hvp", {"source": "cached", **given}),
        network=NetworkSettings(backbone="conv3", projector=(16, 8)),
        steps=2,
        batch_size=8,
    )


def first_plan(store: Store, config: PretrainConfig, scorer: Path) -> Plan:
    """The plan of a first step by the method that scored the views."""
    found = load_scorer(scorer)
    assert isinstance(found, MethodScorer)
    with open_feed(store, config, num_threads=0) as feed:
        batch = next(iter(feed.loader))
        views = views_of(batch, roles=feed.roles, device=torch.device("cpu"), at=At(0, 0, 3, 6, 0))
        return config.strategy.plan(views, found.method)


@pytest.mark.parametrize(("scorer", "name"), [("simsiam", "hard"), ("moco-v2", "by-moco-v2")])
def test_the_scorer_agrees_with_its_own_choice(store: Path, scorer: str, name: str) -> None:
    """By the weights and the statistics of the build; a choice by chance rarely agrees."""
    opened, path = open_store(store), store.parent / scorer
    agreed = {}
    for choice in ("selected", "random", "easiest"):
        pick = (f"simclr@{name}.{choice}",) * 2
        config = config_of(scorer, *pick, *BEHIND, select_bn="eval", log_every=1)
        plan = first_plan(opened, config, path)
        agreed[choice] = float(plan.log["agreement"])
        assert plan.log["iou"].shape[1] == 8
    assert agreed["selected"] == 1
    assert agreed["random"] < 0.7
    assert agreed["easiest"] == 0


def test_a_run_on_cached_choices_logs_how_far_they_agree(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And how often what the model chooses overlaps least. Without candidates nothing is said."""
    views = ",".join((*PAIR, *BEHIND))
    logged = ("--set", "strategy.log_every=2", "--log", "csv", "--log-every", 1)
    more = (*SIMSIAM, *CACHED, "--steps", 4)
    train(capsys, store, "--views", views, *more, *logged, "--out", tmp_path / "compared")
    with (tmp_path / "compared" / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    said = [line["agreement"] for line in lines]
    assert [bool(each) for each in said] == [True, False, True, False]
    assert all(0 <= float(each) <= 1 for each in said if each)
    assert 0 <= float(lines[0]["min_iou_share"]) <= 1
    assert 0 <= float(lines[0]["iou"]) <= 1
    train(capsys, store, "--views", ",".join(PAIR), *more, "--out", tmp_path / "alone")
    assert (tmp_path / "alone" / "encoder.safetensors").exists()


def test_a_run_from_checkpoint_to_cached_choices_by_commands(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, choose by that run, train on the choice: what is shown is what was chosen."""
    first, out = tmp_path / "first", tmp_path / "second"
    train(
        capsys, store, "--views", "cached:simclr,cached:simclr", *SIMSIAM, "--steps", 6,
        "--out", first,
    )  # fmt: skip
    build = ("build", "--generator", "hard", "--of", "simclr", "--view-set", "own", "-j", 1)
    code, _ = run(capsys, *build, "--scorer", first / "checkpoint.safetensors", "--out", store)
    assert code == 0
    chosen = open_store(store).view_sets["own"].params
    assert (chosen["model_step"] == 6).all()
    views = "simclr@own,simclr@own"
    train(capsys, store, "--views", views, *SIMSIAM, *CACHED, "--steps", 3, "--out", out)
    loader = ViewLoader(open_store(store), views.split(","), batch_size=8)
    for batch in loader:
        rows = np.asarray(batch.index)
        shown = np.stack([np.asarray(view.view) for view in batch.views], axis=1)
        assert np.array_equal(shown, chosen["selected"][rows, 0])


def test_stacked_sets_train_the_best_combination(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ("dino@by-dino",) * 2 + ("dino-local@small",) * 2
    opened = open_store(store)
    large, small = (opened.view_sets[name].params["selected"] for name in ("by-dino", "small"))
    for batch in ViewLoader(opened, list(views), batch_size=8):
        rows = np.asarray(batch.index)
        shown = np.stack([np.asarray(view.view) for view in batch.views], axis=1)
        assert np.array_equal(shown[:, :2], large[rows, 0])
        assert np.array_equal(shown[:, 2:], small[rows, 0])
    more = ("--method", "dino", *CACHED, "--set", "method.outputs=16", "--steps", 2)
    train(capsys, store, "--views", ",".join(views), *more, "--out", tmp_path / "run")


def test_picks_that_cannot_be_are_refused_in_words(store: Path) -> None:
    opened = open_store(store)
    refused = {
        ("simclr@hard",) * 3: "pick hard.selected chooses 2 views, got 3 slots",
        ("simclr@hard.loss",) * 2: "hard has no choice 'loss'; there are easiest, min_iou, random",
        ("dino@hard",) * 2: "hard describes simclr, not dino",
        ("dino-local@small",) * 3: "pick small.selected chooses 2 views, got 3 slots",
    }
    for views, message in refused.items():
        with pytest.raises(ConfigError, match=message):
            ViewLoader(opened, list(views), batch_size=8)


def test_samples_without_a_choice_raise_or_give_way(store: Path) -> None:
    """A method of prototypes knows nothing of a sample that it has not seen."""
    write_checkpoint(store.parent / "clusters", "deepcluster-v2")
    choose(store, store.parent / "clusters", "by-clusters", {"of": "simclr"})
    opened = open_store(store)
    views = [Cached("simclr", n=2, pick="by-clusters")]
    with pytest.raises(FormatError, match=r"by-clusters\.selected chose no views of row 5"):
        list(ViewLoader(opened, views, batch_size=24))
    rows = [each.index for each in ViewLoader(opened, views, batch_size=24, missing="resample")]
    assert sorted(np.concatenate(rows).tolist()) == list(range(24))
