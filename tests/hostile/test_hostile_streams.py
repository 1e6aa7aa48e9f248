"""Pickle streams with opcodes, names or calls that no network has: each is refused by its rule."""

import struct
from pathlib import Path

import pytest

from tests.hostile.hostile_files import (
    MEMO_BOMB,
    TEXT_BOMB,
    refusal,
    text,
)

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
        MEMO_BOMB,
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
        TEXT_BOMB,
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
