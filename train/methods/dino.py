"""DINO: each view predicts what a slower copy of the network makes of the other large crops.

Source: arXiv:2104.14294, equations 1 to 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.distributed import all_reduce_mean
from viewstore.train.methods.base import Frame, MethodSettings
from viewstore.train.methods.ema import Averaged, check_momentum, copied, rising
from viewstore.train.methods.embeddings import Emb, Embedded, UnitPair
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.heads import PrototypeHead, draw_truncated
from viewstore.train.nets.network import Network
from viewstore.train.nets.vit import DropPath
from viewstore.train.plan import Pair, Plan, Scores
from viewstore.train.views import At

LOG_P, P = "log probabilities of student", "probabilities of target"


@dataclass(frozen=True, kw_only=True)
class DINOSettings(MethodSettings):
    """Settings of DINO. The defaults are those of ViT-S, with fewer outputs.

    Attributes:
        temperature: Divisor of the student's logits.
        teacher_temperature: Divisor of the teacher's logits; 0.07 for ViT-B.
        teacher_temperature_start: Its value in epoch 0, where it has a warm-up.
        teacher_warmup_epochs: Number of epochs in which it grows linearly; 50 for ViT-B.
        center_momentum: Share of itself that the center keeps in a step.
        momentum: Share of itself that the teacher keeps in the first step; it rises to 1.
        outputs: Number of prototypes; 65536 for ImageNet.
        frozen_epochs: Number of epochs in which the prototypes are not trained yet; 3 for ViT-B.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="dino",
        target="ema",
        decomposable=False,
        forward="per_size",
        target_roles=("global", "expert"),
    )
    HEAD: ClassVar[Mapping[str, Any]] = {
        "projector": (2048, 2048, 256),
        "projector_norm": "none",
        "activation": "gelu",
    }

    temperature: float = 0.1
    teacher_temperature: float = 0.04
    teacher_temperature_start: float = 0.04
    teacher_warmup_epochs: int = 0
    center_momentum: float = 0.9
    momentum: float = 0.996
    outputs: int = 4096
    frozen_epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("temperature", "teacher_temperature", "teacher_temperature_start"):
            check_positive(name, getattr(self, name))
        for name in ("teacher_warmup_epochs", "frozen_epochs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.center_momentum <= 1:
            raise ConfigError(f"center_momentum must be in [0, 1], got {self.center_momentum}")
        check_momentum(self.momentum)
        if self.outputs < 1:
            raise ConfigError(f"outputs must be at least 1, got {self.outputs}")

    def make(self, network: Network, frame: Frame) -> DINO:
        """Return DINO training `network`; torch's generator draws projector and prototypes."""
        return DINO(network, self, frame)


class DINO(Averaged):
    """DINO: "z" is the projector's output, "logits" are its cosines with the prototypes.

    Attributes:
        prototypes: The last layer of the student; the teacher has an average of it.
        center: Moving mean of the teacher's logits, float32 [outputs].
    """

    settings: DINOSettings
    center: Tensor

    def __init__(self, network: Network, settings: DINOSettings, frame: Frame) -> None:
        draw_truncated(network.projector)
        super().__init__(network, settings.TRAITS, frame)
        self.settings = settings
        self.prototypes = PrototypeHead(network.settings.projector[-1], settings.outputs)
        self.teacher_prototypes = copied(self.prototypes)
        self.register_buffer("center", torch.zeros(settings.outputs))
        for module in self.teacher.modules():
            if isinstance(module, DropPath):
                module.rate = 0.0  # targets come from the whole network

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and kept: the teacher."""
        return self.teacher

    def averages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Return each averaged module beside the one that it follows."""
        return [*super().averages(), (self.teacher_prototypes, self.prototypes)]

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" [M, D] and "logits" [M, outputs]."""
        z = self.network(net).projector(features)
        prototypes = self.prototypes if net == "student" else self.teacher_prototypes
        return {"z": z, "logits": prototypes(z)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the cross-entropy of a pair, from the teacher's distribution to the student's."""
        assert pair.target is not None
        wanted = self._wanted(target, plan.views.at)[pair.target]
        if pair.partner is not None:
            wanted = wanted[pair.partner]
        loss = -(wanted * self._predicted(student)[pair.student]).sum(-1)
        return self.scores(self.unit_pair(student, target, pair), loss)

    def scores(self, unit: UnitPair, loss: Tensor) -> Scores:
        """Return the scores of a pair whose loss is one whole, [B]."""
        return Scores(
            cosine=unit.cosine,
            pull=loss,
            push=torch.zeros_like(loss),
            squared_distance=unit.squared_distance,
            scale=0.0,
            inverse_tau=1 / self.settings.temperature,
        )

    def _predicted(self, student: Emb) -> Tensor:
        """Return the student's log-probabilities [rows, B, outputs]; computed once for a plan."""
        if LOG_P not in student:
            student[LOG_P] = (student["logits"] / self.settings.temperature).log_softmax(-1)
        return student[LOG_P]

    def _wanted(self, target: Emb, at: At) -> Tensor:
        """Return the teacher's probabilities [rows, B, outputs], constants, once for a plan."""
        if P not in target:
            temperature = self.teacher_temperature(at)
            target[P] = ((target["logits"].detach() - self.center) / temperature).softmax(-1)
        return target[P]

    def teacher_temperature(self, at: At) -> float:
        """Return the divisor of the teacher's logits in an epoch."""
        settings = self.settings
        return warmed(
            settings.teacher_temperature_start,
            settings.teacher_temperature,
            settings.teacher_warmup_epochs,
            at.epoch,
        )

    def momentum(self, at: At) -> float:
        """Return the share of itself that the teacher keeps in the update of a step."""
        return rising(self.settings.momentum, at)

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Move the center towards the logits of the standard plans, then the teacher."""
        logits = [each.target["logits"][: each.plan.base_targets] for each in done]
        self.move(self.center, torch.cat(logits, 1).mean((0, 1)))
        super().update(done, at)

    def move(self, center: Tensor, mean: Tensor) -> None:
        """Move a center towards the mean over all ranks of what they see."""
        momentum = self.settings.center_momentum
        center.mul_(momentum).add_(all_reduce_mean(mean), alpha=1 - momentum)

    def last_layers(self) -> Sequence[PrototypeHead]:
        """Return the layers that are not trained in the first `frozen_epochs`."""
        return [self.prototypes]

    def gradients_ready(self, at: At) -> None:
        """Cancel the gradients of the last layers while they are frozen."""
        if at.epoch < self.settings.frozen_epochs:
            for layer in self.last_layers():
                layer.weight.grad = None


def check_positive(name: str, value: float) -> None:
    """Raise ConfigError unless a setting is a number above 0."""
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be above 0, got {value}")


def warmed(start: float, end: float, epochs: int, epoch: int) -> float:
    """Return a value that goes linearly from `start` to `end` in the first `epochs`, and stays."""
    if epoch >= epochs:
        return end
    return start + (end - start) * epoch / max(1, epochs - 1)
