"""The ways to train whose steps are compared, in groups, and the store that all of them read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trials.world import config_of, store_of, train, with_views
from viewstore.store.store import Store
from viewstore.train.loop.checkpoint import NAME
from viewstore.train.loop.config import PretrainConfig

ENDLESS = 1_000_000  # steps: the turns end a training
GOAL = 1.05
CANDIDATES = ("online:simclr",) * 4
PLAIN = ("online:simclr",) * 2
CACHED = ("cands",) * 2


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, and the arm that its step is compared with.

    Attributes:
        views: As `--views` has them.
        strategy, given: Name of the strategy, and its settings.
        method, method_given: Likewise of the method.
        over: Name of the arm that it is divided by.
        claim: What is said of that ratio.
        goal: Greatest ratio that is asked for; None: none is.
        attacks: Views whose pixels get a gradient of their own: a backward that costs one forward.
    """

    views: tuple[str, ...]
    strategy: str = "standard"
    given: Mapping[str, Any] = field(default_factory=dict)
    method: str = "simclr"
    method_given: Mapping[str, Any] = field(default_factory=dict)
    over: str = "plain"
    claim: str = ""
    goal: float | None = None
    attacks: int = 0

    def config(self, backbone: str, batch_size: int) -> PretrainConfig:
        """Return its settings."""
        return config_of(
            *self.views,
            strategy=self.strategy,
            given=self.given,
            method=self.method,
            method_given=self.method_given,
            backbone=backbone,
            batch_size=batch_size,
            steps=ENDLESS,
        )


def _moco(claim: str, *, attacks: int = 0, **given: Any) -> Arm:  # noqa: ANN401
    strategy = "hexa" if given else "standard"
    return Arm(
        views=CACHED,
        strategy=strategy,
        given=given,
        method="moco-v2",
        method_given={"queue_size": 4096},
        claim=claim,
        attacks=attacks,
    )


def _hvp(every: int, claim: str) -> Arm:
    given = {"every": every, "log_every": 0}
    return Arm(views=CANDIDATES, strategy="hvp", given=given, claim=claim)


GROUPS: Mapping[str, Mapping[str, Arm]] = {
    "hvp": {
        "plain": Arm(views=PLAIN),
        "hvp every 1": _hvp(1, "1.64 (SimSiam RN50); 1.67 by count"),
        "hvp every 2": _hvp(2, "1.38; 1.33 by count"),
        "hvp every 3": _hvp(3, "1.32; 1.22 by count"),
        "hvp every 4": _hvp(4, "1.29; 1.17 by count"),
        "plain of cached views": Arm(views=CACHED, claim="-"),
        "hvp-cached": Arm(
            views=("cands@hard",) * 2,
            strategy="hvp",
            given={"source": "cached", "log_every": 100_000},
            over="plain of cached views",
            claim="<= 1.05 of plain (goal)",
            goal=GOAL,
        ),
    },
    "views": {
        "plain": Arm(views=PLAIN),
        "A1": Arm(
            views=("online:simclr", "gen"),
            strategy="a1",
            claim="<= 1.05 of plain (goal)",
            goal=GOAL,
        ),
        "A2, third expert view online": Arm(
            views=(*PLAIN, "online:simclr"), strategy="a2", claim="1.5 by count"
        ),
        "A2, generated view cached": Arm(
            views=(*PLAIN, "gen+flip"),
            strategy="a2",
            over="A2, third expert view online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
    },
    "dssl": {
        "plain": Arm(views=CACHED),
        "DSSL, heavy views online": Arm(
            views=(*CACHED, "ra16/0", "ra16/1"), strategy="dssl", claim="2 by count"
        ),
        "DSSL, heavy views cached raw": Arm(
            views=(*CACHED, "heavy/0", "heavy/1"),
            strategy="dssl",
            over="DSSL, heavy views online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
        "DSSL, heavy views cached as recipes": Arm(
            views=(*CACHED, "recipe/0", "recipe/1"),
            strategy="dssl",
            over="DSSL, heavy views online",
            claim="<= 1.05 of the online form (goal)",
            goal=GOAL,
        ),
        "graded": Arm(
            views=CACHED,
            strategy="graded",
            given={"align_scale": "exact"},
            claim="no forward more",
            goal=GOAL,
        ),
    },
    "hexa": {
        "plain": _moco(""),
        "adv": _moco("2.25 by count", attacks=1, a1=1.0),
        "adv, attack_bn clean": _moco("2 by count", attacks=1, a1=1.0, attack_bn="clean"),
        "cmx": _moco("1.75 by count", a1=0.0, a2=1.0),
        "adv+cmx": _moco("3 by count", attacks=1, a1=1.0, a2=1.0),
    },
}


def choose(store: Store) -> Store:
    """Choose among the candidates by a small network that has trained a step; return the store."""
    with tempfile.TemporaryDirectory() as folder:
        train(store, config_of(*CACHED, backbone="conv3", steps=1, batch_size=32), Path(folder))
        weights = {"scorer": Path(folder) / NAME}
        return with_views(store.root, "hard", "hard", codec=None, weights=weights, of="cands")


def prepare(out: Path, source: str, rows: int) -> Store:
    """Build the store that all arms read: candidates, a choice of them, generated and heavy views.

    The choice is that of a small network: what a step costs does not depend on who chose. The
    "generated" view is the source image: no generator of such images is trained here.
    """
    store = store_of(out, source, rows, views=4)
    choose(store)
    files = f"{source}:{{key}}.jpg"  # of a tar in the form of WebDataset
    with_views(out, "import", "gen", files=files, role="generated", views=1)
    with_views(out, "heavy", "heavy", of="cands", views=4)
    return with_views(out, "heavy", "recipe", codec="params", of="cands", views=4)
