"""Where a run writes its numbers and pictures: a table of kinds, opened by `--log csv,..`.

A new kind is a class here with the three functions of `RunLog`, and a row in LOGS. The packages of
TensorBoard and of W&B are optional and imported when such a log is opened.
"""

from __future__ import annotations

import importlib.util
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from viewstore.errors import ConfigError, FormatError, UnavailableError, nearest
from viewstore.files.disk import make_directory, write_atomic
from viewstore.images.colours import Pixels
from viewstore.train.loop.lines import METRICS, Table

# Of a line of metrics.csv, behind its step. What a monitor reads is in curve.jsonl.
COLUMNS = (
    "epoch",
    "loss",
    "lr",
    "min_iou_share",
    "iou",
    "agreement",
    "adv_age",
    "psi",
    "adversary_loss",
    "theta_spread",
    "flat_views",
    "views_per_second",
    "forwards",
    "backwards",
    "step_seconds",
    "wait_share",
    "peak_memory",
)


class RunLog(Protocol):
    """One place that a run writes to. Steps are counted over all epochs."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name, as they are after `step` steps."""

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Write a picture, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Write out what is not written yet; nothing is written after that."""


class CsvLog:
    """`metrics.csv`: the columns of COLUMNS, which spreadsheets and pandas read."""

    def __init__(self, folder: Path, step: int) -> None:
        self._table = Table(folder / METRICS, COLUMNS, step=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row, if one of the values is that of a column."""
        if not values.keys().isdisjoint(COLUMNS):
            self._table.append(step, values)

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Write nothing: a table has no pictures."""

    def close(self) -> None:
        """Do nothing: every row is written at once."""


class TensorBoardLog:
    """Event files in the folder `tensorboard`, which `tensorboard --logdir` shows."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open; what was written of steps after `step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        purged = step + 1 if step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purged)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write each value as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Write an image."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases, gone on with where the folder has its id.

    Project, entity and mode are those of its own variables, such as WANDB_MODE=offline.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Open the run; its steps are a metric of their own, since a resumed run repeats some."""
        import wandb

        del step
        path = folder / "wandb.id"
        make_directory(folder)
        if not path.exists():
            write_atomic(path, uuid.uuid4().hex.encode())
        found = path.read_text()
        if not re.fullmatch("[0-9a-f]{32}", found):
            raise FormatError("this is no id of a run", where=str(path), fix="remove it")
        self._wandb = wandb
        self._run = wandb.init(id=found, resume="allow", name=folder.name, dir=str(folder))
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, with their step."""
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Log an image, with its step."""
        self._run.log({name: self._wandb.Image(picture), "step": step})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class LogKind(NamedTuple):
    """A row of LOGS.

    Attributes:
        open: Opens the log in the folder of a run that goes on after so many steps.
        package: That it needs, if it needs one; `install` is what pip is to install for it.
    """

    open: Callable[[Path, int], RunLog]
    package: str | None = None
    install: str = ""


LOGS: Mapping[str, LogKind] = {
    "csv": LogKind(CsvLog),
    "tensorboard": LogKind(TensorBoardLog, "tensorboard", "'viewstore[logs]'"),
    "wandb": LogKind(WandbLog, "wandb", "wandb"),
}


class RunLogs:
    """Several logs that are written to together: a `RunLog` itself."""

    def __init__(self, logs: Sequence[RunLog]) -> None:
        self._logs = logs

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers to all logs."""
        for log in self._logs:
            log.scalars(step, values)

    def picture(self, step: int, name: str, picture: Pixels) -> None:
        """Write a picture to all logs."""
        for log in self._logs:
            log.picture(step, name, picture)

    def close(self) -> None:
        """Close all logs."""
        for log in self._logs:
            log.close()


def log_kinds(text: str) -> tuple[str, ...]:
    """Return the names of LOGS in "csv,tensorboard".

    Raises:
        ConfigError: There is no such kind.
        UnavailableError: The package of one is not installed.
    """
    names = tuple(dict.fromkeys(name for name in map(str.strip, text.split(",")) if name))
    for name in names:
        if name not in LOGS:
            raise ConfigError(
                f"there is no log {name!r}; {nearest(name, list(LOGS))}",
                code="VS102",
                where=f"--log {text}",
            )
        kind = LOGS[name]
        if kind.package is not None and importlib.util.find_spec(kind.package) is None:
            raise UnavailableError(
                f"--log {name} needs the package {kind.package}",
                where=f"--log {text}",
                fix=f"pip install {kind.install}",
            )
    return names


def open_logs(kinds: Sequence[str], folder: Path, *, step: int) -> RunLogs:
    """Open the logs of a run in its folder; `step` is that of the checkpoint it goes on from.

    Raises:
        FormatError: A file in the folder is none that such a log writes.
    """
    return RunLogs([LOGS[kind].open(folder, step) for kind in kinds])
