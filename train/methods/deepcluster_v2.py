"""DeepCluster-v2: each view predicts the clusters of its sample, which each epoch finds anew.

Source: arXiv:2006.09882, section 4.3 and appendix D; the memory and the heads are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.randomness import CHOICE, Op, Stream
from viewstore.train.distributed import gather_rows
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.clusters import spherical_kmeans
from viewstore.train.methods.embeddings import Emb, Embedded, unit_rows
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Views

UNKNOWN = -100  # the label of rows that were never seen
STARTS = 2  # in the place of the view of a key, plus the head; choosers of views have 0 and 1


@dataclass(frozen=True, kw_only=True)
class DeepClusterV2Settings(MethodSettings):
    """Settings of DeepCluster-v2. The defaults are those for ImageNet.

    Attributes:
        temperature: Divisor of cosines.
        prototypes: Number of clusters of each head; 100 to 500 each for CIFAR-10.
        crops_for_assign: Rows of the standard plan whose embeddings are clustered; head h
            clusters those of row h modulo their number.
        iterations: Number of times that an epoch moves its centroids.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="deepcluster-v2", target="prototype", decomposable=False, forward="per_size"
    )
    HEAD: ClassVar[Mapping[str, Any]] = {"projector": (2048, 128), "projector_last": "none"}

    temperature: float = 0.1
    prototypes: tuple[int, ...] = (3000, 3000, 3000)
    crops_for_assign: tuple[int, ...] = (0, 1)
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("prototypes", "crops_for_assign"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if not self.prototypes or min(self.prototypes) < 1:
            raise ConfigError(
                f"prototypes must be a number from 1 for each head, got {list(self.prototypes)}"
            )
        crops = self.crops_for_assign
        if not crops or min(crops) < 0 or len(set(crops)) < len(crops):
            raise ConfigError(
                f"crops_for_assign must be different numbers of views, got {list(crops)}"
            )
        if self.iterations < 1:
            raise ConfigError(f"iterations must be at least 1, got {self.iterations}")

    def make(self, network: Network, frame: Frame) -> DeepClusterV2:
        """Return DeepCluster-v2 training `network`.

        Raises:
            ConfigError: An epoch shows fewer rows than a head has prototypes, or its plans have
                fewer than `crops_for_assign` names.
        """
        check_rows(self, min(frame.num_rows, frame.epoch_samples or frame.num_rows))
        if frame.views:
            check_crops(self, frame.views)
        return DeepClusterV2(network, self, frame)


class DeepClusterV2(Method):
    """DeepCluster-v2: the embeddings are the projector's outputs, "z".

    Attributes:
        memory: The last unit embedding of each row of the store, float32 [crops, rows, D]; 0
            where there is none yet.
        prototypes: Unit centroids of all heads, one head behind the other, float32 [sum of K, D].
        assignments: Cluster of each row by each head, int64 [heads, rows]; -100 where the row has
            not been seen, which leaves it out of the loss.
    """

    memory: Tensor
    prototypes: Tensor
    assignments: Tensor

    def __init__(self, network: Network, settings: DeepClusterV2Settings, frame: Frame) -> None:
        super().__init__(network, settings.traits, frame)
        self.settings = settings
        width, rows = network.settings.projector[-1], frame.num_rows
        memory = torch.zeros(len(settings.crops_for_assign), rows, width)
        assignments = torch.full((len(settings.prototypes), rows), UNKNOWN)
        self.register_buffer("memory", memory)
        self.register_buffer("prototypes", torch.zeros(sum(settings.prototypes), width))
        self.register_buffer("assignments", assignments)

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return each row with the prototypes for its target, all at one weight.

        Raises:
            ConfigError: There are fewer rows than `crops_for_assign` names.
        """
        check_crops(self.settings, len(rows))
        pairs = [Pair(place, None, 1 / len(rows)) for place in range(len(rows))]
        return self.plan_of(views, rows, (), pairs)

    def knows(self, sample: Tensor) -> Tensor:
        """Return of which samples there are clusters, bool [B]."""
        return (self.assignments[:, sample] != UNKNOWN).all(0)

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" [M, D]."""
        return {"z": self.network(net).projector(features)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the mean over heads of the cross-entropy of a row with its clusters.

        With a partner, in the batch or by its row, the clusters are the partner's. Cosine and
        distance are those of the prototypes of these clusters. All are 0 for samples without
        clusters.
        """
        z = unit_rows(student, "z", "student")[pair.student]
        rows = plan.views.sample if pair.partner_row is None else pair.partner_row
        labels = self.assignments[:, rows]
        if pair.partner is not None:
            labels = labels[:, pair.partner]
        heads = [self._of_head(z, *head) for head in zip(self._heads(), labels, strict=True)]
        loss, cosine, squared_distance = torch.stack(heads).mean(0)
        return Scores(
            cosine=cosine,
            pull=loss,
            push=torch.zeros_like(loss),
            squared_distance=squared_distance,
            scale=0.0,
            inverse_tau=1 / self.settings.temperature,
        )

    def _heads(self) -> tuple[Tensor, ...]:
        """Return the prototypes of each head, [K, D]."""
        return torch.split(self.prototypes, list(self.settings.prototypes))

    def _of_head(self, z: Tensor, prototypes: Tensor, label: Tensor) -> Tensor:
        """Return loss, cosine and squared distance of unit rows [B, D] and labels [B], [3, B]."""
        logits = z @ prototypes.T / self.settings.temperature
        loss = F.cross_entropy(logits, label, ignore_index=UNKNOWN, reduction="none")
        own = prototypes[label.clamp(min=0)]
        known = label != UNKNOWN
        cosine = (z * own).sum(1) * known
        return torch.stack([loss, cosine, (z - own).square().sum(1) * known])

    @torch.no_grad()
    def begin_epoch(self, at: At, sweep: Callable[[], Iterator[Plan]]) -> None:
        """Cluster the memory: centroids become prototypes, and each row seen has its clusters.

        Before epoch 0 one pass over all samples fills the memory, with statistics of batches.

        Raises:
            ConfigError: Fewer rows were seen than a head has prototypes.
        """
        if at.epoch == 0:
            for plan in sweep():
                crops = [plan.students[crop] for crop in self.settings.crops_for_assign]
                found = self.encode(plan.views, crops, net="student", mode="probe")
                self._remember(plan.views.sample, unit_rows(found, "z", "student"))
        (seen,) = self.memory[0].any(1).nonzero(as_tuple=True)
        check_rows(self.settings, len(seen))
        self.assignments.fill_(UNKNOWN)
        for number, prototypes in enumerate(self._heads()):
            rows = self.memory[number % len(self.memory), seen]
            start = first_rows(seen, len(prototypes), number, at)
            clusters = spherical_kmeans(rows, rows[start], iterations=self.settings.iterations)
            prototypes.copy_(clusters.centroids)
            self.assignments[number, seen] = clusters.assignments

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Put the embeddings of the standard plans' rows for assignment into the memory."""
        for each in done:
            rows = unit_rows(each.student, "z", "student")
            base = rows[: each.plan.base_students]
            self._remember(each.plan.views.sample, base[list(self.settings.crops_for_assign)])

    def _remember(self, sample: Tensor, rows: Tensor) -> None:
        """Put unit embeddings [crops, B, D] of samples [B], of all ranks, into the memory."""
        of_samples = gather_rows(rows.transpose(0, 1))
        self.memory[:, gather_rows(sample)] = of_samples.transpose(0, 1)


def first_rows(rows: Tensor, count: int, head: int, at: At) -> Tensor:
    """Return the places, int64 [count], of different rows out of `rows` [N] that start clusters.

    Seed, epoch, head and row draw them, so that they do not depend on the order of training.
    """
    stream = Stream(at.seed, at.epoch, CHOICE)
    words = stream.words(Op.SET_CHOICE, rows.cpu().numpy(), STARTS + head)[:, :2]
    order = np.lexsort((words[:, 1], words[:, 0]))
    return torch.from_numpy(order[:count]).to(rows.device)


def check_crops(settings: DeepClusterV2Settings, views: int) -> None:
    """Raise ConfigError unless plans of so many views have those that are clustered."""
    crops = list(settings.crops_for_assign)
    if max(crops) >= views:
        raise ConfigError(
            f"crops_for_assign must be below the {views} views that train, got {crops}",
            where=f"--set method.crops_for_assign={crops}",
            fix="name fewer, or more views in --views",
        )


def check_rows(settings: DeepClusterV2Settings, rows: int) -> None:
    """Raise ConfigError unless an epoch shows as many rows as the greatest head has prototypes."""
    most = max(settings.prototypes)
    if rows < most:
        fewer = [min(each, rows) for each in settings.prototypes]
        raise ConfigError(
            "deepcluster-v2 needs a row for each prototype: an epoch shows "
            f"{rows}, fewer than {most}",
            where=f"--set method.prototypes={list(settings.prototypes)}",
            why="clusters start at different rows",
            fix=f"give --set method.prototypes={fewer}, or fewer, or train on more samples",
        )
