"""Tensors made to harm: geometry, nested storages and torch's own containers."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.generators.network_files import Call, network, rosinality_checkpoint, torch_file
from tests.hostile.hostile_files import (
    REBUILD,
    Touch,
    refusal,
    storage_header,
    tensor,
    with_const,
)
from viewstore.generators.checkpoints.read import read_checkpoint


def blob(value: object) -> bytes:
    """Return the legacy stream of a storage or of anything else."""
    return torch_file(value, legacy=True)


GEOMETRY: dict[str, tuple[Call, str]] = {
    "stride 0": (tensor((1 << 20, 1 << 20), (0, 0)), "exceeds its storage of 16 numbers"),
    "behind the end": (tensor((4, 4), (5, 1)), "exceeds its storage of 16 numbers"),
    "offset behind the end": (tensor((4, 4), (4, 1), offset=1), "exceeds its storage"),
    "negative offset": (tensor((4,), (1,), offset=-1), "a storage and whole numbers"),
    "negative stride": (tensor((4,), (-1,)), "a storage and whole numbers"),
    "negative size": (tensor((-4,), (1,)), "a storage and whole numbers"),
    "fraction": (tensor((4.0,), (1,)), "a storage and whole numbers"),
    "truth as size": (tensor((True,), (1,)), "a storage and whole numbers"),
    "too large": (tensor((1 << 64,), (1,)), "a storage and whole numbers"),
    "ranks differ": (tensor((4, 4), (1,)), "one stride per axis and at most 8 axes"),
    "nine axes": (tensor((1,) * 9, (1,) * 9), "one stride per axis and at most 8 axes"),
    "no storage": (Call(REBUILD, b"", 0, (1,), (1,)), "a storage and whole numbers"),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_outside_the_storage_is_refused(tmp_path: Path, name: str) -> None:
    value, reason = GEOMETRY[name]
    assert reason in refusal(tmp_path, with_const(value))


NUMBERS = struct.pack("<q4f", 4, 1, 2, 3, 4)
BLOBS: dict[str, tuple[bytes, str]] = {
    "a call": (blob({"x": Touch(Path("never"))}), "open is not allowed"),
    "a call instead of a storage type": (
        storage_header(kind=b"cposix\nsystem\n") + NUMBERS,
        "global posix.system is not allowed",
    ),
    "a blob within": (
        storage_header(kind=b"ctorch.storage\n_load_from_bytes\n") + NUMBERS,
        "global torch.storage._load_from_bytes is not allowed",
    ),
    "an OrderedDict": (
        storage_header(kind=b"ccollections\nOrderedDict\n") + NUMBERS,
        "global collections.OrderedDict is not allowed",
    ),
    "a dict": (blob({}), "a nested stream does not hold a storage"),
    "short": (storage_header() + NUMBERS[:-1], "a storage of 4 numbers at byte"),
    "no numbers": (storage_header(), "a storage of 4 numbers at byte"),
    "long": (storage_header() + NUMBERS + b"\0", "1 bytes follow its last storage"),
    "other count": (storage_header() + b"\5" + NUMBERS[1:], "says 5"),
    "other magic": (pickle.dumps(1, 2), "it is not a torch file of version 1001"),
    "big-endian": (
        storage_header().replace(b"little_endianq\x01\x88", b"little_endianq\x01\x89"),
        "its numbers are not little-endian",
    ),
    "other key": (
        storage_header().replace(b"X\x01\0\0\0aq\x01a", b"X\x01\0\0\0bq\x01a") + NUMBERS,
        "the storages in the file are not those that its tensors use",
    ),
    "a view": (
        storage_header().replace(b"NtQ", b"K\x01tQ") + NUMBERS,
        "a storage is a view of another",
    ),
    "empty": (b"", "the pickle is cut short or corrupt after byte 0"),
}


@pytest.mark.parametrize("name", BLOBS)
def test_nested_streams_obey_stricter_rules(tmp_path: Path, name: str) -> None:
    data, reason = BLOBS[name]
    load = Call(torch.storage._load_from_bytes, data)
    assert reason in refusal(tmp_path, with_const(Call(REBUILD, load, 0, (4,), (1,), False, {})))


def test_nested_stream_of_this_test_is_well_formed(tmp_path: Path) -> None:
    """Each case above differs from this one in one thing, so it is refused for that one."""
    load = Call(torch.storage._load_from_bytes, storage_header() + NUMBERS)
    reason = refusal(tmp_path, with_const(Call(REBUILD, load, 0, (4,), (1,), False, {})))
    assert reason == "tensor synthesis.b4.const must have shape (6, 4, 4), got (4,)"


def rezipped(
    change: Callable[[str, bytes], list[tuple[str, bytes]]], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return the zip container with every member replaced by what `change` makes of it."""
    stream = io.BytesIO()
    original = zipfile.ZipFile(io.BytesIO(torch_file(rosinality_checkpoint(network()))))
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name in original.namelist():
            for new_name, data in change(name, original.read(name)):
                archive.writestr(new_name, data)
    return stream.getvalue()


def keep(name: str, data: bytes) -> list[tuple[str, bytes]]:
    return [(name, data)]


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (
        lambda: rezipped(keep, compression=zipfile.ZIP_DEFLATED),
        "a member of the zip file is compressed, which torch.save never does",
    ),
    "no pickle": (
        lambda: rezipped(lambda n, d: [] if n.endswith("data.pkl") else [(n, d)]),
        "the zip file holds no data.pkl, so torch.save did not write it",
    ),
    "big-endian": (
        lambda: rezipped(lambda n, d: [(n, b"big" if n.endswith("byteorder") else d)]),
        "its numbers are not little-endian",
    ),
    "short storage": (
        lambda: rezipped(lambda n, d: [(n, d[:-1] if "/data/" in n else d)]),
        "bytes in the file",
    ),
    "no storages": (
        lambda: rezipped(lambda n, d: [] if "/data/" in n else [(n, d)]),
        "numbers has 0 bytes in the file",
    ),
    "two folders": (
        lambda: rezipped(lambda n, d: [(n, d), (f"other/{n.partition('/')[2]}", d)]),
        "two members of the zip file have the same name",
    ),
    "trailing": (
        lambda: rezipped(lambda n, d: [(n, d + b"." if n.endswith("data.pkl") else d)]),
        "bytes follow the end of its pickle",
    ),
    "a call": (
        lambda: torch_file({"g_ema": {}, "x": Touch(Path("never"))}),
        "open is not allowed",
    ),
    "no zip": (lambda: b"PK\x03\x04" + bytes(100), "the zip file is cut short or corrupt"),
    "many members": (
        lambda: rezipped(keep) + b"PK\x01\x02" * 20_001,
        "it is over the limit tensors=20000",
    ),
}


@pytest.mark.parametrize("name", ZIPS)
def test_zip_containers_obey_the_rules(tmp_path: Path, name: str) -> None:
    make, reason = ZIPS[name]
    assert reason in refusal(tmp_path, make())


def test_rezipped_container_is_well_formed(tmp_path: Path) -> None:
    path = tmp_path / "network"
    path.write_bytes(rezipped(keep))
    read_checkpoint(path)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Central entries that all claim one long member would be longer together than the file."""
    data = bytearray(rezipped(keep))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, len(data), len(data))
    assert "longer than the file" in refusal(tmp_path, bytes(data))
