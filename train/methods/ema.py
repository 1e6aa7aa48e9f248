"""The target net of methods that learn from a slower copy of their own network."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from viewstore.errors import ConfigError
from viewstore.train.methods.base import Frame, Method
from viewstore.train.methods.embeddings import Embedded
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import Network
from viewstore.train.views import At

M = TypeVar("M", bound=nn.Module)


class Averaged(Method):
    """A method whose targets come from an exponential moving average of the student.

    Attributes:
        teacher: The averaged network, which starts as the student and gets no gradients.
    """

    def __init__(self, network: Network, traits: Traits, frame: Frame) -> None:
        super().__init__(network, traits, frame)
        self.teacher = copied(network)

    def network(self, net: Net) -> Network:
        """Return the student, or the teacher for the target side."""
        return self.student if net == "student" else self.teacher

    @abstractmethod
    def momentum(self, at: At) -> float:
        """Return the share of itself that the teacher keeps in the update of a step."""

    def averages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Return each averaged module beside the one that it follows."""
        return [(self.teacher, self.student)]

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Move the teacher towards the student; queues and centres are updated before."""
        momentum = self.momentum(at)
        for averaged, trained in self.averages():
            for old, new in zip(averaged.parameters(), trained.parameters(), strict=True):
                old.mul_(momentum).add_(new.detach(), alpha=1 - momentum)


def check_momentum(momentum: float) -> None:
    """Raise ConfigError unless it is a share that an average may keep of itself."""
    if not 0 <= momentum <= 1:
        raise ConfigError(f"momentum must be in [0, 1], got {momentum}")


def copied(module: M) -> M:
    """Return a copy of a module that is not trained."""
    return copy.deepcopy(module).requires_grad_(False)


def rising(start: float, at: At) -> float:
    """Return a momentum that rises from `start` to 1 along half a cosine over the run."""
    done = at.step / max(1, at.total_steps)
    return 1 - (1 - start) * (math.cos(math.pi * done) + 1) / 2
