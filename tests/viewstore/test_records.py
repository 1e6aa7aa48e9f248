"""Records: one canonical form, and every other one refused."""

import json

import pytest

from viewstore.errors import FormatError
from viewstore.records import canonical, parse, seal, unseal


def test_canonical_bytes_are_frozen() -> None:
    value = {"b": [1, None, 0.5], "a": "\u00e9"}
    assert canonical(value) == b'{"a":"\\u00e9","b":[1,null,0.5]}'


def test_a_sealed_record_opens_again() -> None:
    record = unseal(seal("t", {"x": 1}), kind="t", keys=("x",))
    assert (record["x"], record["format"], len(record["digest"])) == (1, 1, 64)


def test_every_flipped_byte_is_found() -> None:
    raw = seal("t", {"x": 12345})
    for place in range(len(raw)):
        bad = bytearray(raw)
        bad[place] ^= 1
        with pytest.raises(FormatError):
            unseal(bytes(bad), kind="t", keys=("x",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":9007199254740993}', "2\\^53"),
        (b'{"a":' + b"9" * 5000 + b"}", "2\\^53"),
        (b"[" * 40 + b"]" * 40, "levels deep"),
        (b"[1]", "must be a JSON object"),
        (b'{"a":', "not a JSON record"),
    ],
)
def test_hostile_json_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(raw)


def test_another_version_says_what_to_do() -> None:
    value = json.loads(seal("t", {})) | {"format": 2}
    with pytest.raises(FormatError, match="format version must be 1, got 2") as caught:
        unseal(canonical(value), kind="t", keys=())
    assert caught.value.code == "VS204"
    assert caught.value.fix


def test_unknown_keys_are_refused_unless_they_are_extensions() -> None:
    assert unseal(seal("t", {"x_note": 1}), kind="t", keys=())["x_note"] == 1
    with pytest.raises(FormatError, match="note"):
        unseal(seal("t", {"note": 1}), kind="t", keys=())
