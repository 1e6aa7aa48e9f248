"""Rounds: the same views or columns by newer networks, made once, gone on with, and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.generators.scored.encoders import classifier, export, write_encoder
from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.garbage import collect_garbage
from viewstore.build.refresh import refresh
from viewstore.build.rename import remove_view_set, rename_view_set
from viewstore.build.repair import repair
from viewstore.build.request import Built
from viewstore.errors import ConfigError, FormatError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.generators import GENERATORS, make_settings
from viewstore.loaders import Cached, ViewLoader
from viewstore.store.committed import read_plan
from viewstore.store.rounds import newest_round
from viewstore.store.store import Store
from viewstore.store.verify import verify

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three encoders, and a store whose views the first one has seen."""
    folder = tmp_path_factory.mktemp("refresh")
    store = folder / "s"
    build_small(store, write_npz(folder / "images.npz"))
    views = np.concatenate(list(viewstore.open(store).view_sets["simclr"]))
    for number, name in enumerate(NAMES):
        write_encoder(folder / f"{name}.safetensors", views[10 * number :][:12])
    build_small(
        store,
        None,
        generator="embed",
        view_set="teacher",
        settings={"of": "simclr", "normalise": False},
        files={"encoder": folder / "first.safetensors"},
        shard_rows=None,
    )
    return folder


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "s", tmp_path / "s"))


def again(store: Path, encoder: Path, **how: Any) -> Built:  # noqa: ANN401
    return refresh(store, "teacher", {"encoder": encoder}, workers=1, **how)


def plan_of(store: Path, name: str) -> Plan:
    return read_plan(StorePaths(store).view_set(name))


def features(store: Path, name: str) -> np.ndarray:
    return np.asarray(viewstore.open(store).view_sets[name].params["feature"])


def test_a_round_is_what_a_fresh_build_with_its_networks_gives(world: Path, store: Path) -> None:
    before = features(store, "teacher")
    built = again(store, world / "second.safetensors")
    plan = built.plan
    assert (plan.view_set, plan.round, plan.base, plan.first_name) == (
        "teacher-r2",
        2,
        "teacher",
        "teacher",
    )
    first = plan_of(store, "teacher")
    assert (plan.generator, plan.seed, plan.parent) == (first.generator, first.seed, first.parent)
    assert built.manifest is not None
    assert list(verify(store, level="content")) == []
    build_small(
        store,
        None,
        generator="embed",
        view_set="anew",
        settings={"of": "simclr", "normalise": False},
        files={"encoder": world / "second.safetensors"},
        shard_rows=None,
    )
    assert (features(store, "teacher-r2") == features(store, "anew")).all()
    assert not (features(store, "teacher-r2") == before).all(-1).any()
    assert (features(store, "teacher") == before).all()


def test_an_encoder_of_another_kind_decides_what_it_decides(world: Path, store: Path) -> None:
    """Features of another size, and batches as an export with a fixed number of images wants."""
    encoder = export(store.parent / "fixed.pt2", classifier(), views=6)
    plan = again(store, encoder).plan
    args = plan.generator["args"]
    assert (args["feature_size"], args["slots"], args["normalise"]) == (24 * 49, 3, False)
    assert features(store, "teacher-r2").shape[-1] == args["feature_size"]
    assert again(store, world / "second.safetensors").plan.generator["args"]["slots"] == 32


def test_rounds_go_on_from_the_newest(world: Path, store: Path) -> None:
    again(store, world / "second.safetensors")
    assert again(store, world / "first.safetensors").plan.view_set == "teacher-r3"
    assert (features(store, "teacher-r3") == features(store, "teacher")).all()
    opened = viewstore.open(store)
    assert newest_round(opened, "teacher").name == "teacher-r3"
    assert newest_round(opened, "teacher-r1").name == "teacher"
    remove_view_set(store, "teacher")
    remove_view_set(store, "teacher-r2")
    assert again(store, world / "second.safetensors").plan.view_set == "teacher-r4"


def test_the_same_files_are_nothing_new(world: Path, store: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        again(store, world / "first.safetensors")
    assert caught.value.code == "VS103"
    assert str(caught.value) == "nothing to refresh: teacher was made with this file"
    with pytest.raises(ConfigError, match="nothing to refresh: simclr was made without networks"):
        refresh(store, "simclr", {})
    assert not (store / "views" / "teacher-r2").exists()


def test_a_file_that_is_neither_given_nor_packaged_is_asked_for(world: Path, store: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"teacher was made with the encoder first.safetensors \([0-9a-f]{12}\)"
    ) as caught:
        refresh(store, "teacher", {}, of="source")
    assert caught.value.fix == "give that file with --encoder, or a newer one"
    with pytest.raises(ConfigError, match="--gan cannot be given: embed takes no such network"):
        refresh(store, "teacher", {"gan": world / "first.safetensors"})
    with pytest.raises(ConfigError, match="there is no encoder file at"):
        again(store, world / "none.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("teachr", "there is no view set 'teachr' in this store; did you mean 'teacher'"),
        ("teacher-r1", "teacher-r1 has the name of one round"),
        ("teacher-r2", "teacher-r2 has the name of one round"),
    ],
)
def test_only_a_view_set_has_rounds(store: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refresh(store, name, {})


def test_an_unfinished_round_is_gone_on_with_and_takes_no_other_files(
    world: Path, store: Path, tmp_path: Path
) -> None:
    undisturbed = shutil.copytree(store, tmp_path / "undisturbed")
    again(undisturbed, world / "second.safetensors")
    begun = again(store, world / "second.safetensors", only=(1,))
    assert (begun.plan.view_set, begun.left) == ("teacher-r2", 2)
    assert newest_round(viewstore.open(store), "teacher").name == "teacher"
    with pytest.raises(ConfigError) as caught:
        again(store, world / "third.safetensors")
    was, now = (plan_of(store, "teacher-r2").weights[0], world / "third.safetensors")
    assert str(caught.value).startswith(
        "teacher-r2 is not finished, and was begun with the encoder second.safetensors "
        f"({was.sha256[:12]}), not with {now.name} ("
    )
    rest = again(store, world / "second.safetensors")
    assert (rest.plan.view_set, rest.samples) == ("teacher-r2", 12)
    assert viewstore.open(store).store_id == viewstore.open(undisturbed).store_id


def test_slices_of_a_round_are_finished_by_the_command_without_them(
    world: Path, store: Path
) -> None:
    for slice_of in ((0, 2), (1, 2)):
        assert again(store, world / "second.safetensors", slice_of=slice_of).manifest is None
    done = again(store, world / "second.safetensors")
    assert (done.plan.view_set, done.samples) == ("teacher-r2", 0)
    assert done.manifest is not None
    assert "teacher-r2" in done.manifest.view_sets


def test_a_round_may_describe_another_round(world: Path, store: Path) -> None:
    """Columns are looked up by the plan of the views that are shown."""
    second = plan_of(store, "simclr")
    build_small(store, None, view_set="simclr-r2", after=second, shard_rows=None)
    with pytest.raises(ConfigError, match="teacher describes simclr-r1, not simclr-r2") as caught:
        joined(viewstore.open(store), "simclr")
    command = f"viewstore refresh {store} --view-set teacher --of simclr-r2"
    assert caught.value.fix == f"{command} --encoder first.safetensors"
    assert again(store, world / "first.safetensors", of="simclr-r2").plan.parent == {
        "view_set": "simclr-r2",
        "plan_id": plan_of(store, "simclr-r2").id,
    }
    opened = viewstore.open(store)
    assert joined(opened, "simclr") == "teacher-r2"
    assert joined(opened, "simclr-r1") == "teacher"
    assert not (features(store, "teacher-r2") == features(store, "teacher")).all(-1).any()
    with pytest.raises(ConfigError, match="nothing to refresh"):
        again(store, world / "first.safetensors", of="simclr-r2")


def joined(store: Store, views: str) -> str:
    shown = [Cached(views, params=("teacher.feature",))]
    with ViewLoader(store, shown, batch_size=8, num_threads=0) as loader:
        (slots,) = loader._assembly.stores[0].cached
        return slots.joined[0].view_set.name


def test_draws_of_rounds_differ_by_the_round_alone(store: Path) -> None:
    """A store that was renamed in between has the same second round."""
    build_small(store, None, view_set="crops", shard_rows=None)
    other = Path(shutil.copytree(store, store.with_name("other")))
    rename_view_set(other, "crops", "cuts")
    for each, name in ((store, "crops"), (other, "cuts")):
        first = plan_of(each, name)
        build_small(each, None, view_set=f"{name}-r2", after=first, shard_rows=None)
    boxes = [
        viewstore.open(each).view_sets[name].params["crop_box"]
        for each, name in ((store, "crops"), (store, "crops-r2"), (other, "cuts-r2"))
    ]
    assert not (boxes[0] == boxes[1]).all(-1).any()
    assert (boxes[1] == boxes[2]).all()


def test_rounds_are_renamed_together(world: Path, store: Path) -> None:
    again(store, world / "second.safetensors")
    again(store, world / "third.safetensors", only=(0,))
    before = [features(store, name) for name in ("teacher", "teacher-r2")]
    for old, new, said in (
        ("teacher-r2", "other", "view set 'teacher-r2' is a round of 'teacher'"),
        ("teacher", "other-r2", "view set 'other-r2' would be named as a round of 'other' is"),
        ("teacher", "simclr", "there is a view set 'simclr' already"),
    ):
        with pytest.raises(ConfigError, match=said):
            rename_view_set(store, old, new)
    rename_view_set(store, "teacher", "tutor")
    opened = viewstore.open(store)
    assert sorted(opened.names) == ["simclr", "tutor", "tutor-r2", "tutor-r3"]
    for name, was in zip(("tutor", "tutor-r2"), before, strict=True):
        assert (np.asarray(opened.view_sets[name].params["feature"]) == was).all()
    assert [plan_of(store, f"tutor{end}").first_name for end in ("", "-r2")] == ["teacher"] * 2
    done = refresh(store, "tutor", {"encoder": world / "third.safetensors"}, workers=1)
    assert (done.plan.view_set, done.samples) == ("tutor-r3", 12)
    assert [fault for fault in verify(store, level="content") if fault.kind != "orphan"] == []
    rename_view_set(store, "tutor", "teacher")
    assert plan_of(store, "teacher-r3").made_as is None


def test_a_round_is_repaired_with_its_own_files(world: Path, store: Path) -> None:
    again(store, world / "second.safetensors")
    whole, store_id = features(store, "teacher-r2"), viewstore.open(store).store_id
    shard = next((store / "views" / "teacher-r2").glob("000001-*.chunk"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-8])
    faults = [fault for fault in verify(store) if fault.kind != "derived"]
    assert {fault.view_set for fault in faults} == {"teacher-r2"}
    repair(store, list(verify(store)), files={"encoder": world / "second.safetensors"}, workers=1)
    assert (features(store, "teacher-r2") == whole).all()
    assert viewstore.open(store).store_id == store_id
    assert collect_garbage(store, older_seconds=0, dry_run=True) == []


@pytest.mark.parametrize("lost", ["teacher-r2", "teacher-r2/plan.json"])
def test_a_round_that_is_lost_is_made_again_as_verify_says(
    world: Path, store: Path, lost: str
) -> None:
    again(store, world / "second.safetensors")
    store_id, path = viewstore.open(store).store_id, store / "views" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (fault,) = [fault for fault in verify(store) if fault.view_set == "teacher-r2"]
    assert fault.fix == (
        "refresh it again with the files that it was made with, or take it out: "
        f"viewstore rm {store} teacher-r2"
    )
    if path.name == "plan.json":
        with pytest.raises(ConfigError, match="teacher-r2 has shards that were made with other"):
            again(store, world / "third.safetensors")
    again(store, world / "second.safetensors")
    assert viewstore.open(store).store_id == store_id
    assert list(verify(store)) == []


def test_an_unfinished_round_says_which_command_goes_on_with_it(world: Path, store: Path) -> None:
    again(store, world / "second.safetensors", only=(0,))
    (fault,) = verify(store)
    assert str(fault.fix).startswith("run the same refresh command again, or take it out")
    with pytest.raises(ConfigError, match="not complete") as caught:
        viewstore.open(store).view_set("teacher-r2")
    assert str(caught.value.fix).startswith("run the same refresh command again: it goes on")


def test_a_set_that_was_named_like_a_round_is_none(store: Path, world: Path) -> None:
    """An earlier version let users give such names."""
    old = StorePaths(store).view_set("teacher")
    plan = replace(plan_of(store, "teacher"), view_set="teacher-r2")
    shutil.copytree(old.root, store / "views" / "teacher-r2")
    (store / "views" / "teacher-r2" / "plan.json").unlink()
    (store / "views" / "teacher-r2" / "plan.json").write_bytes(plan.pack())
    with pytest.raises(ConfigError, match="'teacher-r2' is named as a round of 'teacher' and is"):
        again(store, world / "second.safetensors")


def test_a_name_of_a_round_is_not_built(store: Path) -> None:
    with pytest.raises(ConfigError, match="view set 'moco-r2' would be named as a round of 'moco'"):
        build_small(store, None, view_set="moco-r2", shard_rows=None)
    assert not (store / "views" / "moco-r2").exists()


def test_plans_of_rounds_have_their_names(store: Path) -> None:
    plan = plan_of(store, "teacher")
    assert Plan.unpack(plan.pack()).id == plan.id
    for name, number in (("teacher", 2), ("teacher-r3", 2), ("teacher-r02", 2), ("teacher", 0)):
        with pytest.raises(FormatError, match=f"round {number} of a view set cannot be named"):
            replace(plan, view_set=name, round=number)


def test_the_order_of_a_loader_goes_on_over_a_refresh(world: Path, store: Path) -> None:
    def loader() -> ViewLoader:
        views = [Cached("simclr", params=("teacher.feature",))]
        return ViewLoader(viewstore.open(store), views, batch_size=4, num_threads=0, tail="keep")

    with loader() as before:
        whole = [np.asarray(batch.index) for batch in before]
    with loader() as begun:
        batches = iter(begun)
        seen = [np.asarray(next(batches).index) for _ in range(2)]
        state = begun.state_dict()
        del batches
    again(store, world / "second.safetensors")
    with loader() as after:
        with pytest.warns(UserWarning, match="the order of the samples goes on"):
            after.load_state_dict(state)
        batches = list(after)
    rows = [*seen, *(np.asarray(batch.index) for batch in batches)]
    assert all((one == other).all() for one, other in zip(rows, whole, strict=True))
    stored = features(store, "teacher-r2")
    for batch in batches:
        (view,) = batch.views
        shown = np.asarray(view.params["teacher.feature"])
        assert (shown == stored[np.asarray(batch.index), np.asarray(view.view)]).all()


def test_the_command(world: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("refresh", store, "--view-set", "teacher", "-j", 1, "--encoder")
    code, out, _ = run(capsys, *asked, world / "second.safetensors", "--json")
    answer = json.loads(out)
    assert (code, answer["ok"], answer["command"]) == (0, True, "refresh")
    assert answer["store_id"] == viewstore.open(store).store_id
    _, out, _ = run(capsys, "build", "--generator", "simclr", "--out", store, "--json")
    assert set(answer["result"]) == set(json.loads(out)["result"])
    assert {key: answer["result"][key] for key in ("view_set", "kind", "complete")} == {
        "view_set": "teacher-r2",
        "kind": "columns",
        "complete": True,
    }
    code, out, err = run(capsys, *asked, world / "second.safetensors")
    assert (code, out) == (2, "")
    assert "nothing to refresh: teacher-r2 was made with this file" in err
    code, out, _ = run(capsys, *asked, world / "third.safetensors", "--shard", "0/2")
    assert (code, f"not complete yet: viewstore status {store}" in out) == (0, True)
    code, out, _ = run(capsys, "status", store)
    assert (code, "teacher-r3: 2 of 3 shards" in out) == (1, True)


@pytest.mark.parametrize("name", sorted(set(GENERATORS) - {"import"}))
def test_what_is_left_of_settings_are_settings(name: str) -> None:
    """Of those of which nothing was taken from a network, all are."""
    settings = make_settings(name, {})
    assert make_settings(name, settings.refreshed()) == settings
