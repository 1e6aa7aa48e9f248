"""Listings of imported views: their file, and everything that is refused in one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import FormatError
from viewstore.format.listing import NOWHERE, PLACE, Listing
from viewstore.format.tar import pack_npy


def places(rows: int = 3, views: int = 2) -> np.ndarray[Any, Any]:
    """Return a place for each view, each in a part of its own."""
    found = np.zeros((rows, views), PLACE)
    count = rows * views
    found["part"] = np.arange(count).reshape(rows, views)
    found["size"] = 100 + found["part"]
    found["crc32"] = 7 * found["part"]
    found["height"], found["width"] = 20, 30
    return found


def sample() -> Listing:
    """Return a listing with a gap and two columns."""
    where = places()
    where[1, 1] = (NOWHERE, 0, 0, 0, 0, 0)
    params = {
        "x_fid": np.arange(6, dtype="<f4").reshape(3, 2),
        "crop_box": np.arange(24, dtype="<f4").reshape(3, 2, 4),
        "flip": np.zeros((3, 2), "u1"),
    }
    return Listing.of(where, [f"a/{n}.png" for n in range(6)], params)


def named(raw: bytes) -> str:
    return f"listing-{hashlib.sha256(raw).hexdigest()[:16]}.npy"


def test_a_listing_reads_back_and_numpy_reads_its_records() -> None:
    listing = sample()
    again = Listing.unpack(listing.file, listing.file_name)
    assert again.names == listing.names
    assert np.array_equal(again.records, listing.records)
    assert again.records.dtype == listing.records.dtype
    assert np.array_equal(np.load(io.BytesIO(listing.file)), listing.records)
    assert again.there.tolist() == [[True, True], [True, False], [True, True]]
    assert [(c.name, c.dtype, c.shape) for c in again.columns] == [
        ("crop_box", "f4", (2, 4)),
        ("flip", "u1", (2,)),
        ("x_fid", "f4", (2,)),
    ]


@given(st.lists(st.text("ab/ü.", min_size=1), min_size=6, max_size=6))
def test_any_names_below_a_folder_read_back(names: list[str]) -> None:
    listing = Listing.of(places(), names, {})
    refused = any(name.startswith("/") or ".." in name.split("/") for name in names)
    if refused:
        with pytest.raises(FormatError, match="leads out of its folder"):
            Listing.unpack(listing.file, listing.file_name)
    else:
        assert Listing.unpack(listing.file, listing.file_name).names == tuple(names)


def test_every_flipped_byte_is_detected() -> None:
    listing = sample()
    raw = listing.file
    for at in range(len(raw)):
        bad = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(FormatError, match="does not match the sha256 in its name"):
            Listing.unpack(bad, listing.file_name)


def without_seal(change: Callable[[bytes], bytes]) -> None:
    """Read a listing that was changed, under the name of what it is now."""
    raw = change(sample().file)
    Listing.unpack(raw, named(raw))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: b"", "its header has another form"),
        (lambda raw: raw[:300], "npy must be"),
        (lambda raw: raw[:-1], "npy must be"),
        (lambda raw: raw + b"\0", "npy must be"),
        (lambda raw: raw.replace(b"'<u8'", b"'|O8'", 1), "its header has another form"),
        (lambda raw: raw.replace(b"'part'", b"'prat'", 1), "its header has another form"),
        (lambda raw: raw.replace(b"x_fid", b"flip\0", 1), "its header has another form"),
        (lambda raw: raw.replace(b"(3, 2), ", b"(9, 2), ", 1), "npy must be"),
        (lambda raw: raw.replace(b"a/0.png", b"a/../b\0", 1), "leads out of its folder"),
        (lambda raw: raw.replace(b"a/0.png", b"/etc/pw", 1), "leads out of its folder"),
        (lambda raw: raw.replace(b"a/0.png", b"a/\xff.png", 1), "names its parts in UTF-8"),
        (lambda raw: raw.replace(b"5.png\0", b"5.png!", 1), "is cut short"),
    ],
)
def test_hostile_listings_are_refused(change: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        without_seal(change)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("part", 6, "a view lies in none of them"),
        ("height", 0, "1 to 16384 px"),
        ("width", 20_000, "1 to 16384 px"),
    ],
)
def test_records_that_cannot_be_are_refused(field: str, value: int, said: str) -> None:
    where = places()
    where[field][2, 1] = value
    listing = Listing.of(where, [f"{n}.png" for n in range(6)], {})
    with pytest.raises(FormatError, match=said):
        Listing.unpack(listing.file, listing.file_name)


def test_a_listing_claims_no_memory_that_it_does_not_have() -> None:
    raw = sample().file.replace(b"(3, 2), ", b"(9999999999, 99), ", 1)
    with pytest.raises(FormatError):
        Listing.unpack(raw, named(raw))
    many = pack_npy(np.zeros((1, 101), PLACE)) + pack_npy(np.frombuffer(b"a\0", "u1"))
    with pytest.raises(FormatError, match="1 to 100 views, got 101"):
        Listing.unpack(many, named(many))
