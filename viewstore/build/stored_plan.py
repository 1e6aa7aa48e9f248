"""The plan that is stored, where a request asks for nothing else: it is read, and nothing besides.

A slice of thousands then opens no source image in its parent process, imports no network and
calibrates nothing; its workers do what they need (`build/here.py`). Where a request says anything
that the plan does not, this says None, and `planning` finds out what it comes to.
"""

from __future__ import annotations

from viewstore.build.adopt import rows_are_fixed
from viewstore.build.inputs import planned_inputs
from viewstore.build.listing import own_files
from viewstore.build.request import BuildRequest
from viewstore.build.roles import (
    WeightFiles,
    function_named,
    named,
    taken_files,
    weight_file,
    weights_of,
)
from viewstore.errors import ConfigError, FormatError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.format.records import canonical
from viewstore.sources.record import read_sources_record
from viewstore.store.column_content import has_proof
from viewstore.store.committed import read_plan


def stored_plan(request: BuildRequest, paths: StorePaths) -> Plan | None:
    """Return the plan of the view set that a request names, if it says all that is asked for.

    Raises:
        FormatError: It is damaged.
    """
    from viewstore.generators import GENERATORS

    view_set = paths.view_set(request.name)
    if not view_set.plan.is_file() or request.generator not in GENERATORS:
        return None
    plan = read_plan(view_set)
    stands = (
        says_all(plan, request)
        and _has_its_rows(paths, plan)
        and all(path.is_file() for path in own_files(view_set, plan).values())
        and _has_its_inputs(request, paths, plan)
        and _has_its_weights(paths, plan, request.files)
    )
    return plan if stands else None


def says_all(plan: Plan, request: BuildRequest) -> bool:
    """Whether a plan has every setting that a request gives; files and the store aside."""
    args = plan.generator["args"]
    proof = plan.kind == "recipe" and has_proof(plan)
    return (
        request.source is None
        and request.after is None
        and request.generator == plan.generator["name"]
        and request.limit in (None, plan.rows)
        and request.shard_rows in (None, plan.shard_rows)
        and request.seed in (None, plan.seed)
        and (request.codec is None or (plan.kind != "columns" and request.codec == plan.form))
        and (request.proof is None or (plan.kind == "recipe" and request.proof == proof))
        and all(key in args and _is(args[key], value) for key, value in request.settings.items())
        and all(
            role in plan.links and plan.links[role]["view_set"] == name
            for role, name in request.inputs.items()
        )
    )


def _is(stored: object, given: object) -> bool:
    """Whether a setting that nobody checked yet is the one of a plan."""
    try:
        return canonical(stored) == canonical(given)
    except (TypeError, ValueError):  # NaN, or a date of TOML: in no plan
        return False


def _has_its_rows(paths: StorePaths, plan: Plan) -> bool:
    """Whether the rows of a store are recorded whole, and are those of the plan."""
    return rows_are_fixed(paths) and read_sources_record(paths)["digest"] == plan.sources_id


def _has_its_inputs(request: BuildRequest, paths: StorePaths, plan: Plan) -> bool:
    """Whether the view sets that a plan links to are those it was made with, and finished."""
    try:
        planned_inputs(paths, plan, upstream=request.upstream)
    except (ConfigError, FormatError):
        return False
    return True


def _has_its_weights(paths: StorePaths, plan: Plan, files: WeightFiles) -> bool:
    """Whether a build of these files, and of packaged ones, has the weights of a plan.

    A file that only the view sets need that were built first is not looked at, since they are
    there. Of a network that a function makes, the name alone is compared: workers make it.
    """
    planned = {each.role: each for each in plan.weights}
    roles = named(tuple(planned))
    files = taken_files(roles, files)
    if not set(files) <= _roles(paths, plan):
        return False
    compared = []
    for role in roles:
        path = weight_file(role, files)
        if path is None:
            return False
        function = function_named(role, path)
        if function is None:
            compared.append(role)
        elif function != planned[role].name:
            return False
    found = weights_of(compared, files)
    return all(each.sha256 == planned[each.role].sha256 for each in found)


def _roles(paths: StorePaths, plan: Plan) -> set[str]:
    """Return the roles of the weights of a plan, and of the plans that it links to."""
    roles = {each.role for each in plan.weights}
    for link in plan.links.values():
        roles |= _roles(paths, read_plan(paths.view_set(link["view_set"])))
    return roles
