"""What the fuzzing found, one test for each kind, and what it must be now."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.hostile.fuzz_stores import republished
from tests.hostile.test_hostile_records import rewritten, sealed
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.finalise import finalise
from viewstore.build.repair import repair
from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.files.fetch import Retry
from viewstore.files.local import local_path
from viewstore.files.tensors import read_tensors, read_with_config, write_tensors, write_with_config
from viewstore.files.transport import connect
from viewstore.format.chunks import pack_params, unpack_params, with_checksum, without_checksum
from viewstore.format.columns import Column
from viewstore.format.manifest import Commit
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.format.records import parse, unseal
from viewstore.format.tar import MEMBER_DTYPE, TarWriter
from viewstore.sources.braces import expand_braces
from viewstore.sources.labels import LabelReader
from viewstore.sources.open import open_source
from viewstore.store.store import open_store
from viewstore.store.verify import verify
from viewstore.store.where import parse as parse_where
from viewstore.train.loop.checkpoint import TrainState, load_checkpoint, save_checkpoint


@pytest.fixture
def store(tmp_path: Path) -> StorePaths:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    return StorePaths(tmp_path / "s")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400 + ".0"])
def test_a_number_that_is_no_float_is_refused(number: str) -> None:
    """It had no canonical form, so that the digest could not be computed: ValueError."""
    with pytest.raises(FormatError, match="JSON numbers must be finite"):
        parse(b'{"v":%s}' % number.encode())
    with pytest.raises(FormatError, match="JSON numbers must be finite"):
        unseal(b'{"format":1,"kind":"k","v":%s}' % number.encode(), kind="k", form={"v": float})


@pytest.mark.parametrize("size", [0, 1, 3])
def test_what_is_shorter_than_its_checksum_is_refused(size: int) -> None:
    """The CRC of nothing is 0, and so is what is read of nothing."""
    with pytest.raises(FormatError, match="must end in 4 bytes of CRC-32C"):
        without_checksum(bytes(size), "member index")
    assert bytes(without_checksum(bytes(4), "member index")) == b""


def test_a_pack_whose_index_is_no_whole_entries_is_refused() -> None:
    good = pack_params(np.zeros(2, MEMBER_DTYPE), {}).data
    assert len(unpack_params(good, [])[0]) == 2
    for size in (7, 17):
        stream = io.BytesIO()
        writer = TarWriter(stream)
        writer.add("members.chunk", with_checksum(bytes(size)))
        writer.finish()
        with pytest.raises(FormatError, match=f"entries of 16 bytes, got {size}"):
            unpack_params(stream.getvalue(), [])


@pytest.mark.parametrize("views", [[[0]], [{"a": 1}], [None], ["0"], [0.5]])
def test_a_plan_with_nested_views_is_refused(store: StorePaths, views: list[Any]) -> None:
    value = json.loads(store.view_set("simclr").plan.read_bytes())
    value["columns"][0]["views"] = views
    with pytest.raises(FormatError, match="views must be int"):
        Plan.unpack(sealed(value))


def test_a_plan_with_an_unknown_codec_is_a_fault(store: StorePaths) -> None:
    def change(plan: dict[str, Any]) -> None:
        plan["codec"]["name"] = "zip"

    rewritten(store.view_set("simclr").plan, change)
    assert any("codec must be one of" in str(fault) for fault in verify(store.root))


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda commit: commit["columns"].pop(name)


def drop_file(role: str) -> Callable[[dict[str, Any]], None]:
    def change(commit: dict[str, Any]) -> None:
        commit["files"] = [file for file in commit["files"] if file[0] != role]

    return change


def place(offset: int) -> Callable[[dict[str, Any]], None]:
    def change(commit: dict[str, Any]) -> None:
        commit["columns"]["blur"][0] = offset

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("blur"), "other columns than its plan: blur"),
        (drop_file("views"), "must name files for"),
        (drop_file("params"), "must name files for"),
        (lambda commit: commit.update(rows=7), "has 7 rows"),
        (place(-1), "no place or no sha256"),
        (place(2**40), "behind its pack"),
    ],
    ids=["column", "views", "params", "rows", "before", "behind"],
)
def test_a_commit_that_lacks_what_its_plan_asks_for_is_a_fault_and_is_mended(
    store: StorePaths, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """It ended verify, repair and finalise with KeyError."""
    rewritten(store.view_set("simclr").commit(1), change)
    faults = [str(fault) for fault in verify(store.root)]
    assert any("simclr shard 1: commit: " in fault and message in fault for fault in faults)
    with pytest.raises(FormatError, match=message) as caught:
        finalise(store.root)
    assert caught.value.where == str(store.view_set("simclr").commit(1))
    repair(store.root, list(verify(store.root)))
    assert list(verify(store.root)) == []


@pytest.mark.parametrize("attempt", ["../../../outside", "a/b", "", "\0", "a" * 65])
def test_a_withdrawn_commit_is_not_named_by_what_it_says(store: StorePaths, attempt: str) -> None:
    value = json.loads(store.view_set("simclr").commit(1).read_bytes())
    with pytest.raises(FormatError, match="must not have the attempt"):
        Commit.unpack(sealed(value | {"attempt": attempt}))


def repeat_shard(index: dict[str, Any]) -> None:
    index["shards"].append(index["shards"][-1])


def far_shard(index: dict[str, Any]) -> None:
    last = index["shards"][-1]
    last["shard"] = 7
    last["files"] = [
        [role, name.replace("000002", "000007"), size, sha256]
        for role, name, size, sha256 in last["files"]
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat_shard, "each shard once"),
        (far_shard, "shard 7"),
        (lambda index: index["shards"].pop(), "each shard once"),
        (lambda index: drop("blur")(index["shards"][0]), "other columns"),
        (lambda index: index["members"].append("json"), "other rows or members"),
        (lambda index: index.update(rows=2**40), "other rows or members"),
    ],
    ids=["twice", "far", "lacking", "column", "members", "rows"],
)
def test_an_index_that_does_not_fit_its_plan_is_refused_with_its_file(
    store: StorePaths, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = store.view_set("simclr").index
    value = json.loads(path.read_bytes())
    change(value["viewstore"])
    republished(store, "index.json", json.dumps(value).encode())
    with pytest.raises(FormatError, match=message) as caught:
        open_store(store.root).view_sets["simclr"].index  # noqa: B018
    assert caught.value.where == str(path)


HEADERS = {
    "an open bracket": b"{'descr': '|u1', 'fortran_order': False, 'shape': (20, 20, 20, 3, }",
    "no end of a text": b"{'descr': '|u1&, 'fortran_order': False, 'shape': (20, 20, 20, 3), }",
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_npz_whose_header_is_no_python_is_refused(tmp_path: Path, name: str) -> None:
    """Numpy parses it as Python does, and raises what its tokenizer raises."""
    header = HEADERS[name].ljust(117) + b"\n"
    array = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(24_000)
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("images.npy", array)
    with pytest.raises(FormatError, match="npz cannot be read") as caught:
        open_source(str(tmp_path / "s.npz"))
    assert caught.value.where == str(tmp_path / "s.npz")


def test_an_npz_whose_name_is_damaged_is_refused(tmp_path: Path) -> None:
    """UTF-32 labels beyond Unicode made CPython raise SystemError."""
    labels = np.frombuffer(b"\xff" * 80, "<U1")
    np.savez(tmp_path / "s.npz", images=np.zeros((20, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(FormatError, match="npz") as caught:
        open_source(str(tmp_path / "s.npz"))
    assert caught.value.where == str(tmp_path / "s.npz")


def test_tensors_without_texts_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", {"a": torch.zeros(2)}, {"kind": "1"})
    data = (tmp_path / "t").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]) | {"__metadata__": None}).encode()
    (tmp_path / "t").write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    with pytest.raises(CheckpointError, match="kind = nothing"):
        read_tensors(tmp_path / "t", "kind")


@pytest.mark.parametrize(
    "change", [{"step": "1"}, {"loader": [1]}, {"history": {}}, {"partial": 0}]
)
def test_a_checkpoint_whose_progress_is_of_another_type_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """It was taken, and ended the training steps later."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    save_checkpoint(tmp_path / "c", TrainState(), {}, model, optimizer)
    assert load_checkpoint(tmp_path / "c", {}, model, optimizer) == TrainState()
    file = read_with_config(tmp_path / "c", "checkpoint")
    write_with_config(tmp_path / "c", "checkpoint", file.tensors, file.config | change)
    with pytest.raises(CheckpointError, match=f"checkpoint.{next(iter(change))} must be") as caught:
        load_checkpoint(tmp_path / "c", {}, model, optimizer)
    assert caught.value.where == str(tmp_path / "c")


def test_a_label_that_is_half_a_character_is_none() -> None:
    labels = LabelReader()
    assert labels.json(b'{"label": "\\ud800"}') == -1
    assert labels.unread == 1


def test_a_filter_of_another_encoding_is_refused() -> None:
    with pytest.raises(ConfigError, match="where must be UTF-8"):
        parse_where("label = '\udcff'")


@pytest.mark.parametrize("url", ["http://[::12345]/a", "s3://[bucket/a", "http://a]b/c"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="store URL"):
        connect(url, Retry())


@pytest.mark.parametrize("text", ["file://[x/y", "file://a]/y"])
def test_a_file_url_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be understood"):
        local_path(text)


@pytest.mark.parametrize(
    "spec", ["a" * 300, "a/" * 3000, "{a,b}" * 900 + ".tar", "\udcff{1,2}.tar"]
)
def test_a_source_that_the_system_cannot_name_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used|must have at most"):
        open_source(spec)


def test_a_file_of_a_pattern_that_the_system_cannot_name_is_refused() -> None:
    """The pattern itself is no path, so that only its files are looked for."""
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_source("{b,\0}" + "a" * 300 + "{1,2}.tar")
    assert caught.value.why == "File name too long"


def test_brace_patterns_have_limits_of_files_letters_and_depth() -> None:
    """They are counted before one is made: a stack overflow and gigabytes of names before."""
    deep = "{a," * 100 + "b" + "}" * 100
    assert len(expand_braces(deep)) == 101
    assert len(expand_braces("{a,b}" * 10)) == 1024
    with pytest.raises(ConfigError, match="at most 100 braces"):
        expand_braces("{a," + deep + "}")
    for spec in ("{a,b}" * 20, "{000000..999999}" + "x" * 5000, "{1..1000}{1..1001}"):
        with pytest.raises(ConfigError, match=r"at most 10\^6 files"):
            expand_braces(spec)


def test_a_key_of_another_encoding_is_not_there(store: StorePaths) -> None:
    with pytest.raises(ConfigError, match="no sample with key"):
        open_store(store.root).keys.row("\udcff")


def test_columns_of_a_plan_are_read_as_they_were_written(store: StorePaths) -> None:
    """The checks above refuse nothing that a plan may say."""
    plan = Plan.unpack(store.view_set("simclr").plan.read_bytes())
    first = Column(name=plan.columns[0].name, dtype="f4", shape=(2,), views=(0, 1))
    changed = replace(plan, columns=(first, *plan.columns[1:]))
    assert Plan.unpack(changed.pack()).columns == changed.columns
