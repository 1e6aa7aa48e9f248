"""What HTTP answers follows RFC 9110, whatever the headers of a request are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.serve.objects import Listed, answer, byte_range, failure

FILE = Listed(
    name="views/a/000000-aaaaaaaaaaaaaaaa.tar", size=1000, sha256="ab" * 32, immutable=True
)
TAG = f'"sha256-{"ab" * 32}"'
sizes = st.integers(1, 1 << 40)
numbers = st.integers(0, 1 << 41)


def status(**headers: str) -> int:
    return answer("GET", {name.replace("_", "-"): v for name, v in headers.items()}, FILE).status


@settings(deadline=None)
@given(numbers, numbers, sizes)
def test_a_range_with_both_ends_is_cut_at_the_end_of_the_file(a: int, b: int, size: int) -> None:
    found = byte_range(f"bytes={a}-{b}", size)
    if b < a:
        assert found is None
    else:
        expected = range(size)[a : b + 1] if a < size else range(0)
        assert found is not None
        assert range(*found) == expected


@settings(deadline=None)
@given(numbers, sizes)
def test_an_open_range_goes_to_the_end(a: int, size: int) -> None:
    found = byte_range(f"bytes={a}-", size)
    assert found is not None
    assert range(*found) == (range(size)[a:] if a < size else range(0))


@settings(deadline=None)
@given(numbers, sizes)
def test_a_suffix_range_is_the_last_bytes(n: int, size: int) -> None:
    found = byte_range(f"bytes=-{n}", size)
    assert found is not None
    assert range(*found) == range(size)[max(0, size - n) :]


@settings(deadline=None)
@given(st.text(st.sampled_from("bytes=0123456789-, BYTES\t٣x"), max_size=20), sizes)
def test_whatever_else_is_said_gives_the_whole_file_or_a_part_that_exists(
    value: str, size: int
) -> None:
    found = byte_range(value, size)
    well_formed = re.fullmatch(r"(?i:bytes)=(\d+-\d*|-\d+)", value, re.ASCII)
    if well_formed is None:
        assert found is None
    elif found is not None:
        assert 0 <= found[0] <= found[1] <= size


@pytest.mark.parametrize("digits", ["9" * 19, "9" * 8000, "0" * 8000 + "1"])
def test_numbers_of_any_length_are_understood(digits: str) -> None:
    expected = 206 if digits.endswith("1") else 416
    assert status(range=f"bytes={digits}-") == expected
    assert status(range=f"bytes=0-{digits}") == 206
    assert status(range=f"bytes=-{digits}") == 206


@settings(deadline=None)
@given(
    st.sampled_from(["GET", "HEAD"]),
    st.dictionaries(
        st.sampled_from(["if-match", "if-none-match", "if-range", "range"]),
        st.sampled_from([TAG, f"W/{TAG}", "*", '"x"', f'"x", {TAG}', "bytes=5-9", "bytes=-0", ""])
        | st.text(st.characters(max_codepoint=255), max_size=30),
    ),
)
def test_conditions_are_judged_in_the_order_of_the_rfc(
    method: str, headers: dict[str, str]
) -> None:
    found = answer(method, headers, FILE)

    def names(header: str, *, weak: bool) -> bool:
        value = headers[header]
        tags = re.findall(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"', value)
        return value == "*" or TAG in tags or (weak and f"W/{TAG}" in tags)

    if "if-match" in headers and not names("if-match", weak=False):
        assert found.status == 412
    elif "if-none-match" in headers and names("if-none-match", weak=True):
        assert found.status == 304
    elif (
        method == "HEAD"
        or headers.get("if-range", TAG) != TAG
        or byte_range(headers.get("range", ""), FILE.size) is None
    ):
        assert (found.status, found.range) == (200, (0, FILE.size))
    else:
        assert found.status in (206, 416)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (TAG, 200),
        (f'"other", {TAG}', 200),
        ("*", 200),
        ('"other"', 412),
        (f"W/{TAG}", 412),  # a weak tag names a meaning, not bytes
        (TAG.strip('"'), 412),
        (f'"a,{TAG[1:]}', 412),  # a comma inside of a tag does not end it
        ("", 412),
    ],
)
def test_if_match_wants_our_strong_tag(value: str, expected: int) -> None:
    assert status(if_match=value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(TAG, 304), (f"W/{TAG}", 304), (f'"x",{TAG}', 304), ("*", 304), ('"x"', 200), ("", 200)],
)
def test_if_none_match_takes_weak_tags_too(value: str, expected: int) -> None:
    assert status(if_none_match=value) == expected


def test_the_digest_is_that_of_the_file_in_the_form_of_its_rfc() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    listed = Listed(name="stats.json", size=0, sha256=empty, immutable=False)
    assert listed.repr_digest == "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    assert answer("GET", {}, listed).headers["repr-digest"] == listed.repr_digest


def test_what_went_wrong_is_one_line() -> None:
    found = failure(500, "a\nb\udc80")
    assert found.text == b"a b\\udc80\n"
    assert found.headers["content-length"] == str(len(found.text))
