"""The generator of hard sets: what is chosen of the views of samples by tables of their losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.format.columns import Status
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.scored.bank import ROLE
from viewstore.generators.scored.batches import fixed_batches
from viewstore.generators.scored.candidates import GLOBALS, Scorer
from viewstore.generators.scored.choices import (
    Choices,
    Places,
    Term,
    candidate_pairs,
    chosen_crops,
    chosen_pairs,
)
from viewstore.generators.scored.described import made_views, status_of, unwritten
from viewstore.generators.scored.hard_form import HardForm
from viewstore.generators.scored.tables import Tabler, Tables, pixels_of
from viewstore.randomness import Op
from viewstore.store.column_content import NO_CHOICE


@dataclass(frozen=True, kw_only=True)
class ResolvedHard(HardForm):
    """What `Hard` resolves to; its attributes are those of `Hard`."""

    def make(self, context: Context) -> HardGenerator:
        """Return the generator."""
        return HardGenerator(self, context)


class HardGenerator:
    """Chooses among the candidates of samples, by what a scorer says of them."""

    def __init__(self, settings: ResolvedHard, context: Context) -> None:
        self._settings, self._context = settings, context
        self._scorer: Scorer = context.models[ROLE]
        self._terms: Sequence[Term] = self._scorer.entries_beside(
            settings.choose if settings.globals else settings.train_locals
        )
        self._pairs = candidate_pairs(
            settings.candidates,
            directed=self._scorer.directed,
            crops="global" in settings.described,
        )
        self._tables = Tabler(settings, context)

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        settings = self._settings
        for batch, views in fixed_batches(samples, settings.slots, pixels_of(None)):
            tables = self._tables(batch, views)
            choices, margin = self._chosen(batch, tables)
            for number, sample in enumerate(batch):
                mine = slice(number * settings.groups, (number + 1) * settings.groups)
                of_groups = {name: places[mine] for name, places in choices.items()}
                yield self._rendered(sample, tables.part(mine), of_groups, margin[mine])

    def _chosen(
        self, batch: Sequence[Sample], tables: Tables
    ) -> tuple[Choices, NDArray[np.float64]]:
        """Return the places that are chosen of each group, and the margin, [N]."""
        settings = self._settings
        if settings.globals:
            large = {name: self._large(batch, name) for name in settings.choices}
            return chosen_crops(tables.losses, self._terms, large, settings.choose)
        rows = np.array([sample.index for sample in batch])[:, None]
        uniform = self._context.stream.uniform(Op.SET_CHOICE, rows, np.arange(settings.groups))
        choices, margin = chosen_pairs(
            tables.losses,
            self._terms,
            self._pairs,
            uniform[..., 0].reshape(-1),
            tables.iou,
            None if tables.crops is None else (tables.crops, settings.train_locals),
        )
        return {name: choices[name] for name in settings.choices}, margin

    def _large(self, batch: Sequence[Sample], name: str) -> Places:
        """Return the places of the large crops that were chosen, [N, 2]; -1 where none were.

        Raises:
            FormatError: A choice is no view of its group.
        """
        settings = self._settings
        stored = np.stack([sample.inputs[GLOBALS].params(name) for sample in batch])
        none = stored == NO_CHOICE
        first = np.arange(settings.groups)[:, None] * settings.targets
        places = stored.astype(np.int64) - first
        wrong = (((places < 0) | (places >= settings.targets)) & ~none).any((1, 2))
        if wrong.any():
            sample = batch[int(wrong.argmax())]
            raise FormatError(
                f"{name} of row {sample.index} of {settings.globals} is no view of its group",
                code="VS203",
                fix=f"viewstore verify STORE --content --repair --view-set {settings.globals}",
            )
        return np.where(none, -1, places).reshape(-1, 2)

    def _rendered(
        self, sample: Sample, tables: Tables, choices: Choices, margin: NDArray[np.float64]
    ) -> Rendered:
        """Return the columns of a sample by what is known and chosen of its groups."""
        settings = self._settings
        params = unwritten(settings.columns())
        first = np.arange(settings.groups)[:, None] * settings.candidates
        for name, places in choices.items():
            params[name][:] = np.where(places < 0, NO_CHOICE, places + first)
        chosen = (params[settings.choices[0]] != NO_CHOICE).all(-1).repeat(settings.candidates)
        scored = np.isfinite(tables.losses).any(-1).reshape(-1)
        made = made_views(sample)
        status = status_of(made)
        status[made & ~(scored & chosen)] = Status.FAILED
        good = status == Status.OK
        kept = {"pair_loss": tables.losses, "pair_iou": tables.iou}
        for name, values in kept.items():
            if name in params and values is not None:
                params[name][good] = values.reshape(settings.views, -1)[good]
        params["margin"][:] = margin
        if good.any():
            params["model_step"] = np.array(self._scorer.step, np.int64)
        return Rendered(sample.index, None, {**params, "status": status})
