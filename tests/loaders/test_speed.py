"""How fast a loader is: what cannot be shown does not end the measurement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import viewstore
from viewstore.errors import FormatError
from viewstore.format.columns import Status
from viewstore.loaders import Cached, ViewLoader
from viewstore.loaders.speed import loader_speed
from viewstore.store.store import Store


@pytest.fixture
def patchy(digits: Store) -> Store:
    """A store of which the first view of each row was not made, the others were."""
    store = viewstore.open(digits.root)
    view_set = store.view_sets["hard"]
    status = np.full((len(view_set), view_set.num_views), Status.OK, np.uint8)
    status[:, 0] = Status.FAILED
    view_set.params._whole["status"] = status
    view_set.stats["status"] = replace(view_set.stats["status"], max=float(Status.FAILED))
    return store


def test_views_that_were_not_made_give_way_to_others(patchy: Store) -> None:
    with pytest.raises(FormatError, match="was not made"):
        list(ViewLoader(patchy, [Cached("hard", n=2)], batch_size=16, num_threads=0))
    speed = loader_speed(patchy, [Cached("hard", n=2)], batch_size=16, threads=1, seconds=0.01)
    assert speed.samples_per_second > 0
