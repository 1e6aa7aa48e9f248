"""Stages of strategies on what a loader delivers: heavy views, boxes, attacks, and their runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import viewstore
from tests.loaders.families import family_store
from tests.loaders.stores import digits_store
from tests.train.world import make_method
from viewstore.errors import ConfigError, StoppedError
from viewstore.loaders.plan.asked import Cached, Online
from viewstore.loaders.plan.slots import Slot
from viewstore.progress import Silent
from viewstore.store.store import Store
from viewstore.train.encoder_file import load_encoder
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import attacks_of_others, older_rounds, open_feed
from viewstore.train.loop.pretrain import pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.overlap import ioa
from viewstore.train.plan import Plan
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, views_of

TWO = ("online:simclr", "online:simclr")
HEAVY = (*TWO, "ra16/0", "ra16/1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("stages") / "digits"
    return viewstore.open(digits_store(root, limit=32).root)


def config_of(name: str, *views: str, method: str = "simsiam", **given: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=views,
        method=method_of(method, {"queue_size": 16} if method == "moco-v2" else {}),
        strategy=strategy_of(name, given),
        network=NetworkSettings(backbone="conv3", projector=(16, 8)),
        steps=4,
        batch_size=8,
        size=16,
    )


def first_plan(store: Store, config: PretrainConfig) -> Plan:
    at = At(0, 0, 4, 4, config.seed)
    with open_feed(store, config, num_threads=0) as feed:
        batch = next(iter(feed.loader))
        views = views_of(batch, roles=feed.roles, device=torch.device("cpu"), at=at)
        return config.strategy.plan(views, make_method(config.method))


def run(store: Store, config: PretrainConfig, out: Path, **options: Any) -> Path:  # noqa: ANN401
    with open_feed(store, config, num_threads=0) as feed:
        return pretrain(config, feed, RunOptions(out=out, **options), Silent()).encoder


def test_online_heavy_views_are_drawn_to_the_views_that_they_are_rendered_on(store: Store) -> None:
    plan = first_plan(store, config_of("dssl", *HEAVY))
    assert [(plan.students[p.student].view, plan.targets[p.target or 0].view) for p in plan.pairs][
        2:
    ] == [(2, 0), (3, 1)]
    assert plan.views.role == ("expert", "expert", "heavy", "heavy")


def test_heavy_views_that_crop_again_are_graded_by_boxes_in_the_sample(store: Store) -> None:
    names = ("online:dssl-byol", "online:dssl-byol", "dssl-byol-heavy/0", "dssl-byol-heavy/1")
    plan = first_plan(store, config_of("dssl,graded", *names, align_scale="exact"))
    boxes = [plan.views.column("crop_box", view) for view in range(4)]
    for parent, heavy in ((0, 2), (1, 3)):
        inside = ioa(boxes[heavy], boxes[parent])
        torch.testing.assert_close(inside, torch.ones(8), rtol=1e-5, atol=0)
        assert (boxes[heavy] != boxes[parent]).any(1).sum() > 4  # some crops are whole views
    # So that each heavy view is to be all like its parent, and the two crops are not.
    expected = [ioa(boxes[s], boxes[t]) / 0.5 for s, t in ((1, 0), (0, 1), (2, 0), (3, 1))]
    psi = torch.stack(expected).clamp(max=1)
    assert float(plan.log["psi"]) == pytest.approx(float(psi.mean()), abs=1e-6)
    assert float(psi.mean()) < 1


RUNS = [
    ("dssl", HEAVY, {"soft": 0.1}),
    ("hvp,dssl", (*TWO * 2, *(f"ra16/{slot}" for slot in range(4))), {}),
    ("graded", TWO, {"align_scale": "exact", "lambda": 0.3}),
    ("hexa", TWO, {"a2": 1, "cutmix_on": "both"}),
]


@pytest.mark.parametrize(("name", "views", "given"), RUNS)
@pytest.mark.parametrize("method", ["simclr", "moco-v2"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    store: Store,
    tmp_path: Path,
    name: str,
    views: tuple[str, ...],
    given: dict[str, Any],
    method: str,
) -> None:
    config = config_of(name, *views, method=method, **given)
    whole = run(store, config, tmp_path / "whole")
    count = iter(range(10))
    with pytest.raises(StoppedError):
        run(store, config, tmp_path / "parts", stop=lambda: next(count) == 1)
    parts = run(store, config, tmp_path / "parts")
    assert whole.read_bytes() == parts.read_bytes()
    encoder = load_encoder(whole)
    assert not any(".adv." in key for key in encoder.network.state_dict())


def test_the_record_of_a_run_has_settings_by_the_names_that_are_given() -> None:
    record = config_of("graded", *TWO, **{"lambda": 0.3}).to_json()["strategy"]
    assert record["lambda"] == 0.3
    assert not [name for name in record if name.endswith("_")]


def test_a_changed_scale_is_refused_before_data_is_read(store: Store) -> None:
    with (
        pytest.raises(ConfigError, match="graded with align_scale paper") as caught,
        open_feed(store, config_of("graded", *TWO), num_threads=0),
    ):
        pass
    assert "use --set strategy.align_scale=exact" in str(caught.value.fix)


def slot_of(name: str, role: str, kind: Any = "cached") -> Slot:  # noqa: ANN401
    return Slot(
        number=0,
        kind=kind,
        name=name,
        policy="",
        then=None,
        roles=(role,),
        height=8,
        width=8,
        channels=3,
        columns=(),
    )


def test_whoever_trains_on_an_older_round_is_told_of_the_newest(tmp_path: Path) -> None:
    store = family_store(tmp_path / "s", {"cands": 2, "cands-r2": 2})
    older, newest = slot_of("cands", "expert"), slot_of("cands-r2", "expert")
    assert older_rounds(store, [older, slot_of("simclr", "expert")]) == (
        "views of cands are shown, and cands-r2 was made since by newer weights",
    )
    for slots in ([newest], [older, newest], [slot_of("cands|cands-r2", "expert")]):
        assert older_rounds(store, slots) == ()


def test_whoever_trains_on_choices_of_an_older_round_is_told_of_the_newest(tmp_path: Path) -> None:
    store = family_store(tmp_path / "s", {"cands": 2, "cands-r2": 2})
    picked = [Cached("simclr", n=2, pick="cands-r1.selected"), Online("simclr")]
    (told,) = older_rounds(store, [slot_of("simclr", "expert")], picked)
    assert told == "views of cands are shown, and cands-r2 was made since by newer weights"
    newest = [Cached("simclr", n=2, pick="cands"), Cached("simclr", pick="random")]
    assert older_rounds(store, [slot_of("simclr", "expert")], newest) == ()


def test_whoever_trains_is_told_of_attacks_on_other_networks(store: Store, tmp_path: Path) -> None:
    weights = [SimpleNamespace(sha256="0123456789abcdef"), SimpleNamespace(sha256="f" * 16)]
    view_sets = {
        "adv": SimpleNamespace(
            plan=SimpleNamespace(weights=weights), params={"model_step": np.array([-1, 700])}
        ),
        "old": SimpleNamespace(plan=SimpleNamespace(weights=[]), params={}),
    }
    slots = [slot_of("old", "adversarial"), slot_of("adv", "adversarial"), slot_of("x", "expert")]
    first, second = attacks_of_others(cast(Store, SimpleNamespace(view_sets=view_sets)), slots)
    assert "views of adv were attacked against the weights 0123456789ab, ffffffffffff" in first
    assert "of step 700, " in first
    assert "of an unknown file of an unknown step" in second

    class Told(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    config = config_of("standard", *TWO)
    with open_feed(store, config, num_threads=0) as feed:
        assert feed.warnings == ()
        pretrain(config, replace(feed, warnings=(first,)), RunOptions(out=tmp_path), Told())
    assert told == [first]
