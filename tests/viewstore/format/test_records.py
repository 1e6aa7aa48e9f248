"""Records: one canonical form, and every other one refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from viewstore.errors import FormatError
from viewstore.files.local import LOCAL
from viewstore.format.records import SMALL_BYTES, canonical, check_form, parse, seal, unseal


def test_canonical_bytes_are_frozen() -> None:
    value = {"b": [1, None, 0.5], "a": "\u00e9"}
    assert canonical(value) == b'{"a":"\\u00e9","b":[1,null,0.5]}'


def test_a_sealed_record_opens_again() -> None:
    record = unseal(seal("t", {"x": 1}), kind="t", form={"x": int})
    assert (record["x"], record["format"], len(record["digest"])) == (1, 1, 64)


def test_every_flipped_byte_is_found() -> None:
    raw = seal("t", {"x": 12345})
    for place in range(len(raw)):
        bad = bytearray(raw)
        bad[place] ^= 1
        with pytest.raises(FormatError):
            unseal(bytes(bad), kind="t", form={"x": int})


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
        unseal(canonical(value), kind="t", form={})
    assert caught.value.code == "VS204"
    assert caught.value.fix


def test_unknown_keys_are_refused_unless_they_are_extensions() -> None:
    assert unseal(seal("t", {"x_note": 1}), kind="t", form={})["x_note"] == 1
    with pytest.raises(FormatError, match="note"):
        unseal(seal("t", {"note": 1}), kind="t", form={})


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (1, int),
        (1.5, int | float),
        (None, str | None),
        ([], [int]),
        ([1, 2], [int]),
        ([1, "a"], (int, str)),
        ({"a": [1]}, {"a": [int]}),
        ({"b": 1, "c": 2}, {...: int}),
    ],
)
def test_a_value_of_its_form_passes(value: object, form: object) -> None:
    check_form(value, form, "t")


@pytest.mark.parametrize(
    ("value", "form", "message"),
    [
        (True, int, "t must be int, got bool"),
        (1, bool, "t must be bool, got int"),
        ("a", int | None, r"t must be int \| None, got str"),
        ({}, [int], "t must be list, got dict"),
        ([1, "a"], [int], "t must be int, got str"),
        ([1], (int, str), "t must be rows of 2, got 1"),
        ({"a": 1, "c": 1}, {"a": int, "b": int}, "t must have other keys, see b, c"),
        ({"a": {"b": "c"}}, {...: {"b": int}}, "t.a.b must be int, got str"),
    ],
)
def test_a_value_of_another_form_is_refused_by_its_place(
    value: object, form: object, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        check_form(value, form, "t")


def test_reading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"

    def unpack(raw: bytes) -> dict[str, Any]:
        return unseal(raw, kind="t", form={"x": int})

    with pytest.raises(FormatError, match=r"record\.json is missing") as caught:
        LOCAL.record(path, SMALL_BYTES, unpack)
    assert caught.value.where == str(path)
    path.write_bytes(canonical(json.loads(seal("t", {})) | {"format": 2}))
    with pytest.raises(FormatError, match="format version") as caught:
        LOCAL.record(path, SMALL_BYTES, unpack)
    assert (caught.value.where, caught.value.code) == (str(path), "VS204")
    assert caught.value.fix
    path.write_bytes(seal("t", {"x": 3}))
    assert LOCAL.record(path, SMALL_BYTES, unpack)["x"] == 3
