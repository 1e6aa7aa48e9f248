"""Writes the table of results/loaders.json between the markers of README.md, losses included.

python benchmarks/table.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from viewstore.files.disk import write_atomic

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "loaders.json"
BEGIN, END = "<!-- loaders table: begin -->", "<!-- loaders table: end -->"
OURS, LIMIT = "viewstore", "limit"
SECOND_LINES = {
    "verify=off": '`verify="off"`',
    "antialias=False": "without antialiasing: other pictures",
    "filter=antialias": "resized by torch's antialiased filter",
}
NAMES = {
    LIMIT: "limit",
    OURS: "viewstore",
    "ffcv": "FFCV",
    "dali": "DALI CPU",
    "torch": "torch + cv2",
    "webdataset": "WebDataset",
    "spdl": "SPDL",
}


def document(record: dict[str, Any]) -> str:
    """Return the tables of a run, for people who decide what to use."""
    workloads = record["workloads"]
    names = [
        name for name in NAMES if any(name in each["contenders"] for each in workloads.values())
    ]
    lines = [
        "Views per second, medians; more is better.",
        "",
        _row(["", "workload", *(NAMES[name] for name in names), "of limit", "of best peer"]),
        _row(["---", "---", *["---:"] * (len(names) + 2)]),
    ]
    for key, workload in workloads.items():
        lines += [_row(each) for each in _rates(key, workload, names)]
    lines += [
        "",
        "Seconds from the start of a cold process to its first batch, imports included.",
        "",
        _row(["", *(NAMES[name] for name in names)]),
        _row(["---", *["---:"] * len(names)]),
    ]
    lines += [
        _row([key, *(_first(workload, name) for name in names)])
        for key, workload in workloads.items()
    ]
    return "\n".join([*lines, "", *_notes(record)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rates(key: str, workload: dict[str, Any], names: list[str]) -> list[list[str]]:
    """Return the line of a workload, and those of other settings below it."""
    title = f"{workload['title']}, batch {workload['batch_size']}"
    found = [[key, title, *(_shown(rate(workload, name)) for name in names), *_shares(workload)]]
    for line, words in SECOND_LINES.items():
        rates = [rate(workload, f"{name} {line}") for name in names]
        if any(rates):
            cells = [_shown(each) if each else "" for each in rates]
            found.append(["", words, *cells, *_shares(workload, f" {line}")])
    return found


def rate(workload: dict[str, Any], name: str) -> float | None:
    """Return the median views/s of a contender, or None."""
    entry = workload["contenders"].get(name, {})
    if entry.get("status") != "measured":
        return None
    median: float = entry["views_per_second"]["median"]
    return median


def _shares(workload: dict[str, Any], line: str = "") -> list[str]:
    """Return our rate as a share of the limit and of the best peer's, on one line of the table."""
    ours, limit = (rate(workload, f"{name}{line}") for name in (OURS, LIMIT))
    limit = limit or rate(workload, LIMIT)
    of_limit = f"{ours / limit:.2f}" if ours and limit else "-"
    peers = [name for name in NAMES if name not in (OURS, LIMIT)]
    rates = {n: r for n in peers if (r := rate(workload, f"{n}{line}")) is not None}
    if not ours or not rates:
        return [of_limit, "-" if not line else ""]
    best = max(rates, key=lambda name: rates[name])
    return [of_limit, f"{ours / rates[best]:.2f}x {NAMES[best]}"]


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.0f}k" if value >= 1e5 else f"{value:,.0f}"


def _first(workload: dict[str, Any], name: str) -> str:
    entry = workload["contenders"].get(name, {})
    times = entry.get("first_batch_seconds") if entry.get("status") == "measured" else None
    return f"{sorted(times)[len(times) // 2]:.1f}" if times else "-"


def _notes(record: dict[str, Any]) -> list[str]:
    """Return where and how the figures were taken, and why some are missing."""
    protocol, machine = record["protocol"], record["machine"]
    versions: dict[str, str] = {}
    noisy = 0
    missing: dict[str, list[str]] = {}
    for key, workload in record["workloads"].items():
        for name, entry in workload["contenders"].items():
            versions |= entry["versions"]
            noisy += entry.get("noisy_repeats", 0)
            if entry["status"] != "measured":
                why = f"{NAMES.get(name, name)} {entry['status']}: {entry['why']}"
                missing.setdefault(why, []).append(key)
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        f"{record['cores']} cores of {machine['processor']}; {protocol['epochs']} epochs of "
        f"each in turns, in {protocol['rounds']} rounds of fresh processes; commit "
        f"{record['commit'][:10]}; {listed}. Limit: the copies, or the decoding and resizing, "
        "alone on all cores.",
    ]
    if not record["quiet"]:
        lines.append("**The machine was busy with other work: trust neither rates nor ratios.**")
    if noisy:
        lines.append(f"Other processes took more than a quarter of a core in {noisy} epochs.")
    lines += [f"{', '.join(keys)}: {why}." for why, keys in missing.items()]
    return lines


def inserted(text: str, block: str, *, begin: str = BEGIN, end: str = END) -> str:
    """Return `text` with `block` between the markers. Raises ValueError: they are not there."""
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page must have the lines {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)
    if not options.results.is_file():
        sys.exit(
            f"there are no results at {options.results}; run benchmarks/loaders.py --out first"
        )
    block = document(json.loads(options.results.read_text()))
    page = inserted(options.page.read_text(), block)
    write_atomic(options.page.absolute(), page.encode())


if __name__ == "__main__":
    main()
