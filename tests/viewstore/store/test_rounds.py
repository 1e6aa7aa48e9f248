"""Which round of a view set, and of what describes it, a name means."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.loaders.families import family_store
from tests.loaders.told import tell
from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Mix, ViewLoader
from viewstore.store.rounds import newest_round, round_names, rounds_of
from viewstore.store.store import Store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of views; `hard` describes the first, `hard-r2` and `hard-r10` the second."""
    out = tmp_path_factory.mktemp("rounds") / "store"
    family_store(out, {"cands": 2, "cands-r2": 2})
    for name, of in (("hard", "cands"), ("hard-r2", "cands-r2"), ("hard-r10", "cands-r2")):
        tell(out, name, of)
    return out


@pytest.fixture
def store(root: Path) -> Store:
    return viewstore.open(root)


def joined(store: Store, views: str, columns: str) -> str:
    """Return the columns set that a loader joins to `views` by the name `columns`."""
    shown = [Cached(views, params=(f"{columns}.score",))]
    with ViewLoader(store, shown, batch_size=70, num_threads=0) as loader:
        (slots,) = loader._assembly.stores[0].cached
        return slots.joined[0].view_set.name


def test_a_name_means_the_newest_round(store: Store) -> None:
    assert [each.name for each in rounds_of(store, "hard")] == ["hard-r10", "hard-r2", "hard"]
    assert newest_round(store, "hard").name == "hard-r10"
    assert newest_round(store, "hard-r2").name == "hard-r2"
    assert newest_round(store, "hard-r1").name == "hard"
    assert rounds_of(store, "hard-r3") == rounds_of(store, "har") == []
    for name in ("hard-r3", "har", "har-r1"):
        with pytest.raises(ConfigError, match="there is no view set"):
            newest_round(store, name)


def test_a_round_that_is_not_complete_is_passed_over(store: Store) -> None:
    store.view_sets["hard-r10"].__dict__["index"] = type(
        "Index", (), {"complete": False, "root": "", "shards": ()}
    )()
    assert newest_round(store, "hard").name == "hard-r2"
    assert joined(store, "cands", "hard") == "hard-r2"


def test_columns_are_the_newest_of_the_round_that_is_shown(store: Store) -> None:
    assert joined(store, "cands", "hard") == "hard-r10"
    assert joined(store, "cands-r2", "hard-r2") == "hard-r2"
    assert joined(store, "cands-r1", "hard") == "hard"
    assert joined(store, "cands-r1", "hard-r1") == "hard"


@pytest.mark.parametrize(
    ("views", "columns", "message"),
    [
        ("cands", "hard-r1", "hard describes cands-r1, not cands-r2"),
        ("cands-r1", "hard-r2", "hard-r2 describes cands-r2, not cands-r1"),
    ],
)
def test_columns_of_another_round_are_refused(
    store: Store, views: str, columns: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        joined(store, views, columns)
    assert (str(caught.value), caught.value.code) == (message, "VS103")


def test_columns_of_a_set_that_was_built_again_are_refused(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    shutil.copytree(root, out)
    shutil.rmtree(out / "views" / "cands-r2")
    family_store(out, {"cands-r2": 3})
    with pytest.raises(ConfigError) as caught:
        joined(viewstore.open(out), "cands", "hard")
    assert str(caught.value) == "hard-r10 describes another cands-r2, not the one that is there now"


def test_rounds_are_mixed_at_their_rates(store: Store) -> None:
    """Of 70 rows in 40 epochs a quarter is of the first round, within 4 sigma."""
    stored = {name: np.stack(list(store.view_sets[name])) for name in ("cands", "cands-r2")}
    shown = dict.fromkeys(stored, 0)
    mixed = [Mix({"cands-r1": 1, "cands-r2": 3})]
    with ViewLoader(store, mixed, batch_size=70, num_threads=0) as loader:
        for epoch in range(40):
            loader.set_epoch(epoch)
            (batch,) = loader
            pixels = np.moveaxis(np.asarray(batch.views[0].pixels), 1, -1)
            rows, numbers = (np.asarray(each) for each in (batch.index, batch.views[0].view))
            for name, views in stored.items():
                shown[name] += int((views[rows, numbers] == pixels).all((1, 2, 3)).sum())
    total = 40 * 70
    assert sum(shown.values()) == total  # no view is in both
    assert abs(shown["cands"] - total / 4) < 4 * (total * 3 / 16) ** 0.5


def test_only_rounds_of_one_name_are_counted() -> None:
    assert round_names("a", "a-r2") == ("a-r1", "a-r2")
    assert round_names("a-r3", "a-r2") == ("a-r3", "a-r2")
    assert round_names("a", "b-r2") == ("a", "b-r2")
    assert round_names("a", "a") == ("a", "a")
