"""Pieces of hostile files, and what every test of one asserts."""

import pickle
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.generators.network_files import Call, dump, modules, network, snapshot
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.read import read_checkpoint
from viewstore.generators.checkpoints.scan import Limits

REBUILD = torch._utils._rebuild_tensor_v2
STORAGE = b"X\x07\0\0\0storage"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self.path), "x"))


def refusal(folder: Path, data: bytes, limits: Limits | None = None) -> str:
    """Return the reason for which `data` is refused; nothing else may come of reading it."""
    path = folder / "network.pkl"
    path.write_bytes(data)
    canary = Path(tempfile.gettempdir()) / "viewstore_canary"
    existed = canary.exists()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, limits=limits)
    assert sorted(folder.iterdir()) == [path]
    assert canary.exists() == existed
    assert not {"torch_utils", "dnnlib", "training"} & sys.modules.keys()
    message = str(caught.value)
    start, end = f"cannot read {path} as a StyleGAN2 network: ", ". Nothing from the file was"
    assert message.startswith(start)
    return message.removeprefix(start).partition(end)[0]


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def storage_header(*, kind: bytes = b"ctorch\nFloatStorage\n", numel: int = 4) -> bytes:
    identity = b"(" + STORAGE + kind + b"X\x01\0\0\0aX\x03\0\0\0cpuJ"
    identity += struct.pack("<i", numel) + b"NtQ."
    system = pickle.dumps({"little_endian": True}, 2)
    return (
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + system
        + b"\x80\x02" + identity + pickle.dumps(["a"], 2)
    )  # fmt: skip


def tensor(size: object, stride: object, *, offset: object = 0) -> Call:
    """Return a tensor of 16 numbers with geometry of the test's choice."""
    data = storage_header(numel=16) + struct.pack("<q", 16) + bytes(64)
    storage = Call(torch.storage._load_from_bytes, data)
    return Call(REBUILD, storage, offset, size, stride, False, {})


def with_const(value: object) -> bytes:
    generator = modules(network())
    b4 = generator.state["_modules"]["synthesis"].state["_modules"]["b4"]
    b4.state["_parameters"]["const"] = value
    return dump(snapshot(generator))


# Each claims far more than its few bytes hold.
MEMO_BOMB = b"\x80\x02}r\xff\xff\xff\x7f."
TEXT_BOMB = b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a."
