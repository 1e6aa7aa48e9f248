"""MoCo-v2: one view is told from a queue of earlier keys by its match with another view's key.

Source: arXiv:2003.04297; the queue arXiv:1911.05722.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.distributed import gather_rows, world_size
from viewstore.train.methods.base import Frame, Group, MethodSettings
from viewstore.train.methods.ema import Averaged, check_momentum
from viewstore.train.methods.embeddings import Emb, Embedded, unit_rows
from viewstore.train.methods.shuffle import restored, shuffled
from viewstore.train.methods.traits import Mode, Net, Statistics, Traits
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Views


@dataclass(frozen=True, kw_only=True)
class MoCoV2Settings(MethodSettings):
    """Settings of MoCo-v2. The defaults are those for CIFAR-10; ImageNet's stand behind them.

    Attributes:
        temperature: Divisor of cosines; 0.2 for ImageNet.
        queue_size: Number of keys in the queue, a multiple of the batch size; 65536 for ImageNet.
        momentum: Share of itself that the network of the keys keeps in a step; 0.999 for ImageNet.
        symmetric: Of two views, train both directions at half weight, and not the first view alone.
        cutmix_keys: What a mixed view is told apart with in each of its two terms: its "own" key
            and the queue, or the keys of "both" samples and the queue.
    """

    TRAITS: ClassVar[Traits] = Traits(
        name="moco-v2", target="ema", negatives="queue", decomposable=True, forward="per_view"
    )
    HEAD: ClassVar[Mapping[str, Any]] = {"projector": (2048, 128), "projector_norm": "none"}

    temperature: float = 0.1
    queue_size: int = 4096
    momentum: float = 0.99
    symmetric: bool = False
    cutmix_keys: Literal["own", "both"] = "own"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if self.queue_size < 1:
            raise ConfigError(f"queue_size must be at least 1, got {self.queue_size}")
        check_momentum(self.momentum)
        if self.cutmix_keys not in ("own", "both"):
            raise ConfigError(f"cutmix_keys must be own or both, got {self.cutmix_keys!r}")

    @property
    def traits(self) -> Traits:
        """What strategies may ask about the method with these settings."""
        return replace(self.TRAITS, scale=1 / self.temperature, inverse_tau=1 / self.temperature)

    def make(self, network: Network, frame: Frame) -> MoCoV2:
        """Return MoCo-v2 training `network`; its first queue is drawn by torch's generator.

        Raises:
            ConfigError: The queue does not hold a whole number of batches.
        """
        check_queue(self.queue_size, frame.batch_size)
        return MoCoV2(network, self, frame)


class MoCoV2(Averaged):
    """MoCo-v2: the embeddings are the projector's outputs, "z".

    Where several processes train, keys are embedded with shuffling batch norm.

    Attributes:
        queue: Unit keys, float32 [K, D].
        pointer: Place of the oldest key, which is replaced next, int64 [].
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, network: Network, settings: MoCoV2Settings, frame: Frame) -> None:
        super().__init__(network, settings.traits, frame)
        self.settings = settings
        keys = torch.randn(settings.queue_size, network.settings.projector[-1])
        self.register_buffer("queue", F.normalize(keys, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return the pair of the first and the second row; of more, every ordered pair."""
        if len(rows) == 2 and not self.settings.symmetric:
            return self.plan_of(views, rows[:1], rows[1:], [Pair(0, 0)])
        return super().standard(views, rows)

    def head(self, features: Tensor, net: Net) -> Emb:
        """Return "z" [M, D]."""
        return {"z": self.network(net).projector(features)}

    def encode(
        self,
        views: Views,
        rows: Sequence[Row],
        *,
        net: Net,
        mode: Mode,
        statistics: Statistics | None = None,
    ) -> Emb:
        """Return the embeddings of rows, float32 [rows, B, ...], as `Method.encode` does."""
        if net == "student" or world_size() == 1:
            return super().encode(views, rows, net=net, mode=mode, statistics=statistics)
        exchanged, moved = shuffled(views, rows)
        emb = super().encode(exchanged, moved, net=net, mode=mode, statistics=statistics)
        return restored(emb, views)

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the parts of the cross-entropy of a pair: its key among the keys of the queue."""
        unit = self.unit_pair(student, target, pair)
        tau, cosine = self.settings.temperature, unit.cosine
        keys = [cosine[:, None]]
        mixed_with = plan.students[pair.student].mixed_with
        if mixed_with is not None and self.settings.cutmix_keys == "both":
            both = (unit.target_row, unit.target_row[mixed_with])
            keys = [(unit.student * key).sum(1, keepdim=True) for key in both]
        similarity = torch.cat([*keys, unit.student @ self.queue.T], 1) / tau
        return Scores(
            cosine=cosine,
            pull=-cosine / tau,
            push=similarity.logsumexp(1),
            squared_distance=unit.squared_distance,
            scale=1 / tau,
            inverse_tau=1 / tau,
        )

    def momentum(self, at: At) -> float:
        """Return the share of itself that the teacher keeps in the update of a step."""
        return self.settings.momentum

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Put the keys of the standard plans into the queue, then move the network of the keys.

        They are in the order of the targets, each of all ranks and of their micro-batches.
        """
        of_each = [unit_rows(each.target, "z", "target")[: each.plan.base_targets] for each in done]
        by_sample = gather_rows(torch.cat(of_each, 1).transpose(0, 1))
        self._enqueue(by_sample.transpose(0, 1).flatten(0, 1))
        super().update(done, at)

    def _enqueue(self, keys: Tensor) -> None:
        keys = keys[-len(self.queue) :]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.pointer.add_(len(keys)).remainder_(len(self.queue))

    def groups(self) -> Iterable[Group]:
        """Return the parameters that are trained; all have weight decay."""
        return [group._replace(decay=True) for group in super().groups()]


def check_queue(size: int, batch_size: int) -> None:
    """Raise ConfigError unless a queue holds a whole number of batches."""
    if batch_size and size % batch_size:
        fewer = size // batch_size * batch_size
        fitting = [str(each) for each in (fewer, fewer + batch_size) if each]
        raise ConfigError(
            f"queue_size must be a multiple of the batch size {batch_size}, got {size}",
            where=f"--set method.queue_size={size} --batch-size {batch_size}",
            why="each step replaces the oldest keys by those of a batch",
            fix=f"give --set method.queue_size={' or '.join(fitting)}",
        )
