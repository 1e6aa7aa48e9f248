"""The feed of a training run: how large its views are, which rows it has, what errors advise."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.store.store import Store
from viewstore.train.loop import feed as feed_module
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import strategy_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """32 digits of 8 x 8 pixels; cached views of 12 x 12."""
    root: Path = tmp_path_factory.mktemp("feed") / "digits"
    return viewstore.open(digits_store(root, limit=32).root)


def config_of(*views: str, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=views,
        method=method_of("simclr", {}),
        strategy=strategy_of("standard", {}),
        epochs=1,
        **{"batch_size": 8, **changes},
    )


def test_local_crops_keep_their_share_of_the_size(store: Store) -> None:
    config = config_of("online:dino", "online:dino-local", size=56)
    with open_feed(store, config, num_threads=0) as feed:
        assert [slot.height for slot in feed.loader.slots] == [56, 24]
        assert feed.size == 56


@pytest.mark.parametrize(("size", "heights"), [(40, [40, 24]), (None, [16, 24])])
def test_local_crops_may_have_a_size_of_their_own(
    store: Store, size: int | None, heights: list[int]
) -> None:
    config = config_of("online:dino", "online:dino-local", size=size, local_size=24)
    with open_feed(store, config, num_threads=0) as feed:
        assert [slot.height for slot in feed.loader.slots] == heights


def test_a_size_of_local_crops_that_are_not_there_is_refused(store: Store) -> None:
    with (
        pytest.raises(ConfigError, match="local_size 24 has no effect"),
        open_feed(store, config_of("online:dino", "online:dino", local_size=24)),
    ):
        pass


VIT = NetworkSettings(backbone="vit-ti", patch=8)


@pytest.mark.parametrize(
    ("views", "sizes", "patch", "message", "fix"),
    [
        (
            ("online:dino", "online:dino-local"), {"size": 32}, 8,
            "view 1, dino-local, has local crops of 14 px, which patches of 8 px do not divide",
            "give --set local_size=16, or give --set network.patch=2",
        ),
        (
            ("online:dino", "online:dino-local"), {"size": 30, "local_size": 15}, None,
            "view 0, dino, has views of 30 px, which patches of 16 px do not divide",
            "give --size 32 --set local_size=16, or give --set network.patch=15",
        ),
        (
            ("online:simclr", "hard"), {"size": 24}, 8,
            "view 1, hard, has views of 12 px, which patches of 8 px do not divide",
            "give --set network.patch=12",
        ),
    ],
)  # fmt: skip
def test_a_patch_that_does_not_divide_a_view_is_refused_before_data_is_read(
    store: Store,
    views: tuple[str, ...],
    sizes: dict[str, int],
    patch: int | None,
    message: str,
    fix: str,
) -> None:
    """And each piece of the advice works."""
    config = config_of(*views, network=replace(VIT, patch=patch), **sizes)
    with pytest.raises(ConfigError, match=message) as error, open_feed(store, config):
        pass
    assert error.value.fix == fix
    for advice in fix.split(", or "):
        values = re.findall(r"(size|local_size|patch)[ =](\d+)", advice)
        given = {name: int(value) for name, value in values}
        network = replace(config.network, **{k: v for k, v in given.items() if k == "patch"})
        changed = {name: value for name, value in given.items() if name != "patch"}
        with open_feed(store, replace(config, network=network, **changed), num_threads=0) as feed:
            assert len(feed.slots) == 2


def test_views_that_patches_divide_and_networks_without_patches_pass(store: Store) -> None:
    views = ("online:dino", "online:dino-local")
    for network in (replace(VIT, patch=2), NetworkSettings()):
        with open_feed(store, config_of(*views, size=32, network=network), num_threads=0) as feed:
            assert [slot.size for slot in feed.slots] == [32, 14]


def test_errors_advise_what_a_training_can_do(store: Store) -> None:
    views = viewstore.open(store.root)
    status = views.view_sets["hard"].params["status"].copy()
    status[:, 0] = 3
    views.view_sets["hard"].params._whole["status"] = status
    views.view_sets["hard"].stats["status"] = replace(
        views.view_sets["hard"].stats["status"], max=3.0
    )
    config = config_of("hard", "hard")
    with (
        pytest.raises(FormatError, match="of hard was not made") as error,
        open_feed(views, config, num_threads=0) as feed,
    ):
        list(feed.loader)  # type: ignore[call-overload]
    mend = f"give --missing resample, or viewstore verify {store.location} --repair --failed"
    assert error.value.fix == mend
    with open_feed(views, replace(config, missing="resample"), num_threads=0) as feed:
        assert feed.epoch_steps == 4
    with (
        pytest.raises(ConfigError, match="at most the 12 rows") as wide,
        open_feed(store, config_of("hard", "hard", batch_size=16, holdout=2, where="index < 24")),
    ):
        pass
    assert wide.value.fix == "give a smaller --batch-size"


def test_a_run_goes_on_after_another_view_set_was_built(tmp_path: Path) -> None:
    """What a run remembers of its store are its rows and the view sets that it shows."""
    out = digits_store(tmp_path / "digits", limit=16).root
    shown = []
    for name in ("first", "second"):
        with open_feed(viewstore.open(out), config_of("hard", "hard"), num_threads=0) as feed:
            shown.append(feed.shown_id)
        settings = {"height": 4, "width": 4, "views": 1}
        more = {"out": out, "view_set": name, "settings": settings, "workers": 1}
        build(BuildRequest(generator="simclr", **more))
    with open_feed(viewstore.open(out), config_of("first", "second"), num_threads=0) as feed:
        assert feed.shown_id != shown[0] == shown[1]


def test_a_batch_is_cut_into_equal_parts_of_processes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "world_size", lambda: 3)
    config = config_of("online:cifar", "online:cifar", optim=OptimSettings(accumulate=2))
    with (
        pytest.raises(ConfigError, match="multiple of 6, with 2 samples or more") as caught,
        open_feed(store, config, num_threads=0),
    ):
        pass
    assert (caught.value.where, caught.value.fix) == ("--batch-size 8", "give --batch-size 12")
    assert "uneven" not in str(caught.value)
