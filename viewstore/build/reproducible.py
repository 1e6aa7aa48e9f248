"""Whether a build now would give the bytes that were planned: weights, versions, what it reads."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from viewstore.build.inputs import check_links
from viewstore.build.listing import own_files
from viewstore.build.roles import (
    WeightFiles,
    other_weights,
    taken_files,
    weight_file,
    weights_of,
)
from viewstore.errors import CheckpointError, ConfigError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan, Weights
from viewstore.images.codec import codec_from_plan
from viewstore.plugins import missing


def check_reproducible(paths: StorePaths, plan: Plan, files: WeightFiles) -> None:
    """Check that shards built now would be those that were planned, before any is given up.

    Raises:
        CheckpointError: The files of weights are others.
        ConfigError: A view set that it is made from is another one now, or is gone.
            Or the libraries that decide its bytes have other versions here.
        UnavailableError: A package that it needs is not installed.
    """
    from viewstore.generators import settings_class

    check_generator(plan)
    needs = settings_class(plan.generator["name"]).NEEDS
    own = own_files(paths.view_set(plan.view_set), plan)
    check_weights(plan, needs, {**files, **own})
    check_links(paths, plan)
    check_versions(plan)


def check_generator(plan: Plan) -> None:
    """Raise UnavailableError if the generator of a plan is of a package that is not installed."""
    from viewstore.generators import GENERATORS

    name = plan.generator["name"]
    if name in GENERATORS:
        return
    others = [library for library in plan.libraries if not _is_installed(library)]
    raise missing("generator", name, others[0] if others else None)


def _is_installed(library: str) -> bool:
    try:
        return bool(importlib.metadata.version(library))
    except importlib.metadata.PackageNotFoundError:
        return False


def check_versions(plan: Plan) -> None:
    """Raise ConfigError unless generator, encoder and libraries are those of the plan.

    Another torch is none of it: builders warn of that (`build/here.py`).
    """
    from viewstore.generators import settings_class

    changed: dict[str, tuple[object, object]] = {}
    generator, version = plan.generator["name"], plan.generator["version"]
    if version != settings_class(generator).VERSION:
        changed[f"generator {generator}"] = (version, settings_class(generator).VERSION)
    if plan.codec is not None:
        before, encoder = plan.codec["encoder"], codec_from_plan(plan.codec).encoder
        if encoder != before:
            changed["encoder"] = (before, encoder)
    for library, version in plan.libraries.items():
        if library == "torch":
            continue
        found = importlib.metadata.version(library) if _is_installed(library) else "not installed"
        if found != version:
            changed[library] = (version, found)
    if changed:
        said = ", ".join(f"{name} was {was}, is {now}" for name, (was, now) in changed.items())
        raise ConfigError(
            f"view set {plan.view_set} was planned with other versions: {said}",
            code="VS103",
            why="other versions may make other bytes of the same views",
            fix="install those versions, or build into another --view-set",
        )


def check_weights(plan: Plan, needs: Sequence[str], files: WeightFiles) -> list[Weights]:
    """Return what these files and packaged ones hold, which is what a view set was planned with.

    `needs` are the roles that are looked at; the files themselves are read, and not loaded.

    Raises:
        CheckpointError: It was planned with other files, or with more.
    """
    planned = {weights.role: weights for weights in plan.weights}
    found = weights_of(needs, files)
    for weights in found:
        if weights.role not in planned or planned[weights.role].sha256 != weights.sha256:
            path = weight_file(weights.role, taken_files(needs, files))
            raise other_weights(plan, weights.role, str(path))
    missing = set(planned) - {weights.role for weights in found}
    if missing:
        raise CheckpointError(
            f"{plan.view_set} was planned with weights for {', '.join(sorted(missing))}",
            fix="give their files as in the first build",
        )
    return found
