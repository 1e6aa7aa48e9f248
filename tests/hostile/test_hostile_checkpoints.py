"""Files made to harm whoever opens them: each is refused, quickly, in little memory, unexecuted."""

import random
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
    rosinality_checkpoint,
    snapshot,
    torch_file,
)
from tests.hostile.hostile_files import (
    REBUILD,
    Touch,
    refusal,
    storage_header,
    tensor,
    text,
    with_const,
)
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoint import read_checkpoint
from viewstore.generators.pickle_scan import Limits

REPO = Path(__file__).parents[2]


@pytest.fixture
def shared() -> Path:
    folder = REPO.parent / "shared" / "fixtures" / "gan"
    if not folder.is_dir():
        pytest.skip("the GAN fixtures are not beside the project")
    return folder


@pytest.mark.parametrize("name", ["os_system", "no_g_ema", "empty"])
def test_fixtures_are_refused(shared: Path, name: str) -> None:
    reasons = {
        "os_system": "global posix.system is not allowed",
        "no_g_ema": "the pickle holds G, but no G_ema",
        "empty": "it is neither a torch file nor a pickle of protocol 2 or newer",
    }
    with pytest.raises(CheckpointError, match=reasons[name]):
        read_checkpoint(shared / "hostile" / f"{name}.pkl")


def test_ordinary_unpickling_would_have_executed_what_the_reader_refuses(tmp_path: Path) -> None:
    """The control of this module: without it the tests could pass on harmless files."""
    called, embedded = tmp_path / "called", tmp_path / "embedded"
    source = f"from pathlib import Path; Path({str(embedded)!r}).touch()"
    files = {
        called: (Touch(called), r"global (_io|io)\.open is not allowed"),
        embedded: (Module("Generator", module_src=source), "G_ema has the parts none"),
    }
    code = (
        "import pickle, sys\n"
        f"sys.path.insert(0, {str(REPO)!r})\n"
        "from tests.generators.network_files import foreign_modules\n"
        "with foreign_modules(): pickle.load(open(sys.argv[1], 'rb'))"
    )
    for marker, (value, reason) in files.items():
        path = tmp_path / "control.pkl"
        path.write_bytes(dump(snapshot(value)))
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)
        assert not marker.exists()
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
        assert marker.exists()


OPCODES = {
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\0",
    "EXT4": b"\x84\x01\0\0\0",
    "PERSID": b"Pid\n",
    "BINPERSID": b"NQ",
    "INST": b"(iposix\nsystem\n",
    "OBJ": b"(N" + b"o",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 0),
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "NEWOBJ_EX": b")}}\x92",
    "FROZENSET": b"(\x91",
    "DUP": b"N2",
    "POP": b"NN0",
    "POP_MARK": b"N(N1",
    "LONG4": b"\x8b\x01\0\0\0\x01",
    "INT": b"I1\n",
    "GET": b"g0\n",
    "PUT": b"Np0\n",
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_without_a_place_in_a_network_are_refused(tmp_path: Path, name: str) -> None:
    reason = refusal(tmp_path, b"\x80\x05" + OPCODES[name] + b".")
    assert reason.startswith(f"opcode {name} at byte ")


STREAMS = {
    "protocol 0 later": (b"\x80\x01}.", "pickle protocol must be 2 to 5, got 1 at byte 0"),
    "protocol 6": (b"\x80\x06}.", "pickle protocol must be 2 to 5, got 6 at byte 0"),
    "two protocols": (
        b"\x80\x04\x80\x04}.",
        "a pickle of protocol 2 to 5 was expected at byte 2",
    ),
    "memo": (
        b"\x80\x02}r\xff\xff\xff\x7f.",
        "memo index 2147483647 at byte 3 exceeds the number of opcodes",
    ),
    "memo never stored": (
        b"\x80\x02h\x07.",
        "the pickle recalls memo 7, which was never stored (BINGET at byte 2)",
    ),
    "frame": (
        b"\x80\x04\x95" + struct.pack("<Q", 99) + b"}.",
        "the frame at byte 2 ends behind the end of the file",
    ),
    "text length": (
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
        "the pickle is cut short or corrupt after byte 0",
    ),
    "bytes length": (
        b"\x80\x04}\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
        "the pickle is cut short or corrupt after byte 2",
    ),
    "no stop": (b"\x80\x04}", "the pickle is cut short or corrupt after byte 2"),
    "unknown opcode": (b"\x80\x04}\xff.", "the pickle is cut short or corrupt after byte 2"),
    "trailing": (b"\x80\x04}.}.", "2 bytes follow the end of the pickle"),
    "left over": (b"\x80\x04}}.", "the pickle ends with values left over"),
    "empty stack": (b"\x80\x04.", "the pickle takes a value that is not there"),
    "no mark": (b"\x80\x04t.", "the pickle takes a mark that is not there (TUPLE at byte 2)"),
    "below the mark": (
        b"\x80\x04N(\x85.",
        "the pickle takes a value that is not there (TUPLE1 at byte 4)",
    ),
    "long integer": (
        b"\x80\x04\x8a\xff" + b"\x01" * 255 + b".",
        "the integer at byte 2 is longer than 16 bytes",
    ),
    "unhashable name": (
        b"\x80\x04]]\x93.",
        "a global must be named by two strings (STACK_GLOBAL at byte 4)",
    ),
    "escapes in a name": (
        b"\x80\x04" + text("posix\n\x1b[2J") + text("é") + b"\x93.",
        r"global posix\n\x1b[2J.\xe9 is not allowed",
    ),
    "key of a tuple": (
        b"\x80\x04})Ns.",
        "a dict key must be a string, got tuple (SETITEM at byte 5)",
    ),
    "odd items": (
        b"\x80\x04}(Nu.",
        "the pickle sets a key without a value (SETITEMS at byte 5)",
    ),
    "item of a list": (
        b"\x80\x04]NNs.",
        "the pickle sets an item of what is not a dict (SETITEM at byte 5)",
    ),
    "append to a dict": (
        b"\x80\x04}Na.",
        "the pickle appends to what is not a list (APPEND at byte 4)",
    ),
    "call of text": (
        b"\x80\x04" + text("x") + b")R.",
        "the pickle calls what cannot be called (REDUCE at byte 6)",
    ),
    "attributes of a name": (
        b"\x80\x04" + text("collections") + text("OrderedDict") + b"\x93N}" + b"\x86b.",
        "the pickle sets attributes of what has none (BUILD at byte 32)",
    ),
    "object of a function": (
        b"\x80\x04" + text("collections") + text("OrderedDict") + b"\x93)\x81.",
        "the pickle makes an object of what is not a class (NEWOBJ at byte 30)",
    ),
    "object with arguments": (
        b"\x80\x04" + text("dnnlib.util") + text("EasyDict") + b"\x93N\x85\x81.",
        "dnnlib.util.EasyDict is made with arguments (NEWOBJ at byte 28)",
    ),
    "dotted name": (
        b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93.",
        "global collections.OrderedDict.fromkeys is not allowed",
    ),
    "text of a name": (
        b"\x80\x02cbuiltins\neval\n.",
        "global builtins.eval is not allowed",
    ),
    "TensorFlow": (
        b"\x80\x04" + text("dnnlib.tflib.network") + text("Network") + b"\x93.",
        "global dnnlib.tflib.network.Network is not allowed",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_break_a_rule_are_refused(tmp_path: Path, name: str) -> None:
    data, reason = STREAMS[name]
    assert refusal(tmp_path, data) == reason


CALLS: dict[str, tuple[str, bytes, str]] = {
    "scalar of an object": (
        "numpy._core.multiarray.scalar",
        b"N\x85R.",
        "a numpy scalar is not made of a dtype and its bytes",
    ),
    "dtype of objects": ("numpy.dtype", text("O") + b"\x85R.", "a numpy dtype is not a plain"),
    "state of a dtype": (
        "numpy.dtype",
        text("f8") + b"\x85RK\x03" + text(">") + b"\x86b.",
        "a numpy dtype is not a little-endian number",
    ),
    "OrderedDict of pairs": (
        "collections.OrderedDict",
        b"]\x85R.",
        "an OrderedDict is made with arguments",
    ),
    "set of text": ("builtins.set", text("ab") + b"\x85R.", "a set is not made of a list"),
    "other encoding": (
        "_codecs.encode",
        text("ab") + text("bz2") + b"\x86R.",
        "_codecs.encode is called with other than latin1 text",
    ),
    "encoding of other text": (
        "_codecs.encode",
        text("€") + text("latin1") + b"\x86R.",
        "text that stands for bytes holds other characters",
    ),
    "long size": ("torch.Size", b"(" + b"K\x01" * 9 + b"t\x85R.", "a torch.Size is not made of"),
    "storage of text": (
        "torch.storage._load_from_bytes",
        text("ab") + b"\x85R.",
        "a storage is not made of bytes",
    ),
    "parameter of nothing": (
        "torch._utils._rebuild_parameter",
        b"N\x89N\x87R.",
        "a parameter is not made of a tensor",
    ),
    "persistent object of nothing": (
        "torch_utils.persistence._reconstruct_persistent_obj",
        b"}\x85R.",
        "a persistent object does not describe a class and its state",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_allowed_names_take_only_what_networks_give_them(tmp_path: Path, name: str) -> None:
    function, rest, reason = CALLS[name]
    module, _, attribute = function.rpartition(".")
    data = b"\x80\x04" + text(module) + text(attribute) + b"\x93" + rest
    assert refusal(tmp_path, data).startswith(reason)


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
    "memo": lambda: STREAMS["memo"][0],
    "text length": lambda: STREAMS["text length"][0],
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
        "from viewstore.generators.checkpoint import read_checkpoint\n"
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


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    checkpoint = rosinality_checkpoint(network())
    return {
        "pickle": ada_file(),
        "protocol 2": ada_file(2),
        "zip": torch_file(checkpoint),
        "legacy": torch_file(checkpoint, legacy=True),
    }


def outcome(path: Path, data: bytes) -> bool:
    """Tell whether `data` is read; an error that is not a CheckpointError fails the test."""
    path.write_bytes(data)
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("name", ["pickle", "protocol 2", "zip", "legacy"])
def test_truncated_files_are_refused(
    tmp_path: Path, originals: dict[str, bytes], name: str
) -> None:
    data = originals[name]
    assert outcome(tmp_path / "whole", data)
    lengths = np.random.default_rng(1).integers(0, len(data), 46).tolist()
    for length in [1, 2, len(data) - 2, len(data) - 1, *lengths]:
        assert not outcome(tmp_path / "cut", data[:length]), length


@pytest.mark.parametrize("name", ["pickle", "protocol 2", "zip", "legacy"])
def test_flipped_bytes_raise_nothing_else(
    tmp_path: Path, originals: dict[str, bytes], name: str
) -> None:
    draw = random.Random(2)
    refused = 0
    for _ in range(500 if name == "pickle" else 150):
        data = bytearray(originals[name])
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        refused += not outcome(tmp_path / "flipped", bytes(data))
    assert refused > 20
