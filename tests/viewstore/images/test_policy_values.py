"""Policies of one's own: read from TOML, held by a plan, drawn online and cached alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import viewstore
from tests.viewstore.commands import invoke
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.images.conformance import policy_checks
from viewstore.images.operated import Operated
from viewstore.images.policies import POLICIES, Policy, policies
from viewstore.images.policy_values import name_of, policies_of, read_policy, spelled_out
from viewstore.loaders import ViewLoader
from viewstore.loaders.plan.asked import Cached, Online, parse_views
from viewstore.randomness import Stream
from viewstore.store.committed import read_plan

SOFT = Path(__file__).parents[3] / "examples" / "plugin" / "soft.toml"
shares = st.floats(0, 1)


def pairs(least: float, most: float) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(st.floats(least, most), st.floats(least, most)).map(sorted).map(tuple)


policy_values = st.builds(
    Policy,
    name=st.just("mine"),
    crop=st.booleans(),
    scale=pairs(0.01, 1),
    ratio=pairs(0.1, 4),
    jitter=st.tuples(*[st.floats(0, 2)] * 3, st.floats(0, 0.5)),
    flip=shares,
    jitter_probability=shares,
    gray=shares,
    blur=shares,
    sigma=pairs(0, 64),
    blur_above=st.integers(0, 300),
    solarize=shares,
    threshold=st.integers(0, 256),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def refused(setting: Any) -> str:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        policies_of(setting)
    return f"{caught.value}; {caught.value.fix}"


@given(policy=policy_values)
def test_a_policy_is_the_same_once_its_values_were_stored(policy: Policy) -> None:
    values = {field.name: getattr(policy, field.name) for field in fields(policy)}
    stored = json.loads(json.dumps(spelled_out(values)))
    assert policies_of(stored) == (policy,)
    assert spelled_out(stored) == spelled_out(values)
    assert name_of(stored) == "mine"


def test_a_file_says_what_differs_from_a_standard_policy(tmp_path: Path) -> None:
    found = policies_of(read_policy(written(tmp_path, 'name = "mine"\nblur = 1\n')))
    assert found == (Policy(name="mine", blur=1.0),)
    text = 'name = "mine"\nblur = 1\n[second]\nblur = 0.1\nsolarize = 0.2\n'
    first, second = policies_of(read_policy(written(tmp_path, text)))
    assert second == replace(first, blur=0.1, solarize=0.2)
    text = 'name = "mine"\noperators = "ra16"\njitter_probability = 0\n'
    (heavy,) = policies_of(read_policy(written(tmp_path, text)))
    assert isinstance(heavy, Operated)
    assert heavy.chain == POLICIES["ra16"][0].chain  # type: ignore[attr-defined]
    assert heavy.base == Policy(name="mine", jitter_probability=0)


def test_our_own_policies_stay_names_in_a_plan() -> None:
    for name in (*POLICIES.own, "simclr+ra16"):
        assert spelled_out(name) == name
        assert policies_of(name) == policies(name)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "must have a name"),
        ({"name": "mine", "scal": [0.1, 1]}, "has no 'scal'; did you mean 'scale'"),
        ({"name": "mine", "size": 96}, "a policy has no size; give --size PX"),
        ({"name": "mine", "filter": "pil"}, "give --set filter=linear"),
        ({"name": "simclr"}, "that of a policy of ours"),
        ({"name": "My Policy"}, "name must match"),
        ({"name": "a+b"}, "name must match"),
        ({"name": 3}, "name must be text, got 3"),
        ({"name": "mine", "role": "hero"}, "role must be one of expert, global, local, heavy"),
        ({"name": "mine", "scale": [0.2]}, "scale must be 2 numbers, got [0.2]"),
        ({"name": "mine", "scale": [0.2, "1"]}, "scale must be 2 numbers"),
        ({"name": "mine", "scale": [0.5, 1.5]}, "0 < low <= high <= 1"),
        ({"name": "mine", "jitter": [0.1, 0.1, 0.1, 0.6]}, "its hue <= .5"),
        ({"name": "mine", "jitter": [20, 0, 0, 0]}, "its jitter <= 9"),
        ({"name": "mine", "sigma": [1, 100]}, "sigma must be <= 64"),
        ({"name": "mine", "flip": True}, "flip must be a number, got True"),
        ({"name": "mine", "flip": float("nan")}, "flip must be a number"),
        ({"name": "mine", "gray": 2}, "gray must be in [0, 1]"),
        ({"name": "mine", "gray": 10**400}, "gray must be a number"),
        ({"name": "mine", "ratio": [1e6, 1e6]}, "1/100 <= low <= high <= 100"),
        ({"name": "mine", "ratio": [1e-300, 1]}, "1/100 <= low <= high <= 100"),
        ({"name": "mine", "blur_above": 10**20}, "blur_above must be in [0, "),
        ({"name": "mine", "operators": ["ra16"]}, "there is no chain ['ra16']"),
        ({"name": "mine", "operators": {"a": 1}}, "there is no chain {'a': 1}"),
        ({"name": "mine", "threshold": 300}, "threshold must be in [0, 256]"),
        ({"name": "mine", "threshold": 1.5}, "threshold must be a whole number"),
        ({"name": "mine", "operators": "ra61"}, "no chain 'ra61'; did you mean 'ra16'"),
        ({"name": "mine", "operators": "simclr"}, "no chain 'simclr'"),
        ({"name": "mine", "second": 1}, "second must be a table"),
        ({"name": "mine", "second": {"name": "other"}}, "second must be a table"),
        ({"name": "mine", "second": {"blue": 1}}, "has no 'blue'; did you mean 'blur'"),
        (["mine"], "must be a name or a table of values"),
        ("mine", "there is no augmentation policy 'mine'"),
    ],
)
def test_what_is_no_policy_is_refused_in_its_words(values: Any, said: str) -> None:  # noqa: ANN401
    assert said in refused(values)


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b"a" * (2 << 20)])
def test_what_is_no_file_of_a_policy_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.toml"
    for _ in range(2):  # first there is no file
        with pytest.raises(ConfigError, match=r"no policy can be read from mine\.toml") as caught:
            read_policy(path)
        assert caught.value.where == f"--policy {path}"
        path.write_bytes(text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> viewstore.Store:
    """Soft views of digits, stored raw and as params; the file was taken away since."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "soft.toml"
    shutil.copy(SOFT, file)
    out = str(folder / "views")
    build = ["build", "--policy", file, "--views", "3", "--limit", "24", "-j", "1", "--out", out]
    assert invoke(*build).exit_code == 0
    assert invoke(*build, "--codec", "params", "--view-set", "again").exit_code == 0
    file.unlink()
    return viewstore.open(out)


def test_cached_views_are_those_that_the_policy_draws(store: viewstore.Store) -> None:
    views = store.view_sets["soft"]
    pair = policies_of(read_policy(SOFT))
    rows = np.arange(24)
    stream = Stream.of_view_set(0, "soft")
    for view in range(3):
        policy = pair[view % 2].for_size(views.height, views.width)
        size = store.table.height, store.table.width
        drawn = policy.draw(stream, rows, view, *size)
        for row in rows.tolist():
            one = {name: column[row] for name, column in drawn.items()}
            image = views.source.image(row)
            expected = policy.render(image, one, (views.height, views.width), "area")
            assert np.array_equal(views[row][view], expected)


def test_a_store_needs_no_file_to_render_or_to_go_on(store: viewstore.Store) -> None:
    soft, again = store.view_sets["soft"], store.view_sets["again"]
    assert again.kind == "recipe"
    stream = Stream.of_view_set(0, "again")
    first = policies_of(read_policy(SOFT))[0].for_size(again.height, again.width)
    box = first.draw(stream, np.arange(24), 0, store.table.height, store.table.width)["crop_box"]
    assert np.array_equal(again.params["crop_box"][:, 0], box)
    assert soft.plan.generator["args"]["policy"]["second"] == {"blur": 0.1, "solarize": 0.2}
    out = store.location
    assert "whole" in invoke("verify", out, "--content").output
    plan = read_plan(StorePaths(Path(out)).view_set("soft"))
    built = invoke("build", "--generator", "expert", "--view-set", "soft", "--out", out)
    assert built.exit_code == 0
    assert read_plan(StorePaths(Path(out)).view_set("soft")).id == plan.id


def test_another_policy_does_not_go_on_with_a_set(store: viewstore.Store, tmp_path: Path) -> None:
    other = written(tmp_path, SOFT.read_text().replace("gray = 0.1", "gray = 0.3"))
    with pytest.raises(ConfigError, match=r"policy\.gray was 0\.1, is 0\.3"):
        invoke("build", "--policy", other, "--out", store.location)
    with pytest.raises(ConfigError, match="--policy goes with --generator expert, not with moco"):
        invoke("build", "--policy", SOFT, "--generator", "moco", "--out", store.location)
    with pytest.raises(ConfigError, match="policy is given twice"):
        invoke("build", "--policy", SOFT, "--set", "policy=moco", "--out", store.location)


def test_online_views_are_rendered_by_the_same_policy(store: viewstore.Store) -> None:
    own = {"soft": policies_of(read_policy(SOFT))}
    words = "online:soft,online:soft,cached:soft+soft,online:soft/0"
    asked = parse_views(words, store.names, own=own)
    assert asked[:2] == [Online(own["soft"])] * 2
    assert asked[2] == Cached("soft", then=own["soft"])
    with ViewLoader(store, asked[:2], batch_size=24, shuffle="none", num_threads=1) as loader:
        (batch,) = list(loader)
        assert [slot.policy for slot in loader.slots] == ["soft", "soft"]
    views = store.view_sets["soft"]
    for slot, policy in enumerate(own["soft"]):
        params = {name: each.numpy() for name, each in batch.views[slot].params.items()}
        for place, row in enumerate(batch.index.tolist()):
            one = {each.name: params[each.name][place] for each in policy.columns}
            expected = policy.render(views.source.image(row), one, (16, 16), "area")
            found = batch.views[slot].pixels[place].permute(1, 2, 0).numpy()
            assert np.array_equal(found, expected)


def test_a_name_that_is_cached_and_online_must_be_chosen(store: viewstore.Store) -> None:
    own = {"soft": policies_of(read_policy(SOFT))}
    with pytest.raises(ConfigError, match="write cached:soft or online:soft"):
        parse_views("soft", store.names, own=own)
    with pytest.raises(ConfigError, match="did you mean 'soft'"):
        parse_views("sofft", [], own=own)


@pytest.mark.parametrize("name", ["simclr", "dino", "dino-local", "digits", "ra16", "moco+ra16"])
def test_our_policies_keep_what_packages_are_held_to(name: str) -> None:
    found = {check.name: check.run() for check in policy_checks(name)}
    assert set(found.values()) == {None}, found
