"""SimSiam: a prediction of each view meets the other view, which gets no gradient.

Source: arXiv:2011.10566.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.methods.alignment import aligned
from viewstore.train.methods.base import Frame, Group, Method, MethodSettings
from viewstore.train.methods.embeddings import Emb
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.heads import predictor
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Scores


@dataclass(frozen=True, kw_only=True)
class SimSiamSettings(MethodSettings):
    """Settings of SimSiam.

    Attributes:
        scale: "cos" is the loss -cos, "mse" is 2 - 2 cos, the squared distance.
        predictor_hidden: Width of the predictor's hidden layer.
        fix_pred_lr: Keep the predictor's learning rate at its peak.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="simsiam", target="stopgrad", decomposable=True, forward="per_view"
    )
    HEAD: ClassVar[Mapping[str, Any]] = {"projector": (2048, 2048)}

    scale: Literal["cos", "mse"] = "cos"
    predictor_hidden: int = 512
    fix_pred_lr: bool = True

    def __post_init__(self) -> None:
        if self.scale not in ("cos", "mse"):
            raise ConfigError(f"scale must be cos or mse, got {self.scale!r}")
        if self.predictor_hidden < 1:
            raise ConfigError(f"predictor_hidden must be at least 1, got {self.predictor_hidden}")

    @property
    def traits(self) -> Traits:
        """What strategies may ask about the method with these settings."""
        return replace(self.TRAITS, scale=2.0 if self.scale == "mse" else 1.0)

    def make(self, network: Network, frame: Frame) -> SimSiam:
        """Return SimSiam training `network`."""
        return SimSiam(network, self, frame)


class SimSiam(Method):
    """SimSiam: "z" is the projector's output, "p" the prediction made of it."""

    def __init__(self, network: Network, settings: SimSiamSettings, frame: Frame) -> None:
        super().__init__(network, settings.traits, frame)
        self.settings = settings
        width = network.settings.projector[-1]
        self.predictor = predictor(width, settings.predictor_hidden, width)

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" and "p", [M, D]."""
        z = self.network(net).projector(features)
        return {"z": z, "p": self.predictor(z)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the loss of a pair, of the student's prediction and the target's projection."""
        unit = self.unit_pair(student, target, pair, ("p", "z"))
        return aligned(unit, squared=self.settings.scale == "mse")

    def groups(self) -> Iterable[Group]:
        """Return the parameters of the network, then of the predictor; all have weight decay."""
        predictor = {id(each) for each in self.predictor.parameters()}
        for of_predictor in (False, True):
            for group in super().groups():
                yield group._replace(
                    parameters=[
                        each for each in group.parameters if (id(each) in predictor) == of_predictor
                    ],
                    decay=True,
                    fixed_lr=of_predictor and self.settings.fix_pred_lr,
                )
