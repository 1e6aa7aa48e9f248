"""Files of tensors: their bytes are frozen, and stock safetensors reads them."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from viewstore.errors import CheckpointError
from viewstore.files.tensors import (
    as_stored,
    read_json,
    read_tensors,
    read_with_config,
    write_tensors,
    write_with_config,
)

WEIGHTS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "c": torch.zeros(0, 4),
    "b.bias": torch.tensor(-1.5),
}
STATE = WEIGHTS | {
    "a.half": torch.arange(3).half(),
    "a.random": torch.arange(5, dtype=torch.uint8),
    "b.count": torch.tensor(7),
}
TEXTS = {"viewstore_gan": "1", "sigma_w": "0.5", "note": "ä"}
CONFIG = {"size": 16, "name": "ä", "values": [1.5, None]}
FLOAT_BYTES = bytes.fromhex("0000c0bf 00000000 0000803f 00000040 00004040 00008040 0000a040")
TEXTS_GOLDEN = (
    b"\xf8\0\0\0\0\0\0\0"
    b'{"__metadata__":{"note":"\\u00e4","sigma_w":"0.5","viewstore_gan":"1"},'
    b'"b.bias":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    b'"b.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},'
    b'"c":{"dtype":"F32","shape":[0,4],"data_offsets":[28,28]}} ' + FLOAT_BYTES
)
CONFIG_GOLDEN = (
    b"\xd8\x01\0\0\0\0\0\0"
    b'{"__metadata__":{"config":"{\\"name\\":\\"\\\\u00e4\\",\\"size\\":16,'
    b'\\"values\\":[1.5,null]}","viewstore_encoder":"1"},'
    b'"a.half":{"data_offsets":[36,42],"dtype":"F16","shape":[3]},'
    b'"a.random":{"data_offsets":[42,47],"dtype":"U8","shape":[5]},'
    b'"b.bias":{"data_offsets":[8,12],"dtype":"F32","shape":[]},'
    b'"b.count":{"data_offsets":[0,8],"dtype":"I64","shape":[]},'
    b'"b.weight":{"data_offsets":[12,36],"dtype":"F32","shape":[2,3]},'
    b'"c":{"data_offsets":[36,36],"dtype":"F32","shape":[0,4]}}    '
    + (7).to_bytes(8, "little")
    + FLOAT_BYTES
    + bytes.fromhex("0000 003c 0040 0001020304")
)


def test_bytes_of_a_file_with_texts_are_frozen(tmp_path: Path) -> None:
    """Generators and inverters are compared and shipped as these bytes."""
    write_tensors(tmp_path / "t", WEIGHTS, TEXTS)
    assert (tmp_path / "t").read_bytes() == TEXTS_GOLDEN


def test_bytes_of_a_file_with_a_config_are_frozen(tmp_path: Path) -> None:
    """The digest of an encoder is of these bytes, and stores record it."""
    write_with_config(tmp_path / "t", "encoder", STATE, CONFIG)
    assert (tmp_path / "t").read_bytes() == CONFIG_GOLDEN


def test_data_lie_as_the_safetensors_library_puts_them(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_with_config(path, "encoder", STATE, CONFIG)
    data, stock = path.read_bytes(), safetensors.torch.save(STATE)
    tail = len(stock) - 8 - int.from_bytes(stock[:8], "little")
    assert data[-tail:] == stock[-tail:]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "t"
    write_tensors(path, WEIGHTS, TEXTS)
    tensors, texts = read_tensors(path, "viewstore_gan")
    assert texts == TEXTS
    write_with_config(path, "encoder", STATE, CONFIG)
    file = read_with_config(path, "encoder")
    assert file.config == CONFIG
    for written, read in ((WEIGHTS, tensors), (STATE, file.tensors)):
        assert sorted(read) == sorted(written)
        assert all(torch.equal(read[name], value) for name, value in written.items())
    assert all(file.tensors[name].dtype == value.dtype for name, value in STATE.items())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is corrupt or not a safetensors file (Error while deserializing"),
        (TEXTS_GOLDEN[:-1], "it is corrupt or not a safetensors file (Error while deserializing"),
        (b"\x02\0\0\0\0\0\0\0{}", "its metadata says viewstore_gan = nothing, wanted 1"),
        (CONFIG_GOLDEN, "its metadata says viewstore_gan = nothing, wanted 1"),
        (
            TEXTS_GOLDEN.replace(b'"dtype":"F32"', b'"dtype":"I32"', 1),
            "tensor b.bias must be float16 or float32, got torch.int32",
        ),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path, "viewstore_gan")
    assert str(caught.value).startswith(f"cannot read {path} as a viewstore_gan file: {reason}")
    assert caught.value.where == str(path)


def test_a_file_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it cannot be opened: No such file"):
        read_tensors(tmp_path / "none", "viewstore_gan")


def test_a_file_beyond_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    path.write_bytes(TEXTS_GOLDEN)
    monkeypatch.setattr("viewstore.files.tensors.MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="t must be at most 100 bytes"):
        read_tensors(path, "viewstore_gan")
    with pytest.raises(CheckpointError, match="t must be at most 100 bytes"):
        read_with_config(path, "encoder")


def test_texts_that_are_no_json_objects_are_refused() -> None:
    with pytest.raises(CheckpointError, match="its metadata has no JSON named kwargs"):
        read_json({"kwargs": "{"}, "kwargs")
    with pytest.raises(CheckpointError, match="its metadata kwargs must be an object, got 3"):
        read_json({"kwargs": "3"}, "kwargs")


def test_values_that_float16_cannot_hold_are_refused() -> None:
    assert as_stored({"a": torch.tensor(1e5)}, half=False)["a"] == 1e5
    with pytest.raises(CheckpointError, match="tensor a holds values that float16 cannot"):
        as_stored({"a": torch.tensor(1e5)}, half=True)
