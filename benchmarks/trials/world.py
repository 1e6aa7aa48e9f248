"""Stores and trainings of the experiments: real images, the loop of the package, one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from viewstore.build.request import BuildRequest
from viewstore.build.roles import WeightFiles
from viewstore.build.run import build
from viewstore.progress import Silent
from viewstore.store.store import Store, open_store
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.loop.pretrain import TrainResult, pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.table import method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import strategy_of

THREADS = 1  # of the loader and of torch: the machine is shared


def store_of(out: Path, source: str, rows: int, **settings: Any) -> Store:  # noqa: ANN401
    """Return a store of the first `rows` images of a source, with a view set "cands"."""
    return with_views(out, "simclr", "cands", source=source, limit=rows, **settings)


def with_views(
    out: Path,
    generator: str,
    view_set: str,
    *,
    codec: str | None = "raw",
    source: str | None = None,
    limit: int | None = None,
    weights: WeightFiles | None = None,
    **settings: Any,  # noqa: ANN401
) -> Store:
    """Build a view set into the store at `out`, and return the store."""
    build(
        BuildRequest(
            generator=generator,
            view_set=view_set,
            out=out,
            source=source,
            limit=limit,
            codec=codec,
            files=weights or {},
            settings=settings,
            workers=THREADS,
        )
    )
    return open_store(out)


def config_of(
    *views: str,
    strategy: str = "standard",
    given: Mapping[str, Any] | None = None,
    method: str = "simclr",
    method_given: Mapping[str, Any] | None = None,
    backbone: str = "conv6",
    **settings: Any,  # noqa: ANN401
) -> PretrainConfig:
    """Return the settings of a training; `given` are those of its strategy, by name."""
    optim = OptimSettings(name="sgd", lr=settings.pop("lr", 0.06), schedule="constant")
    return PretrainConfig(
        views=views,
        method=method_of(method, dict(method_given or {})),
        strategy=strategy_of(strategy, dict(given or {})),
        network=NetworkSettings(backbone=backbone, projector=(256, 64)),
        optim=optim,
        **settings,
    )


def train(
    store: Store,
    config: PretrainConfig,
    out: Path,
    **options: Any,  # noqa: ANN401
) -> TrainResult:
    """Train to the end into the folder `out`; `options` are those of RunOptions."""
    with open_feed(store, config, num_threads=THREADS) as feed:
        return pretrain(config, feed, RunOptions(out=out, **options), Silent())
