"""A generator that does what a script says, and leaves a file for each thing that it did.

Real builds find it as one of an installed package. The script lies in the folder that `FOLDER`
names, where every worker sees it, on whatever node, and may be replaced while units run; files are
made in one step, so that workers which run at once count right.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from viewstore.errors import UnavailableError
from viewstore.format.columns import Column, Status
from viewstore.generators.contract import Context, OfSource, Rendered, Sample

FOLDER = "SCRIPTED_FOLDER"  # environment variable; the folder may be a link that moves on
REPO = Path(__file__).parents[1]
PATIENCE = 600.0
SLOW_LOAD = 1.5


@dataclass(frozen=True, kw_only=True)
class Script:
    """What happens to workers and units.

    Attributes:
        load: What happens to a worker that makes its generator; "wait" ends with a file `go`.
        loads: To how many workers; None: to all.
        render: What happens when a unit is run.
        row: To the unit of this row; None: to all.
        times: How often; None: always.
        seconds: What a slow sample takes.
    """

    load: Literal["ok", "raise", "wait", "slow"] = "ok"
    loads: int | None = None
    render: Literal["ok", "raise", "die", "hang", "wait", "slow"] = "ok"
    row: int | None = None
    times: int | None = None
    seconds: float = 0.2

    @staticmethod
    def of(folder: Path) -> Script:
        """Return the script of a folder."""
        return Script(**json.loads((folder / "script").read_text()))

    def write(self, folder: Path) -> None:
        """Make it the script of a folder."""
        temporary = folder / f"{uuid.uuid4()}"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(folder / "script")


def install(home: Path) -> dict[str, str]:
    """Make a package of this generator, `scripted`; return what processes that find it have."""
    package = home / "site" / "scripted-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    target = f"{__name__}:{Scripted.__name__}"
    (package / "entry_points.txt").write_text(f"[viewstore.generators]\nscripted = {target}\n")
    path = os.pathsep.join([str(home / "site"), str(REPO)])
    return {"PYTHONPATH": path, FOLDER: str(home / "now")}


def begin(home: Path, name: str, script: Script) -> Path:
    """Return a new folder, to whose script workers look from now on."""
    folder = home / name
    folder.mkdir()
    script.write(folder)
    link = home / f"{name}.link"
    link.symlink_to(folder)
    link.replace(home / "now")
    return folder


@dataclass(frozen=True)
class Mark:
    """What a process left when it did something.

    Attributes:
        pid: The process.
        row: Of the sample; 0 where it is about none.
        job: Number of the array of Slurm that the process was a task of; "": of none.
    """

    pid: int
    row: int
    job: str


def marks(folder: Path, what: str) -> list[Mark]:
    """Return the marks of what was done: "loading", "begun", "fault", "done"."""
    found = [path.name.split("-")[1:4] for path in folder.glob(f"{what}-*")]
    return [Mark(int(pid), int(row), job) for pid, row, job in found]


def mark(folder: Path, what: str, row: int = 0) -> None:
    """Leave a mark of this process."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    (folder / f"{what}-{os.getpid()}-{row}-{job}-{uuid.uuid4().hex}").touch()


def _claim(folder: Path, what: str, most: int | None) -> bool:
    """Return whether this is one of the first `most` that ask."""
    for number in range(most or 0):
        try:
            (folder / f"claimed-{what}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return most is None


def _wait_for_go(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class Scripted(OfSource):
    """One view of each sample: its image, a little changed. Nothing is automatic."""

    VERSION: ClassVar[int] = 1

    views: int = 1
    height: int = 8
    width: int = 8

    def resolve(self, context: Context) -> Scripted:
        """Return the same settings."""
        del context
        return self

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("expert",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns."""
        return (Column(name="status", dtype="u1", shape=(self.views,)),)

    def make(self, context: Context) -> ScriptedGenerator:
        """Return the generator, unless the script says otherwise."""
        folder = Path(os.environ[FOLDER]).resolve()
        script = Script.of(folder)
        mark(folder, "loading")
        if script.load != "ok" and _claim(folder, "load", script.loads):
            if script.load == "raise":
                raise UnavailableError("no networks here", where="the script", fix="rewrite it")
            _wait_for_go(folder) if script.load == "wait" else time.sleep(SLOW_LOAD)
        return ScriptedGenerator(context.seed, folder)


@dataclass
class ScriptedGenerator:
    """Renders with the accidents of a script."""

    seed: int
    folder: Path

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the view of each sample."""
        for sample in samples:
            script = Script.of(self.folder)
            mark(self.folder, "begun", sample.index)
            if script.row in (None, sample.index):
                self._happen(script, sample.index)
            pixels = sample.image[None] ^ np.uint8(self.seed + sample.index)
            mark(self.folder, "done", sample.index)
            yield Rendered(sample.index, pixels, {"status": np.full(1, Status.OK, np.uint8)})

    def _happen(self, script: Script, row: int) -> None:
        what = script.render
        if what in ("raise", "die", "hang") and _claim(self.folder, "render", script.times):
            mark(self.folder, "fault", row)
            if what == "raise":
                raise RuntimeError(f"the script forbids row {row}")
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(PATIENCE)
        if what == "slow":
            time.sleep(script.seconds)
        if what == "wait":
            _wait_for_go(self.folder)
