"""What users give: numbers of any type, words, paths; what makes no sense is refused when made."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.files.cache_settings import CacheSettings
from viewstore.loaders import Cached, Mix, Online, ViewIterableDataset, ViewLoader
from viewstore.store.store import Store


def make(store: Any, views: Any = "hard", **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, views, **{"batch_size": 16, "num_threads": 0, **changes})


def rows_of(loader: ViewLoader) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader]


def test_integers_of_any_type_are_plain_ones(digits: Store) -> None:
    given = {"seed": np.int64(3), "batch_size": np.int32(16), "prefetch": np.uint8(2)}
    loader = make(digits, [Cached("hard", n=np.int64(2))], **given)
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    assert rows_of(loader) == rows_of(make(digits, "hard,hard", seed=3))
    loader.set_epoch(np.int64(4))
    assert json.loads(json.dumps(loader.state_dict()))["epoch"] == 4
    make(digits, [Mix({"hard": np.float32(1), "digits": 2})]).state_dict()


@pytest.mark.parametrize(
    ("views", "same"),
    [
        (["hard", "cached:digits"], "hard,cached:digits"),
        (Cached("hard", n=2), "hard,hard"),
        (("hard", Online("simclr")), "hard,online:simclr"),
    ],
)
def test_views_are_words_or_objects_alone_or_together(
    digits: Store,
    views: Any,  # noqa: ANN401
    same: str,
) -> None:
    assert make(digits, views).slots == make(digits, same).slots


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1.5},
        {"seed": 2**53},
        {"shuffle": True},
        {"batch_size": "16"},
        {"batch_size": 256.0},
        {"batch_size": None},
        {"rank": "0", "world_size": 1},
        {"prefetch": 1.5},
        {"resident": "yes"},
        {"num_threads": -1},
        {"pin": "no"},
        {"where": 3},
        {"views": None},
        {"views": [3]},
    ],
)
def test_what_makes_no_sense_is_refused_when_made(digits: Store, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(digits, **changes)


@pytest.mark.parametrize(("text", "right"), [("", True), ("2", True), ("x", False), ("0", False)])
def test_the_ranks_of_a_host_are_a_number_or_nothing(
    digits: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, right: bool
) -> None:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    if right:
        make(digits, num_threads=1).close()
    else:
        with pytest.raises(ConfigError, match="LOCAL_WORLD_SIZE must be"):
            make(digits, num_threads=1)


@pytest.mark.parametrize("state", [None, 3, "x"])
def test_what_is_no_state_is_refused(digits: Store, state: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="loader state must be what state_dict"):
        make(digits).load_state_dict(state)


def test_a_path_is_taken_for_the_store_that_lies_there(digits: Store) -> None:
    whole = rows_of(make(digits))
    assert rows_of(make(str(digits.root))) == rows_of(make(digits.root)) == whole
    assert len(make([str(digits.root), digits])) == 140 // 16
    dataset = ViewIterableDataset(str(digits.root), "hard", batch_size=16)
    assert [batch.index.tolist() for batch in dataset] == whole
    with pytest.raises(ConfigError, match="there is no store at"):
        make("not-there")


def test_a_batch_travels_and_prints_in_a_line(digits: Store) -> None:
    batch = next(iter(make(digits, "hard,online:dino,online:dino")))
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(batch))))
    for view, other in zip(batch.views, again.views, strict=True):
        assert view.pixels.equal(other.pixels)
        for name, column in view.params.items():
            assert np.array_equal(column.numpy(), other.params[name].numpy())
    assert len(repr(batch)) < 1000


def test_stores_that_were_used_travel(digits: Store) -> None:
    views = digits.view_sets["hard"]
    views.params["status"], views[3]
    again = pickle.loads(pickle.dumps(digits))
    assert again.root == digits.root
    assert np.array_equal(again.view_sets["hard"][2:5], np.stack([views[n] for n in (2, 3, 4)]))
    assert len(again) == 70
    for wrong in (lambda: again.view_sets["hrad"], lambda: again[0], lambda: views["a"]):
        with pytest.raises(ConfigError):
            wrong()  # type: ignore[no-untyped-call]


def test_cache_settings_have_defaults_and_know_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", "~/cache")
    assert CacheSettings(limit_bytes=0).directory == tmp_path / "cache"
    assert CacheSettings.from_environment().directory == tmp_path / "cache"
    assert CacheSettings(directory="c").directory == Path("c")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [3, None, {}])
def test_what_is_no_store_is_refused_by_name(given: object) -> None:
    with pytest.raises(ConfigError, match="a store must be a Store, a path or a URL, got"):
        make(given)


def test_a_column_that_a_view_lacks_is_named_with_the_nearest(digits: Store) -> None:
    params = next(iter(make(digits))).views[0].params
    with pytest.raises(KeyError, match="there is no params column 'crop_bx'; did you mean 'crop_"):
        params["crop_bx"]
    assert params.get("crop_bx") is None
