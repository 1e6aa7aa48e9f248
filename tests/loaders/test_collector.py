"""The garbage collector is as it was, whatever was made to stay."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from viewstore.loaders.collector import staying


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_rests_and_is_then_as_it_was(collects: bool) -> None:
    if not collects:
        gc.disable()
    with staying():
        assert not gc.isenabled()
    assert gc.isenabled() == collects


def test_an_import_that_fails_leaves_the_collector_at_work() -> None:
    with pytest.raises(ImportError), staying():
        raise ImportError
    assert gc.isenabled()


def test_what_was_made_is_old_and_is_still_collected_once_it_is_garbage() -> None:
    with staying():
        made = Cycle()
    gone = weakref.ref(made)
    del made
    gc.collect(1)
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    with staying():
        pass
    assert gc.get_freeze_count() > 0
