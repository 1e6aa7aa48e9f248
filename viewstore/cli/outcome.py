"""What a build came to: facts, text and exit code, for the commands that build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewstore.cli.terminal import Terminal
from viewstore.cli.text import duration
from viewstore.errors import counted, quoted

if TYPE_CHECKING:
    from viewstore.build.request import Built
    from viewstore.inspect.inversion import InversionReport
    from viewstore.store.verdict import Verdict
    from viewstore.store.view_set import ViewSet

SHOWN = 5  # keys of failed samples that are named


def tell(terminal: Terminal, built: Built, options: dict[str, Any]) -> int:
    """Answer with what a build came to; return its exit code."""
    from viewstore.inspect.alike import groups_words
    from viewstore.inspect.inversion import inversion_report
    from viewstore.inspect.ranking import is_inversion
    from viewstore.store.store import open_store
    from viewstore.store.verdict import verdict_of

    out = options["out"]
    if built.manifest is not None:
        terminal.store_id = built.manifest.store_id
    facts = _facts(built, out)
    verdict, report, alike = None, None, ""
    if built.manifest is not None:
        store = open_store(out)
        view_set = store.view_set(built.plan.view_set)
        verdict = verdict_of(store, [view_set], max_missed=options["max_missed"])
        alike = groups_words(view_set)
        facts |= _goals(view_set) | {"verdict": verdict.to_json()}
        if is_inversion(view_set):
            report = inversion_report(store, view_set)
            facts["inversion"] = report.to_json()
    failed = built.failed_rows if verdict is None else verdict.view_sets[-1].failed_rows
    keys = _keys(out, failed)
    facts |= {"failures": len(failed), "failed_samples": keys}
    reasons = _reasons(len(failed), options["max_failures"], verdict)
    terminal.result(facts, "\n".join([_summary_text(facts, verdict, report, alike), *reasons]))
    return int(bool(reasons))


def _keys(out: Path | str, rows: list[int]) -> list[str]:
    """Return the keys of rows of a store, which may have no manifest yet."""
    from viewstore.files.working_copy import store_at
    from viewstore.format.paths import StorePaths
    from viewstore.sources.record import read_sources

    if not rows:
        return []
    with store_at(out) as (root, _):
        names = read_sources(StorePaths(root))[0].keys
        return [names[row] for row in rows]


def _reasons(failed: int, allowed: int, verdict: Verdict | None) -> list[str]:
    """Return why the exit code is 1, a line for each reason; nothing where it is 0."""
    reasons = [] if verdict is None else not_fit(verdict)
    if failed > allowed:
        reasons.append(
            f"exit code 1: {counted(failed, 'sample')} failed, --max-failures allows {allowed}"
        )
    return reasons


def not_fit(verdict: Verdict) -> list[str]:
    """Return why a verdict makes the exit code 1, as `_reasons`."""
    names = ", ".join(each.view_set for each in verdict.unfit)
    return [f"exit code 1: {names} not fit for use (--max-missed)"] if names else []


def _facts(built: Built, out: Path | str) -> dict[str, Any]:
    plan = built.plan
    return {
        "store": str(out),
        "view_set": plan.view_set,
        "kind": plan.kind,
        "samples": plan.rows,
        "views": plan.views,
        "shards": plan.shards,
        "built_samples": built.samples,
        "seconds": round(built.seconds, 3),
        "views_per_second": built.samples * plan.views / built.seconds if built.samples else None,
        "bytes": sum(outcome.num_bytes for outcome in built.outcomes),
        "skipped": len(built.skipped),
        "complete": built.manifest is not None,
        "left_shards": built.left,
    }


def _goals(view_set: ViewSet) -> dict[str, Any]:
    """Return the share of samples whose views all met their goal, where a generator has one."""
    params = view_set.params
    if "converged" not in params:
        return {}
    converged = (params["converged"] == 1).reshape(len(params["converged"]), -1).all(axis=1)
    return {"converged_samples": int(converged.sum()), "converged_share": float(converged.mean())}


def _summary_text(
    facts: dict[str, Any], verdict: Verdict | None, report: InversionReport | None, alike: str
) -> str:
    from viewstore.costs.estimate import size

    views = facts["built_samples"] * facts["views"]
    name = facts["view_set"]
    if facts["built_samples"]:
        lines = [
            f"{name}: {counted(views, 'view')} of {counted(facts['built_samples'], 'sample')} in "
            f"{duration(facts['seconds'])}, {facts['views_per_second']:.0f} views/s, "
            f"{size(facts['bytes'])}"
        ]
    elif facts["left_shards"]:
        lines = [f"{name}: nothing is left to build of what was asked for"]
    else:
        all_of = f"all {facts['shards']} shards were" if facts["shards"] > 1 else "its shard was"
        lines = [f"{name}: {all_of} there already"]
    failed = facts["failed_samples"]
    if failed:
        one = len(failed) == 1
        kept = "sample failed and is" if one else "samples failed and are"
        more = f", and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        lines.append(
            f"{len(failed)} {kept} kept with {'its' if one else 'their'} status: "
            f"{', '.join(failed[:SHOWN])}{more}"
        )
    if verdict is not None:
        lines += verdict.lines()
        if alike:
            lines.append(f"images that look alike: {alike}")
        picture = "" if facts["kind"] == "columns" else " --sheet views.png"
        if report is not None:
            lines += ["inversion:", *report.lines()]
            picture = f" --view-set {name} --worst{picture}"
        lines.append(f"look at them: viewstore inspect {quoted(facts['store'])}{picture}")
    elif facts["left_shards"]:
        lines.append(f"not complete yet: viewstore status {quoted(facts['store'])}")
    else:
        lines.append(f"all slices are built: viewstore finalise {quoted(facts['store'])}")
    return "\n".join(lines)
