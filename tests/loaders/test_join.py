"""Columns joined to the views that are shown, by row and view: against a plain loop."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import viewstore
from tests.loaders.families import family_store, put, say_parents
from tests.loaders.told import feature, registered, tell
from viewstore.build.repair import repair
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.generators.pixels.expert import ExpertGenerator
from viewstore.loaders import Cached, Mix, Online, ViewIterableDataset, ViewLoader
from viewstore.loaders.batches.batch import Batch
from viewstore.store import params
from viewstore.store.store import Store
from viewstore.store.verify import verify

DIM = 6
NAMES = ("crop_box", "teacher.feature", "teacher.margin", "teacher.score", "quality.luma_mean")
VIEWS = [
    Online("flip"),
    Cached("cands", n=2, params=(*NAMES, "chain.score")),
    Cached("cands", params=("teacher.status",)),
    Cached("others", params=("quality.dhash",), then="crop"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 digits: cands (8 views), others (3), teacher of cands, quality of the images."""
    out = tmp_path_factory.mktemp("joins") / "store"
    family_store(out, {"cands": 8, "others": 3})
    build(BuildRequest(generator="quality", out=out, settings={"of": "source"}, workers=1))
    tell(out, "teacher", "cands", dim=DIM, groups=2, choose=2)
    tell(out, "chain", "quality", salt=9)
    return out


@pytest.fixture
def store(root: Path) -> Store:
    return viewstore.open(root)


def make(store: Any, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    settings = {"batch_size": 12, "num_threads": 0, "tail": "keep", "seed": 9}
    return ViewLoader(store, views, **settings | changes)


def expected(store: Store, name: str, rows: list[int], views: list[int]) -> NDArray[Any]:
    """Return a joined column by a plain loop over rows and views."""
    set_name, _, column = name.rpartition(".")
    told = store.view_sets[set_name]
    per_view = told.plan.per_view(column)
    found = []
    for row, view in zip(rows, views, strict=True):
        values = told.params.rows(column, np.array([row]))[0]
        number = view if told.num_views > 1 else 0
        found.append(values[number] if per_view else values)
    return np.array(found)


def check(store: Store, batch: Batch) -> None:
    """Every joined column of a batch is that of the plain loop, bit for bit."""
    for view in batch.views:
        for name in view.params:
            if "." in name:
                found = view.params[name].numpy()
                wanted = expected(store, name, batch.index.tolist(), view.view.tolist())
                assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
                assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("world", "threads"), [(1, 0), (1, 8), (2, 1), (3, 3), (4, 2)])
@pytest.mark.parametrize("whole_bytes", [params.WHOLE_BYTES, 0])
def test_joined_columns_are_those_of_row_and_view(
    root: Path, world: int, threads: int, whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory, and mapped by shard; whoever reads them."""
    monkeypatch.setattr(params, "WHOLE_BYTES", whole_bytes)
    plain = viewstore.open(root)
    for rank in range(world):
        with make(
            viewstore.open(root),
            VIEWS,
            num_threads=threads,
            rank=rank,
            world_size=world,
            tail="drop",
        ) as loader:
            for _ in range(2):
                for batch in loader:
                    check(plain, batch)
                    told = batch.views[1]
                    one = feature(int(batch.index[0]), int(told.view[0]), DIM)
                    assert told.params["teacher.feature"][0].numpy().tobytes() == one.tobytes()


def test_only_what_is_asked_for_is_joined(store: Store) -> None:
    with make(store, VIEWS) as loader:
        columns = [slot.columns for slot in loader.slots]
        batch = next(iter(loader))
    assert columns[1] == (*NAMES, "chain.score")
    assert [set(view.params) for view in batch.views] == [set(each) for each in columns]
    with make(store, [Cached("cands")]) as loader:
        assert not any("." in name for name in loader.slots[0].columns)
    assert batch.views[1].params["teacher.feature"].shape == (12, DIM)
    assert batch.views[1].params["teacher.margin"].shape == (12, 2)
    assert batch.views[1].params["quality.luma_mean"].shape == (12,)


def test_large_columns_are_gathered_before_a_batch_is_handed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others when they are read: a loader that nobody asks touches none of their files."""
    touched: list[str] = []
    store = viewstore.open(root)
    told = store.view_sets["teacher"].params
    read = told._chunk
    monkeypatch.setattr(
        told, "_chunk", lambda column, shard: touched.append(column.name) or read(column, shard)
    )
    monkeypatch.setattr(params, "WHOLE_BYTES", 70 * 8 * 4)
    with make(store, VIEWS[1:2]) as loader:
        batch = next(iter(loader))
        assert set(touched) == {"feature", "score"}
        touched.clear()
        batch.views[0].params["teacher.feature"]
        assert not touched
        batch.views[0].params["teacher.margin"]
        assert set(touched) == {"margin"}


def test_a_run_goes_on_with_the_same_columns(store: Store) -> None:
    def told(loader: ViewLoader) -> list[bytes]:
        return [b.views[1].params["teacher.feature"].numpy().tobytes() for b in loader]

    with make(store, VIEWS) as loader:
        whole = told(loader)
        state = loader.batch(0, 2).state
    with make(store, VIEWS, num_threads=2) as resumed:
        resumed.load_state_dict(state)
        assert told(resumed) == whole[3:]


def test_a_state_covers_plan_and_bytes_of_what_is_joined(root: Path) -> None:
    store = viewstore.open(root)
    with make(store, VIEWS) as loader:
        saved = loader.state_dict()
    told = store.view_sets["teacher"]
    told.__dict__["index"] = replace(told.index, root="0" * 64)
    with make(store, VIEWS) as loader:
        assert {n for n in saved if loader.state_dict()[n] != saved[n]} == {"views"}
        with pytest.warns(UserWarning, match="saved with other views"):
            loader.load_state_dict(saved)
    plain = [replace(view, params=None) if isinstance(view, Cached) else view for view in VIEWS]
    with make(store, plain) as loader:
        assert loader.state_dict()["views"] != saved["views"]


def test_columns_of_several_stores_are_each_of_its_own(store: Store) -> None:
    with make([store, store], VIEWS, rates=[1.0, 0.5]) as loader:
        for batch in loader:
            rows = replace(batch, index=batch.index % 70)
            check(store, rows)


def test_worker_processes_join_alike(store: Store) -> None:
    dataset = ViewIterableDataset(store, VIEWS, batch_size=12, tail="keep")
    loaded = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    for batch in loaded:
        check(store, batch)
        assert "teacher.feature" in batch.views[1].params


def test_a_feature_of_the_stored_view_is_warned_of_where_another_is_rendered(store: Store) -> None:
    asked = ("teacher.feature", "teacher.score")
    with pytest.warns(UserWarning, match="is that of the stored view") as caught:
        make(store, [Cached("cands", n=2, params=asked, then="flip"), Online("flip")])
    assert [str(each.message) for each in caught] == [
        "teacher.feature is that of the stored view of cands: flip is rendered on it, and shows "
        "another view than the one whose target is delivered"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(store, [Cached("cands", params=("teacher.score", "chain.feature"), then="flip")])


REFUSED: list[tuple[Any, str, str]] = [
    (
        Cached("others", params=("teacher.score",)),
        "teacher describes cands, not others",
        "VS103",
    ),
    (
        Cached("cands", params=("teachr.score",)),
        "there is no view set 'teachr' in this store; did you mean 'teacher'?",
        "VS102",
    ),
    (
        Cached("cands", params=("teacher.scores",)),
        "teacher has no column 'scores'; did you mean 'score'?",
        "VS102",
    ),
    (
        Cached("cands", params=("others.flip",)),
        "others has views of its own, only columns sets are joined",
        "VS101",
    ),
    (
        Cached("cands", params=("cands.flip",)),
        "cands has views of its own, only columns sets are joined",
        "VS101",
    ),
    (
        Cached("teacher"),
        "teacher has no views to show, it describes those of cands",
        "VS101",
    ),
]


@pytest.mark.parametrize(("view", "message", "code"), REFUSED)
def test_what_cannot_be_joined_is_refused(
    store: Store, view: Cached, message: str, code: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(store, [view])
    assert (str(caught.value), caught.value.code) == (message, code)


def test_the_fix_of_another_parent_is_its_build(store: Store) -> None:
    with pytest.raises(ConfigError) as caught:
        make(store, [Cached("others", params=("teacher.score",))])
    assert str(caught.value.fix).startswith("viewstore build --generator told --of others --out ")


def test_a_mix_joins_nothing() -> None:
    with pytest.raises(
        ConfigError, match=r"^a Mix joins no columns of other view sets, got 'a\.b'"
    ):
        Mix({"cands": 1}, params=("flip", "a.b"))


def say_lineage(store: Store, name: str, shard: int) -> None:
    """Say in memory that a shard was made from other bytes than are there."""
    shards = store.view_sets[name].shards
    entry = replace(shards[shard].entry, lineage="0" * 64)
    store.view_sets[name].__dict__["shards"] = {
        **shards,
        shard: replace(shards[shard], entry=entry),
    }


def stale_join(store: Store) -> list[Any]:
    say_lineage(store, "teacher", 3)
    return [Cached("cands", params=("teacher.score",))]


def stale_pick(store: Store) -> list[Any]:
    say_lineage(store, "teacher", 3)
    return [Cached("cands", pick="teacher")]


def stale_follow(store: Store) -> list[Any]:
    say_parents(store, "others", "cands", [0, 1, 2])
    say_lineage(store, "others", 3)
    return [Cached("cands", n=8), Cached("others", follow=0)]


@pytest.mark.parametrize("views", [stale_join, stale_pick, stale_follow])
def test_a_stale_set_is_neither_joined_nor_picked_by_nor_followed(
    store: Store, views: Callable[[Store], list[Any]]
) -> None:
    asked = views(store)
    name = "others" if views is stale_follow else "teacher"
    with pytest.raises(ConfigError) as caught:
        make(store, asked)
    assert str(caught.value) == f"shard 3 of {name} was made from other bytes of cands"
    repair = f"viewstore verify {store.location} --repair --view-set {name}"
    assert (caught.value.code, caught.value.fix) == ("VS206", repair)
    make(store, [Cached(name)] if name == "others" else [Cached("cands")])  # but it is read


def test_what_a_joined_set_was_made_from_must_be_fresh_too(store: Store) -> None:
    say_parents(store, "cands", "others", [0] * 8)
    say_lineage(store, "cands", 0)
    store.view_sets["teacher"].plan.parent["plan_id"] = store.view_sets["cands"].plan.id  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"^shard 0 of cands was made from other bytes of others"):
        make(store, [Cached("cands", params=("teacher.score",))])


def test_rows_that_were_not_told_of_read_as_never_written(store: Store) -> None:
    put(store, "teacher", "score", np.full((70, 8), np.nan), np.float32)
    with make(store, [Cached("cands", params=("teacher.score",))]) as loader:
        assert all(b.views[0].params["teacher.score"].isnan().all() for b in loader)


def test_a_parent_repaired_to_other_bytes_makes_its_shard_stale_until_that_is_mended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the child exactly the one shard; views repaired to equal bytes change nothing."""
    out = tmp_path / "store"
    shutil.copytree(root, out)
    views = [Cached("cands", params=("teacher.score",))]

    def damage_and_repair() -> None:
        shard = viewstore.open(out).view_sets["cands"].shards[3]
        shard.path.chmod(0o644)
        shard.path.write_bytes(b"\0" * shard.blob.bytes)
        repair(out, list(verify(out, level="deep")), workers=1)

    damage_and_repair()
    make(viewstore.open(out), views).close()
    pixels = ExpertGenerator._pixels
    monkeypatch.setattr(ExpertGenerator, "_pixels", lambda *given: 255 - pixels(*given))
    damage_and_repair()  # nobody knows the generator of the teacher here: it stays as it is
    with pytest.raises(ConfigError) as caught:
        make(viewstore.open(out), views)
    assert str(caught.value) == "shard 3 of teacher was made from other bytes of cands"
    assert caught.value.code == "VS206"
    with registered():
        faults = list(verify(out, level="quick"))
        assert [(each.view_set, each.shard, each.kind) for each in faults] == [
            ("teacher", 3, "stale")
        ]
        repair(out, faults, workers=1)
    with make(viewstore.open(out), views) as loader:
        check(viewstore.open(out), next(iter(loader)))
