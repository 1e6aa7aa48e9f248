"""What is said of views: the columns sets that describe them, found by name and compared.

Loaders join their columns and pick views by them, exports write them beside views.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from viewstore.errors import ConfigError, nearest
from viewstore.format.columns import Column
from viewstore.format.plan import SOURCE, Plan
from viewstore.store.lineage import check_fresh
from viewstore.store.rounds import round_names, rounds_of
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

DEFAULT_CHOICE = "selected"


def described_by(plan: Plan) -> str:
    """Return the plan id of the view set whose views the columns of a plan are about.

    That is the view set itself, but of a columns set its parent; of the images the sources_id.
    """
    if plan.kind == "columns" and plan.parent is not None:
        return plan.parent["plan_id"]
    return plan.id


def describes_source(store: Store, view_set: ViewSet) -> bool:
    """Whether a columns set is about the images, itself or through the sets that it is about."""
    plan = view_set.plan
    while plan.kind == "columns" and plan.parent is not None:
        name, plan_id = plan.parent["view_set"], plan.parent["plan_id"]
        if name == SOURCE:
            return plan_id == store.manifest.sources_id
        if name not in store.view_sets or store.view_sets[name].plan.id != plan_id:
            return False
        plan = store.view_sets[name].plan
    return False


def newest_about(store: Store, name: str, plan_ids: Collection[str]) -> ViewSet | None:
    """Return the newest complete round of a columns set that describes one of some view sets.

    `plan_ids` are theirs, as `described_by` gives them. None: no round describes one of them.
    """
    columns = (each for each in rounds_of(store, name) if each.kind == "columns")
    about = [each for each in columns if described_by(each.plan) in plan_ids]
    return _newest_complete(about) if about else None


def _newest_complete(rounds: Sequence[ViewSet]) -> ViewSet:
    """Return the first of some rounds that is complete; the oldest if none is."""
    return next((each for each in rounds if each.complete), rounds[-1])


def is_joined(name: str) -> bool:
    """Whether the name of a column is one of another view set: SET.column."""
    return "." in name


def joined_column(store: Store, shown: ViewSet, name: str) -> tuple[ViewSet, Column]:
    """Return columns set and column of a name SET.column, said of the views of `shown`.

    Raises:
        ConfigError: There is no such column, or what `columns_set` raises.
    """
    set_name, _, column = name.rpartition(".")
    found = columns_set(store, shown, set_name, use="joined")
    if column not in found.params:
        hint = nearest(column, list(found.params))
        raise ConfigError(f"{found.name} has no column {column!r}; {hint}", code="VS102")
    return found, found.plan.column(column)


def chosen_column(store: Store, shown: ViewSet, pick: str) -> tuple[ViewSet, Column]:
    """Return columns set and column of a choice of views of `shown`: SET.COLUMN, or SET alone.

    Raises:
        ConfigError: There is no such choice, or what `columns_set` raises.
    """
    set_name, _, name = pick.partition(".")
    name = name or DEFAULT_CHOICE
    found = columns_set(store, shown, set_name, use="picked by", images=False)
    choices = {each.name: each for each in found.plan.columns if each.per == "choice"}
    if name not in choices:
        raise ConfigError(
            f"{found.name} has no choice {name!r}; there are {', '.join(choices) or 'none'}",
            code="VS102",
        )
    return found, choices[name]


def columns_set(
    store: Store, shown: ViewSet, name: str, *, use: str, images: bool = True
) -> ViewSet:
    """Return columns set `name`, of the newest complete round that describes the views of `shown`.

    Args:
        store: The store of both.
        shown: A view set.
        name: Of the columns set, or of one round of it.
        use: What it is wanted for, as a participle, for messages.
        images: Whether it may describe the images instead, through another columns set too.

    Raises:
        ConfigError: There is none, it describes another view set, or what it was made from has
            other bytes now.
    """
    found = newest_about(store, name, [shown.plan.id])
    if found is None:
        rounds = rounds_of(store, name) or [store.view_set(name)]
        about = [each for each in rounds if images and describes_source(store, each)]
        if not about:
            raise _describes_another(store, shown, rounds[0], use)
        found = _newest_complete(about)
    check_fresh(found, store.view_sets)
    return found


def _describes_another(store: Store, shown: ViewSet, found: ViewSet, use: str) -> ConfigError:
    if found.kind != "columns" or found.of is None:
        describing = ", ".join(store.columns_of(shown.name)) or "none"
        return ConfigError(
            f"{found.name} has views of its own, only columns sets are {use}",
            why=f"columns sets that describe {shown.name}: {describing}",
            fix=f"write the name of a column of {shown.name} without its set"
            if found is shown
            else f"show views of {found.name} in a slot of their own",
        )
    about, wanted = round_names(found.of, shown.name)
    if (about, wanted) == (found.of, shown.name):
        generator = found.plan.generator["name"]
        make = f"build --generator {generator} --of {shown.name} --out {store.location}"
    else:
        files = "".join(f" --{each.role} {each.name}" for each in found.plan.weights)
        make = f"refresh {store.location} --view-set {found.plan.base} --of {shown.name}{files}"
    if about == wanted:
        about = f"another {about}"
        wanted = "the one that is there now"
    return ConfigError(
        f"{found.name} describes {about}, not {wanted}",
        code="VS103",
        where=store.location,
        fix=f"viewstore {make}",
    )
