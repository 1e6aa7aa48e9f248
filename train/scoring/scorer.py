"""Scorers: the losses that a trained method has on views, which builds choose or attack views by.

A score is a function of one sample alone: batch norms have their running statistics, and where a
method contrasts with the rest of a batch, a fixed bank of embeddings stands for that.
Source of the scores: Pretraining with Hard Views, section 3; the bank is ours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.encoder_file import Encoder
from viewstore.train.methods.base import Method
from viewstore.train.methods.embeddings import Emb, unit_rows
from viewstore.train.methods.traits import Mode
from viewstore.train.plan import Pair, Plan, Row, total
from viewstore.train.strategies.selection import Entry, entries_of, is_directed
from viewstore.train.views import At, Views

TEMPERATURE = 0.5  # at which an encoder's file scores, SimCLR's default
AT_ONCE = 64  # images of a bank that are embedded together: bounds memory


class Bank(NamedTuple):
    """What stands for the rest of a batch: unit embeddings [N, D] of the samples in `rows` [N]."""

    units: Tensor
    rows: Tensor


class Scorer(nn.Module):
    """A frozen network and the losses of its views, `float32`; images are [.., C, H, W] in [0, 1].

    Attributes:
        name: Name of the method, for people.
        step: Steps of training behind its weights; -1 where its file does not say.
        entries: The standard loss of two views: each ordered pair by places in the two, with its
            weight; a place that learns from no view has target None, one that learns from itself
            its own place.
        directed: Whether the two views in the other order have another loss.
        input_size: Height and width of the images that it takes; None: any.
        std: Of its preprocessing, by which values in [0, 1] are divided, per channel.
        needs_bank: Whether `remember` must come first.
        crops: Whether it scores small crops against larger ones (`crop_losses`).
        num_rows: Rows that it knows of the store that it was trained on; None: it scores any.
    """

    name: str
    step: int
    entries: tuple[Entry, ...]
    directed: bool
    input_size: tuple[int, int] | None
    std: tuple[float, ...]
    needs_bank: bool
    crops: bool
    num_rows: int | None

    @abstractmethod
    def entries_beside(self, crops: int) -> tuple[Entry, ...]:
        """Return the standard loss of two large and so many small crops, as `entries` is.

        The small ones have the places from 2 on, in which all are alike.
        """

    @abstractmethod
    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Take the bank: images [N, C, H, W] of the samples in rows, int64 [N]."""

    @abstractmethod
    def pair_losses(self, views: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of ordered pairs of the views of a sample, [P, V, V].

        The first is the student's view, the second the target's. On the diagonal is the loss
        that a view has alone, with prototypes or by its own patches; NaN where there is none, and
        in all places of a sample that the method does not know.

        `views`: [P, V, C, H, W]; `rows`: of their samples, int64 [P].
        """

    @abstractmethod
    def crop_losses(self, crops: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of small crops against the targets' views, [P, S, T].

        `crops`: [P, S, C, h, w]; `targets`: [P, T, C, H, W]; `rows`: int64 [P].
        """

    @abstractmethod
    def losses(self, student: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each student's view against its target's, [P].

        Differentiable in `student`, [P, C, H, W]; the target, of that shape, is a constant.
        """


class MethodScorer(Scorer):
    """A trained method with its targets, queue, centre or prototypes."""

    def __init__(
        self, method: Method, at: At, *, num_rows: int, input_size: tuple[int, int] | None
    ) -> None:
        """Freeze `method` as it was at the clock `at`; it computes in float32.

        `num_rows`: Rows of the store that it was trained on.

        Raises:
            ConfigError: Its loss is of a whole batch, so that no sample has one of its own.
        """
        super().__init__()
        traits = method.traits
        if not traits.samplewise or (traits.negatives == "batch" and not traits.decomposable):
            raise ConfigError(
                f"views cannot be scored by {traits.name}: its loss is of a whole batch",
                code="VS103",
                why="a view that is built is a function of its own sample",
                fix="give a checkpoint of another method, or the encoder.safetensors of the run",
            )
        self.method = method.requires_grad_(False).eval()
        self.method.amp = None
        self.name, self.step, self.input_size = traits.name, at.step, input_size
        self.std = method.prepare.std
        self.needs_bank = traits.negatives == "batch"
        self.crops = "global" in traits.target_roles
        self.num_rows = num_rows if traits.target == "prototype" else None
        self._at = at
        self._role = "global" if self.crops else "expert"
        self._bank: Bank | None = None
        self.entries = self.entries_beside(0)
        self.directed = is_directed(method, self._nothing(0), (0, 1))

    def entries_beside(self, crops: int) -> tuple[Entry, ...]:
        """Return the method's standard plan of two views and small crops."""
        return entries_of(self.method, self._nothing(crops), range(2 + crops))

    def _nothing(self, crops: int) -> Views:
        """Return two views and so many small crops, of which nobody looks at the pixels."""
        images = [torch.zeros(1, 1, 1, 1)] * (2 + crops)
        roles = (self._role, self._role) + ("local",) * crops
        return self._views(images, torch.zeros(1, dtype=torch.int64), roles)

    @torch.no_grad()
    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Embed the bank with the student's network."""
        found = []
        for images, of_rows in zip(
            torch.split(bank, AT_ONCE), torch.split(rows, AT_ONCE), strict=True
        ):
            emb = self.method.encode(
                self._views([images], of_rows),
                [Row(0)],
                net="student",
                mode="probe",
                statistics="running",
            )
            found.append(F.normalize(emb["z"][0], dim=-1))
        self._bank = Bank(torch.cat(found), rows)

    @torch.no_grad()
    def pair_losses(self, views: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of ordered pairs, [P, V, V], as `Scorer.pair_losses`."""
        count = views.shape[1]
        seen = self._views(list(views.unbind(1)), rows)
        return self._table(seen, range(count), range(count), "probe")

    @torch.no_grad()
    def crop_losses(self, crops: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of small crops, [P, S, T], as `Scorer.crop_losses`."""
        first = crops.shape[1]
        seen = self._views(
            [*crops.unbind(1), *targets.unbind(1)],
            rows,
            roles=("local",) * first + (self._role,) * targets.shape[1],
        )
        return self._table(seen, range(first), range(first, seen.num_views), "probe")

    def losses(self, student: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each student's view, [P], as `Scorer.losses`."""
        seen = self._views([student, target.detach()], rows)
        if all(entry.target is None for entry in self.entries):
            return self._table(seen, [0], [0], "attack")[:, 0, 0]
        return self._table(seen, [0], [1], "attack")[:, 0, 0]

    def _views(self, images: Sequence[Tensor], rows: Tensor, roles: tuple[str, ...] = ()) -> Views:
        """Return images [P, C, H, W] in [0, 1] as the views of the samples in rows, [P]."""
        if self.num_rows is not None and len(rows) and int(rows.max()) >= self.num_rows:
            raise ConfigError(
                f"the scorer was trained on {self.num_rows} images, the store has more",
                code="VS103",
                where="--scorer",
                why=f"{self.name} has a target for each of them",
                fix="give a scorer that was trained on this store",
            )
        return Views(
            pixels=tuple(255 * each for each in images),
            role=roles or (self._role,) * len(images),
            parent=(-1,) * len(images),
            params=({},) * len(images),
            sample=rows,
            at=self._at,
            base=tuple(range(len(images))),
        )

    def _table(
        self, views: Views, students: Sequence[int], targets: Sequence[int], mode: Mode
    ) -> Tensor:
        """Return the losses of students' views against targets' views, [P, S, T]."""
        views = self.method.annotate(views)
        rows = {view: Row(view) for view in sorted({*students, *targets})}
        alone = all(entry.target is None for entry in self.entries)
        plan = Plan(
            views,
            tuple(rows[view] for view in students),
            () if alone else tuple(rows[view] for view in targets),
            (),
            len(students),
            0 if alone else len(targets),
        )
        student, target = self.method.both(plan, mode, "running")
        within = any(entry.student == entry.target for entry in self.entries)
        table = [
            [self._loss(student, target, s, t, plan, within=within) for t in range(len(targets))]
            for s in range(len(students))
        ]
        losses = torch.stack([torch.stack(row, -1) for row in table], 1)
        return losses.masked_fill(~self.method.knows(views.sample)[:, None, None], torch.nan)

    def _loss(
        self, student: Emb, target: Emb, s: int, t: int, plan: Plan, *, within: bool
    ) -> Tensor:
        """Return the loss of student s against target t, [P], by places in the plan."""
        nothing = torch.full((len(plan.views),), torch.nan, device=plan.views.sample.device)
        if not plan.targets:
            if s != t:
                return nothing
            return total(self.method.score(student, target, Pair(s, None), plan))
        if plan.students[s] is plan.targets[t] and not within:
            return nothing
        pair = Pair(s, t)
        if not self.needs_bank:
            return total(self.method.score(student, target, pair, plan))
        assert self._bank is not None, "remember comes first"
        traits = self.method.traits
        u = unit_rows(student, "z", "student")[s]
        v = unit_rows(target, "z", "target")[t]
        contrast = contrasted(u, v, plan.views.sample, self._bank, traits.inverse_tau)
        return traits.scale / traits.inverse_tau * contrast


class EncoderScorer(Scorer):
    """An encoder of any origin, which scores as SimCLR with a bank does."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.name, self.input_size, self.num_rows = "simclr", None, None
        self.std = encoder.settings.std
        steps = encoder.settings.provenance.get("steps")
        self.step = steps if type(steps) is int and steps >= 0 else -1
        self.entries = (Entry(0, 1, 0.5), Entry(1, 0, 0.5))
        self.directed, self.needs_bank, self.crops = False, True, False
        self.num_rows = None
        self._bank: Bank | None = None

    def entries_beside(self, crops: int) -> tuple[Entry, ...]:
        """Return `entries`. Raises ConfigError: there are small crops, which it does not score."""
        if crops:
            raise _no_crops()
        return self.entries

    @torch.no_grad()
    def remember(self, bank: Tensor, rows: Tensor) -> None:
        """Embed the bank."""
        units = [self.encoder(images) for images in torch.split(bank, AT_ONCE)]
        self._bank = Bank(torch.cat(units), rows)

    @torch.no_grad()
    def pair_losses(self, views: Tensor, rows: Tensor) -> Tensor:
        """Return the losses of ordered pairs, [P, V, V], as `Scorer.pair_losses`."""
        units = self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        table = torch.full((*views.shape[:2], views.shape[1]), torch.nan, device=views.device)
        for s in range(views.shape[1]):
            for t in range(views.shape[1]):
                if s != t:
                    table[:, s, t] = self._contrast(units[:, s], units[:, t], rows)
        return table

    def crop_losses(self, crops: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Raise ConfigError: an encoder's file has no loss of crops."""
        raise _no_crops()

    def losses(self, student: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each student's view, [P], as `Scorer.losses`."""
        with torch.no_grad():
            wanted = self.encoder(target)
        return self._contrast(self.encoder(student), wanted, rows)

    def _contrast(self, student: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        assert self._bank is not None, "remember comes first"
        return contrasted(student, target, rows, self._bank, 1 / TEMPERATURE)


def _no_crops() -> ConfigError:
    return ConfigError("an encoder's file does not score small crops: give a checkpoint of dino")


def contrasted(
    student: Tensor, target: Tensor, rows: Tensor, bank: Bank, inverse_tau: float
) -> Tensor:
    """Return -log of the share of the target among the target and the bank, [P].

    `student`, `target`: unit vectors [P, D]; a sample's own entry of the bank is left out.
    """
    own = (student * target).sum(-1, keepdim=True)
    others = student @ bank.units.T
    others = others.masked_fill(rows[:, None] == bank.rows[None], -torch.inf)
    among = torch.cat([own, others], 1) * inverse_tau
    return among.logsumexp(1) - among[:, 0]
