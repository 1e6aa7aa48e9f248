"""One process of a training: `train_rank.py STORE OUT CASE`, with what torchrun sets.

A case is a method, or "viewmaker": SimCLR against the network that makes its views.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

import viewstore
from viewstore.progress import Silent
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.distributed import joined
from viewstore.train.loop.feed import open_feed
from viewstore.train.loop.pretrain import pretrain
from viewstore.train.loop.run import RunOptions
from viewstore.train.methods.table import METHODS, method_of
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import strategy_of

SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {},
    "barlow-twins": {},
    "moco-v2": {"queue_size": 16},
    "viewmaker": {},
}


def config_of(case: str) -> PretrainConfig:
    """Return a run of a network without batch norms: its samples meet in the loss alone."""
    made = case == "viewmaker"
    method = "simclr" if made else case
    head = {**METHODS[method].HEAD, "projector": (16, 8), "projector_norm": "none"}
    return PretrainConfig(
        views=("source", "source") if made else ("online:cifar", "online:cifar"),
        method=method_of(method, SETTINGS[case]),
        strategy=strategy_of("viewmaker" if made else "standard", {}),
        network=NetworkSettings(backbone="vit-ti", patch=8, **head),
        steps=3,
        batch_size=8,
        size=16,
    )


def train(store: Path, out: Path, case: str) -> None:
    """Train as one of the processes that the environment tells of."""
    torch.set_num_threads(1)
    config = config_of(case)
    with joined(os.environ, "cpu"), open_feed(viewstore.open(store), config, num_threads=0) as feed:
        options = RunOptions(out=out, checkpoint_seconds=1e9, log=("csv",), log_every=1)
        pretrain(config, feed, options, Silent())


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
