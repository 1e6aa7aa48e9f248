"""Trainings stopped from outside: the state is written first, and what goes on is named."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from types import FrameType

import click

from viewstore.cli.terminal import Terminal
from viewstore.errors import StoppedError
from viewstore.shards.signals import StopRequest, interrupts_to, stop_signals_to

INTERRUPTED = 130


@contextlib.contextmanager
def stoppable(terminal: Terminal) -> Iterator[StopRequest]:
    """Give a block the request to stop that stop signals and the first Ctrl-C make.

    A second Ctrl-C ends the block at once. Where the block raises StoppedError without saying what
    to do, that is the command that is running: it goes on.
    """
    stop = StopRequest(grace_seconds=0.0)
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        stop.request(number, frame)

    with stop_signals_to(stop.request), interrupts_to(interrupt):
        try:
            yield stop
        except StoppedError as error:
            command = shlex.join(["viewstore", *terminal.arguments])
            told = error.located(
                error.where or "", fix=f"run the same command again to go on: {command}"
            )
            if not interrupted:
                raise told from error
            terminal.error(told)
            raise click.exceptions.Exit(INTERRUPTED) from error
