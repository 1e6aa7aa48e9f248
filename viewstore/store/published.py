"""The view sets of a store's newest manifest, for builders and checks that have no open store."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from viewstore.errors import FormatError
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.sources.reader import SourceReader
from viewstore.store.committed import read_manifest
from viewstore.store.view_set import ViewSet


def published_view_sets(
    paths: StorePaths, source: SourceReader | None = None, upstream: Upstream = FOLDER
) -> dict[str, ViewSet]:
    """Return the view sets that the newest manifest names and whose plan is still the one, by name.

    `source` reads the images from which recipes are rendered.

    Raises:
        FormatError: The manifest is damaged.
    """
    paths, files = upstream.reading(paths)
    manifest = read_manifest(paths, files)
    there: dict[str, ViewSet] = {}
    for name, entry in ({} if manifest is None else manifest.view_sets).items():
        with contextlib.suppress(FormatError, FileNotFoundError):
            there[name] = ViewSet(paths.view_set(name), entry, files, source=source, others=there)
    return there


def linked(plan: Plan, view_sets: Mapping[str, ViewSet]) -> dict[str, ViewSet] | None:
    """Return the view sets that a plan links to, by role; None unless all are those planned."""
    found = {}
    for role, link in plan.links.items():
        view_set = view_sets.get(link["view_set"])
        if view_set is None or view_set.plan.id != link["plan_id"]:
            return None
        found[role] = view_set
    return found
