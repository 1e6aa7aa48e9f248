"""Records whose digest is right and whose fields are not: refused by name, never followed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import FormatError
from viewstore.format.manifest import Index
from viewstore.format.paths import StorePaths
from viewstore.format.records import canonical, digest_of
from viewstore.format.stats import unpack_stats
from viewstore.format.tar import pack_npy
from viewstore.sources.record import read_sources
from viewstore.store.committed import read_commit, read_manifest, read_plan

FREE = ("args", "resample")  # objects whose keys a generator or a codec chooses
OTHER_TYPE: dict[type, Any] = {int: "1", float: "1", str: 1, list: {"a": 1}, dict: [1], bool: "no"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    folder = tmp_path_factory.mktemp("records")
    build_small(folder / "s", write_npz(folder / "images.npz"))
    return StorePaths(folder / "s")


def records(store: StorePaths) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Every kind of record, and what reads it."""
    view_set = store.view_set("simclr")
    return {
        "sources": (store.sources_record, lambda: read_sources(store)),
        "plan": (view_set.plan, lambda: read_plan(view_set)),
        "commit": (view_set.commit(1), lambda: read_commit(view_set, 1)),
        "index": (view_set.index, lambda: Index.unpack(view_set.index.read_bytes())),
        "stats": (view_set.stats, lambda: unpack_stats(view_set.stats.read_bytes())),
        "manifest": (store.manifest, lambda: read_manifest(store)),
    }


def sealed(value: dict[str, Any]) -> bytes:
    """Return a record with the digest of what it says."""
    bare = {key: field for key, field in value.items() if key != "digest"}
    return canonical(bare | {"digest": digest_of(bare)})


def of_another_type(value: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield `value` with one of its parts, at any depth, of another type."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in FREE:
                continue
            yield value | {key: OTHER_TYPE.get(type(part), 0.5)}
            yield from (value | {key: changed} for changed in of_another_type(part))
    elif isinstance(value, list):
        for place, part in enumerate(value[:2]):
            yield [*value[:place], OTHER_TYPE.get(type(part), 0.5), *value[place + 1 :]]
            for changed in of_another_type(part):
                yield [*value[:place], changed, *value[place + 1 :]]


@pytest.mark.parametrize("kind", ["sources", "plan", "commit", "index", "stats", "manifest"])
def test_a_value_of_another_type_is_refused_wherever_it_stands(
    store: StorePaths, kind: str
) -> None:
    path, read = records(store)[kind]
    good = path.read_bytes()
    path.chmod(0o644)
    value = json.loads(good)
    sealed_in = value.pop("digest", None) is not None
    # Those of the index that stock readers of wids look at are not ours to check.
    changed = of_another_type(value) if kind != "index" else of_another_index(value)
    count = 0
    try:
        for record in changed:
            path.write_bytes(sealed(record) if sealed_in else canonical(record))
            with pytest.raises(FormatError):
                read()
            count += 1
    finally:
        path.write_bytes(good)
    read()
    assert count >= 10


def of_another_index(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield value | {"viewstore": None}
    yield from (value | {"viewstore": inner} for inner in of_another_type(value["viewstore"]))


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Change a record in place, and return what it was."""
    good = path.read_bytes()
    value = json.loads(good)
    change(value)
    path.chmod(0o644)
    path.write_bytes(sealed(value))
    return good


def refuse(
    store: StorePaths, kind: str, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Check that a record so changed is refused, and put the good one back."""
    path, read = records(store)[kind]
    good = rewritten(path, change)
    try:
        with pytest.raises(FormatError, match=message):
            read()
    finally:
        path.write_bytes(good)


def name_file(role: str, name: str, sha256: str) -> Callable[[dict[str, Any]], None]:
    """Return a change of the first file of a commit."""

    def change(commit: dict[str, Any]) -> None:
        commit["files"][0] = [role, name, 1, sha256]

    return change


@pytest.mark.parametrize(
    ("role", "name", "sha256"),
    [
        ("views", "000001-../../../../../.tar", "../../../../../" + "0" * 49),
        ("column:../../x", f"000001-{'0' * 16}.../../x.chunk", "0" * 64),
        ("views", f"000001-{'0' * 16}.tar", "0" * 16),
    ],
)
def test_a_commit_names_no_path(store: StorePaths, role: str, name: str, sha256: str) -> None:
    refuse(store, "commit", name_file(role, name, sha256), "no role or no sha256")


def test_a_commit_is_that_of_its_place(store: StorePaths) -> None:
    refuse(store, "commit", lambda value: value.update(view_set="other"), "commit is that of")


def entry_of(manifest: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = manifest["view_sets"]["simclr"]
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda value: entry_of(value)["derived"].update({"../../secret": [1, "0" * 64]}),
            r"names a derived file '../../secret'",
        ),
        (
            lambda value: entry_of(value)["derived"].update({"stats.json": [1, "../../x"]}),
            r"must have size and sha256 of stats\.json of simclr",
        ),
        (
            lambda value: entry_of(value)["derived"].update({"stats.json": [-1, "0" * 64]}),
            r"must have size and sha256 of stats\.json of simclr",
        ),
        (
            lambda value: entry_of(value)["derived"].pop("index.json"),
            r"must name index\.json of simclr",
        ),
        (
            lambda value: value["view_sets"].update({"../x": entry_of(value)}),
            r"names a view set '../x'",
        ),
        (lambda value: entry_of(value).update(plan_id="0"), "manifest plan_id of simclr must"),
        (lambda value: entry_of(value).update(root="0"), "manifest root of simclr must match"),
        (lambda value: value.update(sources_id="../x"), "manifest sources_id must match"),
        (lambda value: value.update(previous="0"), "manifest previous must match"),
        (lambda value: value.update(generation=0), r"generation must be in \[1, 999999\], got 0"),
    ],
)
def test_a_manifest_names_no_path_and_every_file(
    store: StorePaths, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refuse(store, "manifest", change, message)


def weights(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a plan says of a file of weights."""
    return {"role": "gan", "name": "x.safetensors", "bytes": 1, "sha256": "0" * 64} | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(view_set="other"), "plan is that of view set 'other'"),
        (lambda value: value.update(view_set="../x"), "view set name must match"),
        (lambda value: value.update(rows=0), "must have a row"),
        (lambda value: value.update(shard_rows=10**6), "shard_rows must be in"),
        (lambda value: value.update(height=0), "px a side"),
        (lambda value: value.update(channels=2), "3 channels"),
        (lambda value: value.update(views=101), r"views must be in \[1, 100\]"),
        (lambda value: value["columns"][0].update(shape=[-1]), "shape .* out of limits"),
        (lambda value: value["columns"][0].update(views=[2]), "views .* out of limits"),
        (lambda value: value["columns"][0].update(views=[0], shape=[]), "views .* out of limits"),
        (lambda value: value.update(sources_id="0"), "plan sources_id must match"),
        (lambda value: value.update(seed=-5), r"plan seed must be in \[0, \d+\], got -5"),
        (lambda value: value.update(seed=2**53 - 1, round=2), "round 2 .* cannot be named"),
        (lambda value: value.update(json_bytes=2**50), "plan json_bytes must be in"),
        (lambda value: value.update(json_bytes=511), "must be a multiple of 512, got 511"),
        (lambda value: value.update(members=["../../x"]), r"members must match .* '\.\./\.\./x'"),
        (lambda value: value.update(members=["json"]), "members .* which raw does not make"),
        (lambda value: value.update(roles=["../x", "a"]), r"plan roles must match .* '\.\./x'"),
        (lambda value: value["codec"].update(name="x"), "codec must be one of .* got 'x'"),
        (lambda value: value["codec"].update(name="../x"), "plan codec.name must match"),
        (lambda value: value["generator"].update(name="../x"), "plan generator.name must match"),
        (lambda value: value["generator"].update(version=-1), "plan generator.version must be in"),
        (lambda value: value.update(columns=[]), "must have the column status"),
        (
            lambda value: value.update(parent={"view_set": "../..", "plan_id": "0" * 64}),
            r"plan parent view_set must match .* '\.\./\.\.'",
        ),
        (
            lambda value: value.update(inputs={"a": {"view_set": "b", "plan_id": "0"}}),
            "plan a plan_id must match",
        ),
        (lambda value: value.update(weights=[weights(name="../x")]), "plan weights name of gan"),
        (lambda value: value.update(weights=[weights(sha256="0")]), "plan weights sha256 of gan"),
        (lambda value: value.update(weights=[weights(bytes=-1)]), "plan weights bytes of gan"),
        (lambda value: value.update(weights=[weights(role="/")]), "plan weights role must match"),
    ],
)
def test_a_plan_out_of_limits_is_refused(
    store: StorePaths, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refuse(store, "plan", change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(plan_id="0"), "commit plan_id must match"),
        (lambda value: value.update(host="x" * 256), "commit must not have the host"),
        (lambda value: value["files"][0].__setitem__(2, -1), r"bytes of blob .* got -1"),
    ],
)
def test_a_commit_out_of_limits_is_refused(
    store: StorePaths, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refuse(store, "commit", change, message)


def first_column(value: dict[str, Any]) -> list[Any]:
    column: list[Any] = value["columns"]["key_bytes"]
    return column


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value["parts"][0].__setitem__(2, -1), "bytes of part .* got -1"),
        (lambda value: value["parts"][0].__setitem__(3, "0"), "sha256 of part .* must match"),
        (lambda value: first_column(value).__setitem__(1, -5), "bytes of source column key_bytes"),
        (lambda value: first_column(value).__setitem__(0, "../x"), "must not be named '../x'"),
    ],
)
def test_sources_out_of_limits_are_refused(
    store: StorePaths, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refuse(store, "sources", change, message)


def test_an_index_must_name_the_files_of_each_shard(store: StorePaths) -> None:
    index = Index.unpack(store.view_set("simclr").index.read_bytes())
    assert index.shards[0].file("views").name.endswith(".tar")
    with pytest.raises(FormatError, match="entry of shard 0 names no file for column:latent"):
        index.shards[0].file("column:latent")


@pytest.mark.parametrize("rows", [0, -1])
def test_sources_must_have_rows(store: StorePaths, rows: int) -> None:
    refuse(store, "sources", lambda value: value.update(rows=rows), "must have a row")


def with_column(
    store: StorePaths, name: str, values: np.ndarray
) -> Callable[[dict[str, Any]], None]:
    """Return a change of sources.json to other values of a column, which it writes."""
    data = pack_npy(values)
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"{name}-{sha256[:16]}.npy"
    (store.sources / file).write_bytes(data)

    def change(value: dict[str, Any]) -> None:
        value["columns"][name] = [file, len(data), sha256]

    return change


def stored_column(store: StorePaths, name: str) -> np.ndarray:
    file, _, _ = json.loads(store.sources_record.read_bytes())["columns"][name]
    column: np.ndarray = np.load(store.sources / file)
    return column


@pytest.mark.parametrize("place", [0, 1, -1])
def test_keys_lie_one_after_another(store: StorePaths, place: int) -> None:
    offsets = stored_column(store, "key_offset")
    offsets[place] = 10**12 if place == 1 else offsets[place] + 1
    refuse(store, "sources", with_column(store, "key_offset", offsets), "fill their column")


def test_a_row_of_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    store = StorePaths(tmp_path / "s")
    parts = stored_column(store, "part")
    parts[3] = 1
    refuse(store, "sources", with_column(store, "part", parts), "part 1, there are 1")
