"""Stop signals: heard at any moment, once, and by nothing that handles errors."""

import importlib
import signal
import sys
import time
from pathlib import Path

import pytest

from viewstore.shards.signals import STOP_SIGNALS, Stopped, heard_by, held_back, raise_stopped


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

    with pytest.raises(Stopped), heard_by(raise_stopped):
        stopped_twice()
    assert cleaned == [True]


def test_a_signal_in_an_import_is_heard_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised here it would be a RuntimeError, and in the lock of the import it would be lost."""
    (tmp_path / "sends_a_signal.py").write_text(
        "import signal\n"
        "class Sends:\n"
        "    def __set_name__(self, owner, name):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "class Holder:\n"
        "    sends = Sends()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def imported() -> None:
        importlib.import_module("sends_a_signal")
        time.sleep(60)

    with pytest.raises(Stopped), heard_by(raise_stopped):
        imported()
    assert hasattr(sys.modules["sends_a_signal"], "Holder")


def test_who_heard_before_hears_again() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with heard_by(raise_stopped):
        assert {signal.getsignal(number) for number in STOP_SIGNALS} == {raise_stopped}
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_that_was_held_back_is_heard_afterwards() -> None:
    heard: list[int] = []
    with heard_by(lambda number, frame: heard.append(number)):
        with held_back():
            signal.raise_signal(signal.SIGUSR1)
            assert heard == []
        assert heard == [signal.SIGUSR1]
