"""Progress as one moving line on a terminal, made of rich's columns."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from viewstore.cli.text import escape, facts_text
from viewstore.progress import Fact


class _SpeedColumn(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text(f"{unit}" if speed is None else f"{unit}  {speed:.1f} {unit}/s")


class _TimeLeftColumn(TimeRemainingColumn):
    """The time left, once more than `settle` units are done."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.completed > task.fields["settle"] else Text()


class Bar:
    """Shows a bar on stderr until its `end`; what is written there meanwhile stands above it."""

    def __init__(self, label: str, total: int, unit: str, *, settle: int = 0) -> None:
        self.facts: dict[str, Fact] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _SpeedColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            _TimeLeftColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task(
            escape(label), total=total, unit=escape(unit), facts="", settle=settle
        )
        self.progress.start()

    def advance(self, count: int, facts: dict[str, Fact]) -> None:
        """Count units; `facts` replace those shown before."""
        self.facts |= facts
        text = escape(facts_text(self.facts)).strip()
        self.progress.update(self.task, advance=count, facts=text)

    def end(self) -> None:
        """Take the bar away."""
        self.progress.stop()
