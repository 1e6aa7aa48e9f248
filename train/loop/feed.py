"""Makes the feed of a training run from a store and settings: its loader, rows and roles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError
from viewstore.images.policies import as_policies, output_size
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Cached, Online, parse_views
from viewstore.loaders.plan.schedule import NOT_MADE_FIX
from viewstore.loaders.plan.slots import Slot as LoaderSlot
from viewstore.store.committed import shards_there, unfinished_view_set
from viewstore.store.described import is_joined
from viewstore.store.rounds import newest_round
from viewstore.store.store import Store
from viewstore.train.distributed import world_size
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.pretrain import check_views
from viewstore.train.loop.run import Feed
from viewstore.train.nets.network import MAX_PATCH, NetworkSettings
from viewstore.train.nets.vit import PATCH
from viewstore.train.strategies.base import SOURCE, Slot


def training_rows(count: int, holdout: int | None) -> NDArray[np.int64]:
    """Return the rows that are trained on, without every `holdout`-th, from 0 on."""
    rows = np.arange(count, dtype=np.int64)
    return rows if holdout is None else rows[rows % holdout != 0]


@contextmanager
def open_feed(
    store: Store,
    config: PretrainConfig,
    *,
    num_threads: int | None = None,
) -> Iterator[Feed]:
    """Give the views of a run to a block; nothing is read until the loader is asked.

    `num_threads` is that of LoaderSettings.

    Raises:
        ConfigError: A view is unknown, there are fewer samples than a batch has, the views are
            not what the strategy wants, or the patch of the network does not divide their sides.
        FormatError: In the block: a view is damaged, or was not made and is not replaced.
    """
    _check_processes(config)
    rows = training_rows(store.num_samples, config.holdout)
    named = parse_views(",".join(config.views), store.names, own=config.own_policies)
    asked = config.strategy.chooser.asked(named, lambda name: newest_round(store, name).roles)
    views = _sized(asked, config.size, config.local_size)
    count = world_size()
    roles: list[str] = []  # known as soon as the loader is

    def wants(step: int) -> tuple[int, ...] | None:
        return config.strategy.wants(roles, step) if roles else None

    with _advice(store):
        loader = ViewLoader(
            store,
            views=_with_joined(views, config.strategy.columns, store),
            # A larger one is refused by check_views, after what it says of the views.
            batch_size=min(config.batch_size, max(len(rows) // count, 1) * count),
            seed=config.seed,
            # A filter is part of the loader's state: without holdout there is none.
            rows=None if config.holdout is None else rows,
            num_threads=num_threads,
            where=config.where,
            missing=config.missing,
            photometric="caller" if config.strategy.recolours else "cpu",
            wants=wants if config.strategy.scheduled else None,
        )
        with loader:
            for slot in loader.slots:
                _check_slot(slot)
            _check_patches(config.network, loader.slots)
            if config.missing == "raise" and config.where is None:
                _check_complete(store, loader.slots)
            slots = tuple(map(_as_slot, loader.slots))
            roles += loader.roles
            check_views(config, slots, loader.num_rows)
            state = loader.state_dict()
            yield Feed(
                loader=loader,
                slots=slots,
                epoch_steps=len(loader),
                num_rows=store.num_samples,
                size=max(slot.height for slot in loader.slots),
                # Of the first view that has one: what distances will be calibrated with.
                policy=next((slot.policy for slot in loader.slots if _augments(slot)), ""),
                store_id=store.store_id,
                shown_id=state["store"] + state["views"],
                source=lambda: store.source_table,
                rows=None if config.holdout is None else rows,
                warnings=(
                    *attacks_of_others(store, loader.slots),
                    *older_rounds(store, loader.slots, named),
                ),
            )


def _check_processes(config: PretrainConfig) -> None:
    """Raise ConfigError unless each process has equal parts of every batch."""
    parts = world_size() * config.optim.accumulate
    if config.batch_size % parts or config.batch_size // parts < 2:
        raise ConfigError(
            f"batch size must be a multiple of {parts}, with 2 samples or more for each of "
            f"{world_size()} processes and {config.optim.accumulate} parts of a step, got "
            f"{config.batch_size}",
            where=f"--batch-size {config.batch_size}",
            fix=f"give --batch-size {max(2, config.batch_size // parts) * parts}",
        )


def attacks_of_others(store: Store, slots: Sequence[LoaderSlot]) -> tuple[str, ...]:
    """Return a warning of each view set that is shown and was attacked before the training.

    It names the digests of the weights that the set was made with, and their step of training.
    """
    shown = {slot.name for slot in slots if slot.kind == "cached" and slot.role == "adversarial"}
    found = []
    for name in sorted(shown):
        view_set = store.view_sets[name]
        digests = ", ".join(weights.sha256[:12] for weights in view_set.plan.weights)
        age = "an unknown step"
        if "model_step" in view_set.params:
            age = f"step {int(view_set.params['model_step'].max())}"
        found.append(
            f"views of {name} were attacked against the weights {digests or 'of an unknown file'} "
            f"of {age}, not against the network that trains: results must name it adv-cached"
        )
    return tuple(found)


def older_rounds(
    store: Store, slots: Sequence[LoaderSlot], views: Sequence[Cached | Online] = ()
) -> tuple[str, ...]:
    """Return a warning of each view set that is shown while no view shows its newest round.

    `views`: those that were asked for; sets of columns that choose among them count alike.
    """
    shown = {name for slot in slots if slot.kind != "online" for name in slot.name.split("|")}
    picks = [view.pick for view in views if isinstance(view, Cached) and isinstance(view.pick, str)]
    chosen = [pick.partition(".")[0] for pick in picks if pick not in ("schedule", "random")]
    shown |= {newest_round(store, name).name for name in chosen}
    found = []
    for name in sorted(shown & {*store.view_sets}):
        newest = newest_round(store, store.view_sets[name].plan.base).name
        if newest not in shown:
            found.append(f"views of {name} are shown, and {newest} was made since by newer weights")
    return tuple(found)


def _augments(slot: LoaderSlot) -> bool:
    """Return whether a slot has an expert policy; the image itself is no augmentation."""
    return slot.policy != "" and slot.role != SOURCE


def _as_slot(slot: LoaderSlot) -> Slot:
    """Return what strategies see of a loader's slot."""
    return Slot(
        role=slot.role,
        size=slot.height,
        columns=frozenset(slot.columns),
        parent_slot=slot.parent_slot,
        name=slot.name,
        colourless=slot.colourless,
    )


@contextmanager
def _advice(store: Store) -> Iterator[None]:
    """Have errors of the loader in a block advise what whoever trains can do, not its arguments."""
    try:
        yield
    except FormatError as error:
        if error.fix != NOT_MADE_FIX:
            raise
        mend = f"give --missing resample, or viewstore verify {store.location} --repair --failed"
        raise FormatError(
            str(error), code=error.code, where=error.where, why=error.why, fix=mend
        ) from error
    except ConfigError as error:
        if error.where != "batch_size":
            raise
        raise ConfigError(str(error), fix="give a smaller --batch-size") from error


def _sized(
    views: list[Cached | Online], size: int | None, local_size: int | None
) -> list[Cached | Online]:
    """Return the views with `size` for the online ones; local crops have `local_size`.

    Where that is None, they have their share of `size`. Cached views have the size they have.

    Raises:
        ConfigError: There are no local crops that have `local_size`.
    """
    online = [view for view in views if isinstance(view, Online)]
    local = [view for view in online if as_policies(view.policy)[0].role == "local"]
    if local_size is not None and not local:
        raise ConfigError(
            f"local_size {local_size} has no effect: no view is a local crop that is drawn online",
            where="--set local_size",
            fix="leave it out, or name a policy of local crops in --views, such as dino-local",
        )
    sized: list[Cached | Online] = []
    for view in views:
        side = local_size if view in local else None
        if side is None and size is not None and isinstance(view, Online):
            side = output_size(view.policy, size, size)[0]
        sized.append(replace(view, size=side) if side is not None else view)
    return sized


def _with_joined(
    views: list[Cached | Online], wanted: Sequence[str], store: Store
) -> list[Cached | Online]:
    """Return the views with the columns of columns sets in `wanted` beside those of their own."""
    joined = [name for name in wanted if is_joined(name)]
    if not joined:
        return views
    found = []
    for view in views:
        if isinstance(view, Cached):
            columns = newest_round(store, view.name).plan.columns
            own = [column.name for column in columns if column.pack]
            view = replace(view, params=(*own, *joined))
        found.append(view)
    return found


def _check_complete(store: Store, slots: Sequence[LoaderSlot]) -> None:
    """Raise ConfigError if a view set that is shown lacks shards: their rows have no views."""
    for name in (slot.name for slot in slots if slot.kind == "cached"):
        view_set = store.view_sets[name]
        if not view_set.complete:
            there = shards_there(len(view_set.index.shards), view_set.plan)
            raise unfinished_view_set(name, there, store.location)


def _check_slot(slot: LoaderSlot) -> None:
    """Raise ConfigError unless a slot can be trained on: views of one role, and square."""
    if len(slot.roles) > 1:
        raise ConfigError(
            f"views of {slot.name} must have one role, they are {', '.join(slot.roles)}",
            where=f"--views {slot.name}",
            fix="name a view set whose views have one role",
        )
    if slot.height != slot.width:
        raise ConfigError(
            f"views must be square to be trained on, got {slot.height}x{slot.width}",
            fix="give --size",
        )


def _check_patches(network: NetworkSettings, slots: Sequence[LoaderSlot]) -> None:
    """Raise ConfigError unless the patch of a vision transformer divides the side of each slot."""
    if not network.in_patches:
        return
    patch = network.patch or PATCH
    for number, slot in enumerate(slots):
        if slot.height % patch:
            what = "local crops" if slot.role == "local" else "views"
            raise ConfigError(
                f"view {number}, {slot.name}, has {what} of {slot.height} px, which patches of "
                f"{patch} px do not divide",
                where="--set network.patch",
                why=f"{network.backbone} cuts images into patches",
                fix=", or ".join(_fitting(patch, slots)) or "name views of another size",
            )


def _fitting(patch: int, slots: Sequence[LoaderSlot]) -> Iterator[str]:
    """Yield advice that makes patches divide slots: sizes that can be set, or another patch."""
    odd = [slot for slot in slots if slot.height % patch]
    if all(slot.kind == "online" for slot in odd):
        whole = [slot.height for slot in odd if slot.role != "local"]
        # Where --size is another one, the share of it that local crops have is too.
        cut = slots if whole else odd
        local = [slot.height for slot in cut if (slot.kind, slot.role) == ("online", "local")]
        given = {"--size ": whole, "--set local_size=": local}
        sides = {name: max(1, round(min(found) / patch)) for name, found in given.items() if found}
        yield "give " + " ".join(f"{name}{count * patch}" for name, count in sides.items())
    common = math.gcd(*(slot.height for slot in slots))
    if fitting := [each for each in range(2, MAX_PATCH + 1) if common % each == 0]:
        yield f"give --set network.patch={fitting[-1]}"
