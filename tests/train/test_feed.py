"""The feed of a training run: how large its views are, which rows it has, what errors advise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import viewstore
from tests.loaders.stores import digits_store
from viewstore.store.store import Store
from viewstore.train.config import PretrainConfig
from viewstore.train.feed import open_feed
from viewstore.train.methods import method_settings, strategy_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """32 digits of 8 x 8 pixels; cached views of 12 x 12."""
    root: Path = tmp_path_factory.mktemp("feed") / "digits"
    return viewstore.open(digits_store(root, limit=32).root)


def config_of(*views: str, **changes: Any) -> PretrainConfig:  # noqa: ANN401
    return PretrainConfig(
        views=views,
        method=method_settings("simclr", {}),
        strategy=strategy_of("standard", {}),
        epochs=1,
        **{"batch_size": 8, **changes},
    )


def test_local_crops_keep_their_share_of_the_size(store: Store) -> None:
    config = config_of("online:dino", "online:dino-local", size=56)
    with open_feed(store, config, num_threads=0) as feed:
        assert [slot.height for slot in feed.loader.slots] == [56, 24]
        assert feed.size == 56
