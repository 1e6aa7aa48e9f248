"""The contract of a method: it plans pairs, embeds views and scores pairs; it knows no strategy.

A new method is one module, with frozen settings and a subclass of Method, and one row of `table`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from viewstore.train.methods.embeddings import (
    Emb,
    Embedded,
    Images,
    UnitPair,
    grouped,
    split,
    stacked,
    unit_rows,
)
from viewstore.train.methods.traits import Mode, Net, Statistics, Traits
from viewstore.train.nets.backbone import stage as output_of_stage
from viewstore.train.nets.domains import evaluating, quiet_statistics, use_domain
from viewstore.train.nets.network import Network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Preprocessing, Views


class Group(NamedTuple):
    """Parameters that the optimizer treats alike.

    `decay`: with weight decay; `fixed_lr`: the learning rate stays at its peak; `adapt`: LARS
    and LARC adapt the rate to the norm of each.
    """

    parameters: list[nn.Parameter]
    decay: bool
    fixed_lr: bool
    adapt: bool


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a method is made for, besides its settings.

    Attributes:
        prepare: The function from levels to the network's input.
        amp: Type that forwards compute in where autocast allows it; None: float32.
        num_rows: Rows of the store: `Views.sample` is below it.
        batch_size: Samples of a step, over all ranks.
        epoch_samples: Samples of an epoch, over all ranks; 0: not known.
        views: Rows of a standard plan; 0: not known.
    """

    prepare: Preprocessing
    amp: torch.dtype | None = None
    num_rows: int = 0
    batch_size: int = 0
    epoch_samples: int = 0
    views: int = 0


class Method(nn.Module):
    """A network that embeds views, and a rule that scores pairs of embeddings.

    `standard`, `encode` and `score` leave parameters, gradients, random generators and every
    buffer as they are; only forwards in the mode "train" move running statistics, those of the
    net and domain that they run. `commit` alone changes the rest of the state.

    Attributes:
        student: The network that gradients train.
        forwards: How many views were embedded so far, each of B samples.
    """

    traits: Traits

    def __init__(self, network: Network, traits: Traits, frame: Frame) -> None:
        super().__init__()
        self.student = network
        self.traits = traits
        self.prepare = frame.prepare
        self.amp = frame.amp
        self.forwards = 0
        self._committed = -1

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and kept: the student."""
        return self.student

    def take_forwards(self) -> int:
        """Return how many views were embedded since the last time it was asked."""
        taken, self.forwards = self.forwards, 0
        return taken

    def network(self, net: Net) -> Network:
        """Return the network of a side; methods with a target net override it."""
        del net
        return self.student

    def annotate(self, views: Views) -> Views:
        """Return the views with the params that the method adds to them, such as masks."""
        return views

    def knows(self, sample: Tensor) -> Tensor:
        """Return of which samples, rows of the store int64 [B], the method has targets, bool [B].

        Those of prototypes have none before they were seen.
        """
        return torch.ones_like(sample, dtype=torch.bool)

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return the method's own plan for `rows`: who learns from whom, at which weight.

        Every row learns from each other row of a target role; the weights of the pairs are equal
        and sum to 1.
        """
        wanted = self.traits.target_roles
        targets = [
            i for i, row in enumerate(rows) if not wanted or views.role_of(row.view) in wanted
        ]
        pairs = [(s, t) for t, row in enumerate(targets) for s in range(len(rows)) if s != row]
        return self.plan_of(
            views,
            rows,
            [rows[place] for place in targets],
            [Pair(s, t, 1 / len(pairs)) for s, t in pairs],
        )

    def plan_of(
        self, views: Views, students: Sequence[Row], targets: Sequence[Row], pairs: Sequence[Pair]
    ) -> Plan:
        """Return the standard plan of these rows and pairs."""
        return Plan(
            views, tuple(students), tuple(targets), tuple(pairs), len(students), len(targets)
        )

    def trunk(self, images: Images, net: Net) -> Emb:
        """Return "feat", the backbone's features [M, F], and what else comes before the head."""
        features: Tensor = self.network(net).backbone(self.prepare(images.pixels))
        return {"feat": features}

    @abstractmethod
    def head(self, features: Tensor, net: Net) -> Emb:
        """Return the embeddings [M, ...] of features [M, F], by name."""

    @abstractmethod
    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return the scores of a pair of `plan`, [B], from the embeddings of its rows."""

    def reduce(self, student: Emb, target: Emb, plan: Plan) -> Tensor:
        """Return the loss of a plan, a scalar: weighted terms, summed, averaged over samples."""
        terms = [
            pair.weight * pair.term(self.score(student, target, pair, plan)) for pair in plan.pairs
        ]
        return torch.stack(terms).sum(0).mean()

    def forward(self, plan: Plan, mode: Mode = "train") -> Embedded:
        """Return the loss of a plan with the embeddings of its rows."""
        student, target = self.both(plan, mode)
        with torch.autocast(plan.views.sample.device.type, enabled=False):
            loss = self.reduce(student, target, plan)
        return Embedded(loss, plan, student, target)

    def both(self, plan: Plan, mode: Mode, statistics: Statistics | None = None) -> tuple[Emb, Emb]:
        """Return the embeddings of a plan's students and targets, by their places.

        Without a target net, a target row that is a student row is the same forward; more rows
        may come behind those of the targets then.
        """
        student = self.encode(
            plan.views, plan.students, net="student", mode=mode, statistics=statistics
        )
        if not plan.targets:
            return student, {}
        if self.traits.target == "ema":
            with torch.no_grad():
                target = self.encode(
                    plan.views, plan.targets, net="target", mode=mode, statistics=statistics
                )
            return student, target
        return student, self._same_side(plan, student, mode, statistics)

    def _same_side(
        self, plan: Plan, student: Emb, mode: Mode, statistics: Statistics | None
    ) -> Emb:
        places = {id(row): place for place, row in enumerate(plan.students)}
        others = [row for row in plan.targets if id(row) not in places]
        target = student
        if others:
            with nullcontext() if self.traits.target == "none" else torch.no_grad():
                more = self.encode(
                    plan.views, others, net="student", mode=mode, statistics=statistics
                )
            target = {name: torch.cat([student[name], more[name]]) for name in student}
            places |= {id(row): len(plan.students) + place for place, row in enumerate(others)}
        wanted = [places[id(row)] for row in plan.targets]
        if wanted != list(range(len(wanted))):  # else the first ones are they
            target = {name: value[wanted] for name, value in target.items()}
        if self.traits.target == "none":
            return target
        return {name: value.detach() for name, value in target.items()}

    def encode(
        self,
        views: Views,
        rows: Sequence[Row],
        *,
        net: Net,
        mode: Mode,
        statistics: Statistics | None = None,
    ) -> Emb:
        """Return the embeddings of rows, float32 [rows, B, ...].

        Rows of one batch norm domain and kind are embedded together: views made within the step
        are never in one forward with others.

        Args:
            views: What the rows number.
            rows: The rows.
            net: The side whose network embeds.
            mode: "train" moves running statistics; "probe" records no gradient; "attack" records
                those of pixels. The last two move nothing.
            statistics: Of batch norms, for probes: of all rows "pooled", of each row alone
                ("per_view"), or the "running" ones; None: as the method trains.

        Raises:
            ConfigError: Views of one row differ in size.
        """
        found: dict[int, Emb] = {}
        with self._computing(views.sample.device, mode, statistics):
            for (bn, _), places in grouped(views, rows).items():
                with use_domain(self, bn):
                    for together in self._forwards(places, statistics):
                        found |= self._embed(views, rows, together, net)
        self.forwards += len(rows)
        return stacked([found[place] for place in range(len(rows))])

    def features(
        self,
        views: Views,
        rows: Sequence[Row],
        *,
        stage: int | None = None,
        statistics: Statistics | None = None,
    ) -> list[Tensor]:
        """Return what the student's backbone makes of rows, float32 [B, F] each, as a probe.

        Args:
            views: What the rows number.
            rows: The rows.
            stage: The stage of the backbone whose flattened output is taken, the last that is
                computed; None: the pooled features.
            statistics: As in `encode`.

        Raises:
            ConfigError: There is no such stage.
        """
        found: dict[int, Emb] = {}
        with self._computing(views.sample.device, "probe", statistics):
            for (bn, _), places in grouped(views, rows).items():
                with use_domain(self, bn):
                    for together in self._forwards(places, statistics):
                        found |= self._trunks(views, rows, together, "student", stage)
        self.forwards += len(rows)
        return [found[place]["feat"].float() for place in range(len(rows))]

    @contextmanager
    def _computing(
        self, device: torch.device, mode: Mode, statistics: Statistics | None
    ) -> Iterator[None]:
        """Set gradients, precision, statistics and random generators for forwards in a mode."""
        with ExitStack() as stack:
            if mode != "train":
                stack.enter_context(quiet_statistics(self))
                cuda = [device] if device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(cuda))
            if mode == "probe":
                stack.enter_context(torch.no_grad())
            if statistics == "running":
                stack.enter_context(evaluating(self))
            enabled = self.amp is not None
            stack.enter_context(torch.autocast(device.type, self.amp, enabled=enabled))
            yield

    def _forwards(self, places: list[int], statistics: Statistics | None) -> list[list[int]]:
        """Return the rows of a group that share their forwards."""
        alone = (
            self.traits.forward == "per_view" if statistics is None else statistics == "per_view"
        )
        return [[place] for place in places] if alone else [places]

    def _embed(
        self, views: Views, rows: Sequence[Row], places: list[int], net: Net
    ) -> dict[int, Emb]:
        """Return the embeddings [B, ...] of some rows by place: a trunk a size, one head."""
        trunks = self._trunks(views, rows, places, net)
        heads = self.head(torch.cat([trunks[place]["feat"] for place in places]), net)
        return {
            place: {name: value.float() for name, value in {**trunks[place], **emb}.items()}
            for place, emb in split(heads, places).items()
        }

    def _trunks(
        self,
        views: Views,
        rows: Sequence[Row],
        places: list[int],
        net: Net,
        stage: int | None = None,
    ) -> dict[int, Emb]:
        """Return what comes before the head, [B, ...] of some rows by place, each size at once."""
        pixels = {place: views.image(rows[place].view) for place in places}
        by_size: dict[int, list[int]] = defaultdict(list)
        for place in places:
            by_size[pixels[place].shape[-1]].append(place)
        trunks: dict[int, Emb] = {}
        for same in by_size.values():
            images = Images(
                torch.cat([pixels[place] for place in same]),
                {
                    name: torch.cat([views.column(name, rows[place].view) for place in same])
                    for name in self.traits.reads
                },
                views.at,
            )
            if stage is None:
                emb = self.trunk(images, net)
            else:
                backbone = self.network(net).backbone
                emb = {"feat": output_of_stage(backbone, self.prepare(images.pixels), stage)}
            trunks |= split(emb, same)
        return trunks

    def unit_pair(
        self, student: Emb, target: Emb, pair: Pair, names: tuple[str, str] = ("z", "z")
    ) -> UnitPair:
        """Return the unit embeddings of a pair, detached and of partners as the pair says.

        `names`: which embeddings are the student's and the target's.
        """
        assert pair.target is not None
        u = unit_rows(student, names[0], "student")[pair.student]
        row = unit_rows(target, names[1], "target")[pair.target]
        if pair.detach:
            row = row.detach()
        v = row if pair.partner is None else row[pair.partner]
        return UnitPair(u, v, row)

    def commit(self, done: Sequence[Embedded], at: At) -> None:
        """Update what the method keeps between steps: once, after the optimizer's step.

        `done`: What `forward` returned for each micro-batch of the step.

        Raises:
            RuntimeError: The step was committed already.
        """
        if at.step == self._committed:
            raise RuntimeError(f"step {at.step} was committed already")
        self._committed = at.step
        with torch.no_grad():
            self.update(done, at)

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Update queues, centres, memories, then averages; for subclasses, called by `commit`."""

    def begin_epoch(self, at: At, sweep: Callable[[], Iterator[Plan]]) -> None:
        """Prepare an epoch; `sweep` goes once over all samples, in standard plans."""

    def gradients_ready(self, at: At) -> None:
        """Change gradients between the backward pass and the optimizer's step."""

    def groups(self) -> Iterable[Group]:
        """Return the parameters that are trained, in groups: weights, then biases and norms."""
        trained = [each for each in self.parameters() if each.requires_grad]
        yield Group([each for each in trained if each.ndim > 1], True, False, True)
        yield Group([each for each in trained if each.ndim <= 1], False, False, False)


class MethodSettings(Protocol):
    """A frozen dataclass of one method's settings; a row of `table`.

    Class attributes:
        TRAITS: What strategies may ask about the method, where no setting decides it.
        HEAD: The method's defaults for NetworkSettings, such as the projector's widths.
    """

    TRAITS: ClassVar[Traits]
    HEAD: ClassVar[Mapping[str, Any]]

    @property
    def traits(self) -> Traits:
        """What strategies may ask about the method with these settings."""
        return self.TRAITS

    @abstractmethod
    def make(self, network: Network, frame: Frame) -> Method:
        """Return the method that trains `network`."""
