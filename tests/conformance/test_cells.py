"""Every cell of the matrix trains for real: on CIFAR-10, through the loader and the whole loop."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.test_methods import REFUSED
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.progress import Silent
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.pretrain import pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import STRATEGIES, strategy_of

SAMPLES, BATCH = 24, 8
PAIR, CROPS = "cifar,cifar", "dino,dino,dino-local,dino-local"
# What each strategy is fed with: views of one size, or crops where the method takes those.
WORDS: dict[str, tuple[str, str]] = {
    "standard": (PAIR, CROPS),
    "a1": ("cifar,import", CROPS),
    "a2": (f"{PAIR},import", "dino,dino,import"),
    "dssl": (f"{PAIR},ra16/0,ra16/1", "dino,dino,ra16/0,ra16/1"),
    "graded": (PAIR, CROPS),
    "hexa": (PAIR, CROPS),
    "viewmaker": ("source,source", CROPS),
    "stn": ("source", "source"),
    **dict.fromkeys(
        ("hvp", "cooperative", "random", "min_iou"),
        (f"{PAIR},{PAIR}", "dino,dino,dino,dino,dino-local,dino-local"),
    ),
}
GIVEN: dict[str, dict[str, Any]] = {"graded": {"align_scale": "exact"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "moco-v2": {"queue_size": 2 * BATCH},
    "dino": {"outputs": 64},
    "ibot": {"outputs": 64},
    "deepcluster-v2": {"prototypes": (4, 5)},
}
CROPPED = ("dino", "ibot")
REFUSED_HERE = {cell for cell in REFUSED if cell[1] in STRATEGIES}
CELLS = [cell for cell in itertools.product(METHODS, STRATEGIES) if cell not in REFUSED_HERE]


@pytest.fixture(scope="module")
def store(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """24 images of CIFAR-10, and the images themselves as generated views."""
    out = tmp_path_factory.mktemp("cells") / "store"
    tar = str(shared / "data" / "cifar10" / "test.tar")
    build(
        BuildRequest(
            generator="import",
            out=out,
            source=tar,
            limit=SAMPLES,
            settings={"files": f"{tar}:{{key}}.jpg"},
            workers=1,
        )
    )
    return open_store(out)


def config_of(method: str, strategy: str) -> PretrainConfig:
    network = {**METHODS[method].HEAD, "backbone": "conv3"}
    network["projector"] = (32,) * (len(network["projector"]) - 1) + (16,)
    if method == "ibot":
        network |= {"backbone": "vit-ti", "patch": 8}
    words = WORDS[strategy][method in CROPPED].split(",")
    if method == "ibot":  # as in its runs with hard views: no local crops
        words = [word for word in words if word != "dino-local"]
    return PretrainConfig(
        views=tuple(words),
        method=method_of(method, SETTINGS.get(method, {})),
        strategy=strategy_of(strategy, GIVEN.get(strategy, {})),
        network=NetworkSettings(**network),
        steps=4,
        batch_size=BATCH,
    )


def test_every_strategy_has_views() -> None:
    assert WORDS.keys() == STRATEGIES.keys()


@pytest.mark.parametrize(("method", "strategy"), CELLS)
def test_a_cell_trains_on_cifar(store: Store, tmp_path: Path, method: str, strategy: str) -> None:
    """Four steps: into a second epoch, in which DeepCluster-v2 clusters once more."""
    config = config_of(method, strategy)
    with open_feed(store, config, num_threads=0) as feed:
        result = pretrain(config, feed, RunOptions(out=tmp_path), Silent())
    assert result.steps == 4
    assert len(result.history) == 1
    assert math.isfinite(result.loss)
    assert result.encoder.exists()
