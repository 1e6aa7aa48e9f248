"""The params of views drawn anew by the generator of their plan, to compare recorded ones with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewstore.build.compose import StoreRows, make_context
from viewstore.errors import ViewStoreError
from viewstore.format.plan import Plan
from viewstore.images.codec import codec_from_plan
from viewstore.images.policy import Policy
from viewstore.shards.unit import Sample
from viewstore.store.sample_views import StoredViews
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Context, Settings

PARENT = "parent"
SEEDS = 1 << 63


@dataclass(frozen=True)
class DrawnAnew:
    """Draws the params of a view set whose generator needs no network.

    Attributes:
        store, view_set: What was drawn.
        settings: Of its generator, as the plan has them.
    """

    store: Store
    view_set: ViewSet
    settings: Settings

    @property
    def policies(self) -> tuple[Mapping[str, Any], ...]:
        """The policy of each view as values; empty where it is no standard one."""
        plan = self.view_set.plan
        drawn = getattr(self.settings.resolve(self._context(plan.seed)), "policies", ())
        fitted = [each.for_size(plan.height, plan.width) for each in drawn]
        values = [asdict(each) if type(each) is Policy else {} for each in fitted]
        return tuple(values) or ({},) * plan.views

    def again(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the params of rows [B] as the plan draws them, by column, [B, ...]."""
        return self._draw(rows, self.view_set.plan.seed)

    def fresh(self, rows: NDArray[np.int64], turn: int) -> dict[str, NDArray[Any]]:
        """Return params that other seeds draw for these rows; those of two turns are independent.

        `turn` is a number from 0.
        """
        return self._draw(rows, (self.view_set.plan.seed + 1 + turn) % SEEDS)

    def _draw(self, rows: NDArray[np.int64], seed: int) -> dict[str, NDArray[Any]]:
        context = self._context(seed)
        generator = self.settings.resolve(context).make(context)
        found: dict[int, Mapping[str, NDArray[Any]]] = {}
        for rendered in generator.render(self._samples(rows)):
            found[rendered.index] = rendered.params
        in_order = [found[row] for row in rows.tolist()]
        return {name: np.stack([each[name] for each in in_order]) for name in in_order[0]}

    def _samples(self, rows: NDArray[np.int64]) -> Iterator[Sample]:
        of_store, inputs = StoreRows(self.store.table), self._inputs
        for row in rows.tolist():
            views = {role: StoredViews(each, row) for role, each in inputs.items()}
            yield Sample(
                index=row,
                size=of_store.size(row),
                read=lambda row=row: of_store.image(row),  # type: ignore[misc]
                parent=views.pop(PARENT, None),
                inputs=views,
                label=of_store.label(row),
            )

    @property
    def _inputs(self) -> dict[str, ViewSet]:
        """The view sets that this one is made from, by role."""
        plan = self.view_set.plan
        links = plan.inputs if plan.parent is None else {PARENT: plan.parent, **plan.inputs}
        return {role: self.store.view_set(link["view_set"]) for role, link in links.items()}

    def _context(self, seed: int) -> Context:
        plan = self.view_set.plan
        return make_context(
            table=self.store.table,
            seed=seed,
            view_set=plan.first_name,
            round=plan.round,
            codec=codec_from_plan(plan.codec),
            models={},
            inputs=self._inputs,
            device="cpu",
            wants_pixels=False,
        )


def drawn_anew(store: Store, view_set: ViewSet) -> DrawnAnew | None:
    """Return what draws the params of a view set anew.

    None: they are no draws alone (a network or files made the views), or its generator is not
    installed here, or is of another version.
    """
    settings = _settings(view_set.plan)
    if settings is None or settings.NEEDS or settings.recipe() is None:
        return None
    links = [link for link in (view_set.plan.parent, *view_set.plan.inputs.values()) if link]
    there = {each.plan.id for each in store.view_sets.values()}
    if not there.issuperset(link["plan_id"] for link in links):
        return None
    return DrawnAnew(store, view_set, settings)


def _settings(plan: Plan) -> Settings | None:
    """Return the settings of the generator of a plan; None: it is not known here, or no draw.

    What was made with weights is no draw, and is not imported: that would be torch too.
    """
    from viewstore.generators import GENERATORS, make_settings, settings_class

    name = plan.generator["name"]
    if plan.kind == "columns" or plan.weights or name not in GENERATORS:
        return None
    try:
        if plan.generator["version"] != settings_class(name).VERSION:
            return None
        return make_settings(name, plan.generator["args"])
    except ViewStoreError:  # of a package that is not what it was
        return None
