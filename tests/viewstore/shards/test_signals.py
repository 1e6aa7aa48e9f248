"""Stop signals: heard at any moment, once, and by nothing that handles errors."""

import ast
import importlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from viewstore.shards.signals import (
    STOP_SIGNALS,
    RaiseOnce,
    Stopped,
    stop_signals_blocked,
    stop_signals_raise,
    stop_signals_to,
)

ROOT = Path(__file__).parents[3]


def test_a_second_signal_does_not_break_what_cleans_up() -> None:
    cleaned = []

    def stopped_twice() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            try:
                raise KeyError
            except KeyError:
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(Stopped), stop_signals_raise():
        stopped_twice()
    assert cleaned == [True]


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C is heard, which background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "raised"), [("SIGTERM", Stopped), ("SIGINT", KeyboardInterrupt)]
)
def test_a_signal_in_an_import_is_heard_after_it(
    number: str, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised here it would be a RuntimeError, and in the lock of the import it would be lost."""
    (tmp_path / f"sends_{number}.py").write_text(
        "import signal\n"
        "class Sends:\n"
        "    def __set_name__(self, owner, name):\n"
        f"        signal.raise_signal(signal.{number})\n"
        "class Holder:\n"
        "    sends = Sends()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def imported() -> None:
        importlib.import_module(f"sends_{number}")
        time.sleep(60)

    with pytest.raises(raised), stop_signals_raise():
        imported()
    assert hasattr(sys.modules[f"sends_{number}"], "Holder")


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_that_arrives_while_an_object_is_deleted_is_not_lost(
    number: signal.Signals, raised: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """Python cannot raise there: it would print "Exception ignored in" and go on."""

    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def dropped() -> None:
        held = Deleted()
        del held
        time.sleep(60)

    with pytest.raises(raised), stop_signals_raise():
        dropped()
    assert capsys.readouterr().err == ""


def test_what_else_cannot_be_raised_is_said_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deleted:
        def __del__(self) -> None:
            raise ValueError("in a __del__")

    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: said.append(str(lost.exc_value)))
    before = sys.unraisablehook
    with stop_signals_raise():
        Deleted()
    assert said == ["in a __del__"]
    assert sys.unraisablehook is before


def _classes_with_del() -> list[str]:
    """Return every class of the product that has a `__del__`, as `module:class`."""
    return [
        f"{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}:{node.name}"
        for path in sorted(ROOT.glob("viewstore/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(at, ast.FunctionDef) and at.name == "__del__" for at in node.body)
    ]


def test_an_object_whose_making_a_signal_ended_is_deleted_in_silence() -> None:
    """A signal may end `__init__` before its first line; `__del__` runs all the same."""
    named = _classes_with_del()
    assert len(named) >= 3
    for name in named:
        module, kind = name.split(":")
        made = getattr(importlib.import_module(module), kind)
        made.__new__(made).__del__()


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    handler = RaiseOnce()
    with stop_signals_to(handler):
        assert all(signal.getsignal(number) is handler for number in STOP_SIGNALS)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_an_interrupt_that_was_ignored_stays_so() -> None:
    """As of a background job, whose terminal interrupts another one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals_raise():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_was_blocked_is_heard_afterwards() -> None:
    heard: list[int] = []
    with stop_signals_to(lambda number, frame: heard.append(number)):
        with stop_signals_blocked():
            signal.raise_signal(signal.SIGUSR1)
            assert heard == []
        assert heard == [signal.SIGUSR1]
