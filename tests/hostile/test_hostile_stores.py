"""Any record of a store may say anything: verify names it, and never ends in a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hostile.test_hostile_records import of_another_type, sealed
from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.repair import repair
from viewstore.errors import FormatError, ViewStoreError
from viewstore.format.chunks import pack_chunk, unpack_params, with_checksum, without_checksum
from viewstore.format.columns import Column
from viewstore.format.paths import StorePaths
from viewstore.format.records import canonical, parse
from viewstore.format.tar import TarWriter
from viewstore.store.verify import verify

TRIED = 40
EXTREMES: tuple[Any, ...] = (0, -1, 2**53 - 1, -(2**53 - 1), "", "../x", [], None, [[0]])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    folder = tmp_path_factory.mktemp("hostile")
    build_small(folder / "s", write_npz(folder / "images.npz", rows=4), shard_rows=2)
    return StorePaths(folder / "s")


def harmed(value: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield `value` with one part, at any depth, taken out, doubled or extreme."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: kept for name, kept in value.items() if name != key}
            yield {**value, f"{key}2": part}
            yield from ({**value, key: extreme} for extreme in EXTREMES)
            yield from ({**value, key: changed} for changed in harmed(part))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield [*value, value[0]]
        yield from ([extreme, *value[1:]] for extreme in EXTREMES)
        yield from ([changed, *value[1:]] for changed in harmed(value[0]))


def paths_of(store: StorePaths) -> dict[str, Path]:
    view_set = store.view_set("simclr")
    return {
        "sources": store.sources_record,
        "plan": view_set.plan,
        "commit": view_set.commit(1),
        "index": view_set.index,
        "stats": view_set.stats,
        "manifest": store.manifest,
    }


@pytest.mark.parametrize("kind", ["sources", "plan", "commit", "index", "stats", "manifest"])
def test_verify_names_whatever_a_record_says(store: StorePaths, kind: str) -> None:
    path = paths_of(store)[kind]
    good = path.read_bytes()
    path.chmod(0o644)
    value = json.loads(good)
    is_sealed = value.pop("digest", None) is not None
    every = [each for each in (*harmed(value), *of_another_type(value)) if each != value]
    unnoticed = 0
    try:
        for changed in random.Random(11).sample(every, TRIED):
            path.write_bytes(sealed(changed) if is_sealed else canonical(changed))
            unnoticed += not list(verify(store.root))
    finally:
        path.write_bytes(good)
    assert list(verify(store.root)) == []
    # Some may say anything: times and hosts of commits, names of classes.
    assert unnoticed <= (TRIED // 2 if kind in ("commit", "sources", "plan") else 0)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e400", "NaN", "Infinity"])
def test_a_number_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(FormatError, match="JSON"):
        parse(b'{"v":' + number.encode() + b"}")


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"v":"\ud800"}', rb'{"v":["a",{"b":"\uDFFF\uD800"}]}', rb'{"\ud83d":1}',
        b'{"v":"\xed\xa0\x80"}', '{"v":"\ud801"}'.encode("utf-16-le", "surrogatepass"),
    ],
)  # fmt: skip
def test_half_a_surrogate_pair_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="JSON texts must be Unicode"):
        parse(raw)


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", "caf\xe9", "caf\udce9", "\\ud800"])
def test_texts_that_python_makes_of_names_are_read(text: str) -> None:
    assert parse(canonical({"v": text})) == {"v": text}


def test_half_a_surrogate_pair_in_a_record_is_located(store: StorePaths) -> None:
    path = paths_of(store)["sources"]
    good = path.read_bytes()
    value = json.loads(good) | {"label_names": ["\ud800"]}
    del value["digest"]
    path.chmod(0o644)
    path.write_bytes(sealed(value))
    try:
        faults = list(verify(store.root))
        assert (faults[0].path, "must be Unicode" in faults[0].what) == (str(path), True)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_shorter_than_a_checksum_has_none(count: int) -> None:
    with pytest.raises(FormatError, match=f"got {count} bytes"):
        without_checksum(bytes(count), "chunk")


@pytest.mark.parametrize("payload", [b"", b"abc", with_checksum(b"abc"), with_checksum(bytes(17))])
def test_a_pack_with_another_index_is_refused(tmp_path: Path, payload: bytes) -> None:
    column = Column(name="status", dtype="u1", shape=(2,))
    with (tmp_path / "pack").open("wb") as stream:
        writer = TarWriter(stream)
        writer.add("members.chunk", payload)
        writer.add("status.chunk", pack_chunk(column, np.ones((2, 2), np.uint8), 2))
        writer.finish()
    with pytest.raises(FormatError, match="member index"):
        unpack_params((tmp_path / "pack").read_bytes(), ["status"])


def with_codec(value: dict[str, Any]) -> None:
    value["codec"]["name"] = "pickle"


def without_column(value: dict[str, Any]) -> None:
    del value["columns"]["status"]


def without_views(value: dict[str, Any]) -> None:
    value["files"] = [file for file in value["files"] if file[0] != "views"]


@pytest.mark.parametrize(
    ("kind", "change", "said", "mended"),
    [
        ("plan", with_codec, "codec that cannot be read", False),
        ("commit", without_column, "other columns than its plan: status", True),
        ("commit", without_views, "must name files for", True),
    ],
)
def test_a_record_that_lacks_something_is_named(
    store: StorePaths,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    change: Callable[[dict[str, Any]], None],
    said: str,
    mended: bool,
) -> None:
    path = paths_of(store)[kind]
    good = path.read_bytes()
    value = json.loads(good)
    change(value)
    path.chmod(0o644)
    path.write_bytes(sealed(value))
    try:
        code, out, _ = run(capsys, "verify", store.root)
        assert code == 1
        assert said in out
        if mended:
            repair(store.root, list(verify(store.root)), workers=1)
            assert list(verify(store.root)) == []
        else:
            with pytest.raises(ViewStoreError, match="cannot be repaired"):
                repair(store.root, list(verify(store.root)), workers=1)
    finally:
        if not mended:
            path.write_bytes(good)
