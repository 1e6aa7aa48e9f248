"""The rounds of a contest: who takes part, pixels compared, fresh processes measured in turns."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from contest import results
from contest.pixels import compare
from contest.process import ContenderFailedError, Order, Process
from contest.results import Entry
from contest.workloads import Workload, checked
from viewstore.errors import UnavailableError

PEERS = "VIEWSTORE_PEERS_PYTHON"
CHECK_SECONDS = 400.0

# Which packages a contender needs, and in which workloads it has nothing to show.
CONTENDERS: dict[str, tuple[str, ...]] = {
    "limit": ("torch", "simplejpeg", "viewstore"),
    "limit filter=antialias": ("torch", "simplejpeg", "viewstore"),
    "viewstore": ("viewstore",),
    "viewstore verify=off": ("viewstore",),
    "viewstore filter=antialias": ("viewstore",),
    "ffcv": ("ffcv",),
    "dali": ("nvidia.dali",),
    "dali antialias=False": ("nvidia.dali",),
    "torch": ("torch", "cv2"),
    "torch filter=antialias": ("torch", "cv2"),
    "webdataset": ("webdataset", "torch", "cv2"),
    "webdataset filter=antialias": ("webdataset", "torch", "cv2"),
    "spdl": ("spdl.pipeline", "cv2", "simplejpeg"),
    "spdl filter=antialias": ("spdl.pipeline", "cv2", "simplejpeg", "torch"),
}
ANTIALIAS = {"filter": "antialias"}
OVERRIDES = {
    "limit filter=antialias": ANTIALIAS,
    "viewstore verify=off": {"verify": "off"},
    "viewstore filter=antialias": ANTIALIAS,
    "torch filter=antialias": ANTIALIAS,
    "webdataset filter=antialias": ANTIALIAS,
    "spdl filter=antialias": ANTIALIAS,
    "dali antialias=False": {"antialias": False},
}
# Elsewhere buffers cost nothing beside decoding, and nothing is resized.
ONLY = {
    "limit filter=antialias": "online",
    "viewstore filter=antialias": "online",
    "torch filter=antialias": "online",
    "webdataset filter=antialias": "online",
    "spdl filter=antialias": "online",
    "dali antialias=False": "online",
}
TUNE_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run measures.

    Attributes:
        rounds: Fresh processes of each contender.
        epochs: Measured epochs in each process, in turns with the others.
        tuned: Best settings by workload and contender; others take their default.
    """

    folder: Path
    cores: int
    rounds: int
    epochs: int
    least_seconds: float
    warm_up_seconds: float
    tuned: dict[str, dict[str, dict[str, Any]]]
    say: Callable[[str], None]

    def order(self, workload: Workload, name: str, settings: dict[str, Any]) -> Order:
        """Return what a contender's process is started with."""
        return Order(
            contender=module_of(name),
            workload=workload,
            data=self.folder,
            settings=settings,
            cores=self.cores,
            least_seconds=self.least_seconds,
            warm_up_seconds=self.warm_up_seconds,
        )


def module_of(name: str) -> str:
    """Return the contender that a line of the table is of."""
    return name.partition(" ")[0]


def pythons(names: list[str]) -> dict[str, str | None]:
    """Return the Python that has what each contender needs: this one, the peers', or None."""
    candidates = [sys.executable]
    if os.environ.get(PEERS):
        candidates.append(os.environ[PEERS])
    wanted = sorted({package for name in names for package in CONTENDERS[name]})
    has = {python: installed(python, wanted) for python in candidates}
    return {
        name: next((each for each in candidates if has[each].issuperset(CONTENDERS[name])), None)
        for name in names
    }


def installed(python: str, packages: list[str]) -> set[str]:
    """Return those of some packages that a Python has. Raises UnavailableError: it is none."""
    code = (
        "import importlib.util as u, sys; "
        "found = [n for n in sys.argv[1:] if u.find_spec(n.partition('.')[0]) and u.find_spec(n)]; "
        "print(*found)"
    )
    try:
        ran = subprocess.run(
            [python, "-c", code, *packages], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError(
            f"{python} does not run as a Python: {error}", where=PEERS, fix=f"unset {PEERS}"
        ) from error
    return set(ran.stdout.split())


def contest(run: Run, workload: Workload, found: dict[str, str | None]) -> dict[str, Entry]:
    """Return an entry for each contender: compared, then measured in turns."""
    found = {n: p for n, p in found.items() if ONLY.get(n, workload.kind) == workload.kind}
    entries = {name: Entry() for name in found}
    for name, python in found.items():
        entry = entries[name]
        if python is None:
            entry.status = "absent"
            entry.why = f"no Python here has {', '.join(CONTENDERS[name])}; see {PEERS}"
            continue
        entry.settings = settings_of(run, workload, name)
        if module_of(name) != "limit":
            check(run, workload, name, python, entry)
    for number in range(run.rounds):
        measure_round(run, workload, found, entries, number)
    return entries


def settings_of(run: Run, workload: Workload, name: str) -> dict[str, Any]:
    """Return the settings that beat the others when they were tried; what lacks is default."""
    known = run.tuned.get(workload.name, {}).get(module_of(name), {})
    return known | OVERRIDES.get(name, {})


def told(entry: Entry, answer: dict[str, Any]) -> None:
    """Keep what a process says of itself."""
    entry.versions, entry.settings = answer["versions"], answer["settings"]


def check(run: Run, workload: Workload, name: str, python: str, entry: Entry) -> None:
    """Compare the pixels of a contender; it is not measured if they are wrong."""
    shown = checked(workload)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npz"
        order = replace(run.order(workload, name, entry.settings), check=path)
        try:
            with Process(python, order) as process:
                told(entry, process.hear(CHECK_SECONDS))
            compared = compare(path, run.folder / shown.data, shown, name)
        except (ContenderFailedError, ValueError) as error:
            entry.failed(f"pixels: {error}")
        else:
            entry.pixels = asdict(compared)
            if not compared.passed:
                entry.failed(
                    f"its pixels differ from the reference: {compared.mean:.2f} on average, "
                    f"{compared.tolerance} at most; {compared.same} samples show a view twice"
                )
    run.say(f"{workload.name} {name}: {entry.why or entry.pixels}")


def measure_round(
    run: Run,
    workload: Workload,
    found: dict[str, str | None],
    entries: dict[str, Entry],
    number: int,
) -> None:
    """Start a fresh process for each contender, then measure epochs in turns."""
    ready = {
        name: python
        for name, python in found.items()
        if python is not None and entries[name].status == "measured"
    }
    # What other processes map stays in the page cache: from disk each is measured alone.
    groups = [[name] for name in ready] if workload.from_disk else [list(ready)]
    for group in groups:
        with ExitStack() as stack:
            running: dict[str, Process] = {}
            for name in group:
                order = run.order(workload, name, entries[name].settings)
                running[name] = stack.enter_context(Process(ready[name], order))
                attempt(entries, running, name, start)
            for epoch in range(run.epochs):
                for name in list(running):
                    attempt(entries, running, name, partial(measure, number=number, epoch=epoch))
    for name, entry in entries.items():
        if entry.repeats:
            facts = results.summary(entry.repeats)
            rate, cpu = facts["views_per_second"]["median"], facts["cpu_microseconds_per_view"]
            run.say(f"{workload.name} {name}: {rate:.0f} views/s, {cpu:.2f} us of CPU each")
        else:
            run.say(f"{workload.name} {name}: {entry.status}, {entry.why}")


Step = Callable[[Entry, Process], None]


def attempt(entries: dict[str, Entry], running: dict[str, Process], name: str, step: Step) -> None:
    """Take a step with a process; one that fails is out."""
    try:
        step(entries[name], running[name])
    except ContenderFailedError as error:
        entries[name].failed(str(error))
        del running[name]


def start(entry: Entry, process: Process) -> None:
    """Wait for the first batch and the warm-up."""
    entry.first_batch_seconds.append(process.first_batch())
    told(entry, process.hear(CHECK_SECONDS))


def measure(entry: Entry, process: Process, *, number: int, epoch: int) -> None:
    """Measure one more epoch, of round `number`."""
    repeat = process.measure()
    entry.peak_bytes = [*entry.peak_bytes[:number], repeat.pop("peak_bytes")]
    entry.repeats.append({"round": number, "epoch": epoch, **repeat})


def tune(
    run: Run, workload: Workload, found: dict[str, str | None]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rate of each variant of each contender, the best first."""
    rates: dict[str, list[dict[str, Any]]] = {}
    for name, python in found.items():
        if python is None or name in OVERRIDES:
            continue
        listing = replace(run.order(workload, name, {}), list_variants=True)
        with Process(python, listing) as process:
            every = process.hear(CHECK_SECONDS)["variants"]
        for settings in every:
            repeats = []
            try:
                with Process(python, run.order(workload, name, settings)) as process:
                    process.first_batch()
                    process.hear(CHECK_SECONDS)
                    repeats = [process.measure() for _ in range(TUNE_EPOCHS)]
            except ContenderFailedError as error:
                run.say(f"{workload.name} {name} {settings}: {error}")
                continue
            rate = results.summary(repeats)["views_per_second"]["median"]
            run.say(f"{workload.name} {name} {settings}: {rate:.0f} views/s")
            tried = {"settings": settings, "views_per_second": rate}
            rates.setdefault(name, []).append(tried)
    for tried in rates.values():
        tried.sort(key=lambda each: -each["views_per_second"])
    return rates
