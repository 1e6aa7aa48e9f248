"""Small files that claim, repeat or nest too much: refused quickly, in little memory."""

import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.generators.network_files import (
    KWARGS,
    Call,
    Module,
    ada_file,
    dump,
    modules,
    network,
    snapshot,
)
from tests.hostile.hostile_files import (
    MEMO_BOMB,
    REBUILD,
    TEXT_BOMB,
    refusal,
    storage_header,
    tensor,
    text,
    with_const,
)
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.read import read_checkpoint
from viewstore.generators.checkpoints.scan import Limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(file_bytes=1000), "it is over the limit file_bytes=1000"),
        (Limits(opcodes=500), "it is over the limit opcodes=500 at byte"),
        (Limits(tensors=5), "it is over the limit tensors=5"),
        (Limits(module_depth=4), "it is over the limit module_depth=4"),
        (Limits(resolution=4), "it is over the limit resolution=4"),
        (Limits(dimension=7), "it is over the limit dimension=7"),
    ],
)
def test_each_limit_is_named(tmp_path: Path, limits: Limits, reason: str) -> None:
    data = ada_file()
    assert reason in refusal(tmp_path, data, limits)
    if reason.endswith("depth=4"):  # an affine layer is the fifth
        read_checkpoint(tmp_path / "network.pkl", limits=Limits(module_depth=5))


def test_module_that_holds_itself_ends(tmp_path: Path) -> None:
    """Python's pickler cannot write a cycle through a call; a hostile one can."""
    data = (
        b"\x80\x04}" + text("G_ema")
        + text("torch_utils.persistence") + text("_reconstruct_persistent_obj") + b"\x93"
        + b"}(" + text("type") + text("class") + text("version") + b"K\x06"
        + text("module_src") + text("") + text("class_name") + text("Generator")
        + text("state") + b"}" + text("_modules") + b"}\x94s" + b"u\x85R\x94s"
        # memo 0 is the dict of modules, memo 1 the module: it becomes two children of its own
        + text("loop") + b"h\x00" + text("mapping") + b"h\x01s"
        + text("synthesis") + b"h\x01ss."
    )  # fmt: skip
    assert refusal(tmp_path, data) == "it is over the limit module_depth=16"


def test_modules_listed_many_times_are_counted(tmp_path: Path) -> None:
    """Fifteen levels of ten names for one module each: small on disk, 10^15 to walk."""
    module = Module()
    for _ in range(12):
        outer = Module()
        outer.state["_modules"] = {f"m{i}": module for i in range(10)}
        module = outer
    generator = modules(network())
    generator.state["_modules"]["mapping"].state["_modules"]["fc0"] = module
    assert refusal(tmp_path, dump(snapshot(generator))) == "it is over the limit tensors=20000"


def nested_tuples() -> bytes:
    """Return a dict whose key would take 2^200 steps to hash."""
    return b"\x80\x02}N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"Ns."


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def shared_storage() -> bytes:
    """Return a well-formed network whose tensors all lie in the same 150 kB."""
    numel = 64 * 64 * 9
    data = storage_header(numel=numel) + struct.pack("<q", numel) + bytes(4 * numel)
    storage = Call(torch.storage._load_from_bytes, data)
    tensors = {}
    for name, value in network(channels=(64,) * 5).items():
        stride = tuple(step // 4 for step in value.strides)
        tensors[name] = Call(REBUILD, storage, 0, value.shape, stride, False, {})
    return dump(snapshot(modules(tensors, KWARGS | {"img_resolution": 64})))


def test_copies_of_one_storage_are_counted(tmp_path: Path) -> None:
    reason = refusal(tmp_path, shared_storage())
    assert reason.endswith("its tensors hold more than twice the bytes of the file")


def encoded_again() -> bytes:
    """Return a list of a thousand copies of one decoded text."""
    text_bytes = b"X" + struct.pack("<I", 1 << 16) + b"x" * (1 << 16)
    encode = b"c_codecs\nencode\n"
    start = b"\x80\x02" + encode + b"q\x00" + text_bytes + b"X\6\0\0\0latin1\x86q\x01R"
    return start + b"h\x00h\x01R" * 1000 + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "memo": lambda: MEMO_BOMB,
    "text length": lambda: TEXT_BOMB,
    "stride 0": lambda: with_const(tensor((1 << 20, 1 << 20), (0, 0))),
    "shared storage": shared_storage,
    "encoded again": encoded_again,
    "nested tuples": nested_tuples,
    "nested lists": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "marks": lambda: b"\x80\x02" + b"(" * 100_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_stay_small_in_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[name]())
    assert peak_bytes(path) < (16 << 20) + 4 * path.stat().st_size


def test_bombs_are_refused_under_a_limit_of_memory(tmp_path: Path) -> None:
    """The process may have 1 GiB: what allocates by what a file claims would end otherwise."""
    for name, make in BOMBS.items():
        (tmp_path / f"{name}.pkl").write_bytes(make())
    code = (
        "import sys; from pathlib import Path\n"
        "from viewstore.errors import CheckpointError\n"
        "from viewstore.generators.checkpoints.read import read_checkpoint\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: read_checkpoint(path)\n"
        "    except CheckpointError as error: print('not enough memory' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )
    assert done.stdout.split() == ["False"] * len(BOMBS)
