"""Shards: the exact bytes, stock oracles, and everything else refused."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import FormatError
from viewstore.format.records import canonical
from viewstore.format.tar import (
    END,
    TarWriter,
    member_name,
    pack_header,
    pack_npy,
    pack_npy_header,
    parse,
    strided_layout,
    unpack_npy,
)

NAMES = [member_name(row, extension) for row in range(3) for extension in ("json", "views.npy")]
PIXELS = (np.arange(288) % 256).astype("u1").reshape(3, 2, 4, 4, 3)


def golden_shard() -> bytes:
    stream = io.BytesIO()
    writer = TarWriter(stream)
    header = pack_npy_header(repr("|u1"), (2, 4, 4, 3))
    for row in range(3):
        text = canonical({"index": row, "key": f"k{row}", "label": row, "view_set": "t"})
        writer.add(member_name(row, "json"), text.ljust(511) + b"\n")
        writer.add(member_name(row, "views.npy"), header + PIXELS[row].tobytes())
    writer.finish()
    return stream.getvalue()


def test_shard_bytes_are_frozen() -> None:
    """docs/format.md section 2; stock readers and our own stores depend on these bytes."""
    shard = golden_shard()
    assert len(shard) == 7168
    assert hashlib.sha256(shard).hexdigest() == (
        "bcbc96498dbb43af7665800d61bb81b4052aadac579910858576dc93e43c4480"
    )
    assert parse(shard, NAMES)[:2].tolist() == [(512, 512, 2009798789), (1536, 224, 1522960924)]


def test_strided_layout_addresses_the_pixels() -> None:
    layout = strided_layout(("json", "views.npy"), 512, (2, 4, 4, 3))
    assert layout is not None
    assert (layout.stride, layout.offset) == (2048, 1664)
    flat = np.frombuffer(golden_shard(), np.uint8)
    for row in range(3):
        begin = layout.offset + row * layout.stride
        assert np.array_equal(flat[begin : begin + 96].reshape(2, 4, 4, 3), PIXELS[row])


@given(
    name=st.from_regex(r"[0-9a-z_-]{1,64}\.[a-z0-9]{1,20}", fullmatch=True),
    size=st.integers(0, 2**24),
)
def test_headers_equal_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert pack_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_tarfile_reads_what_we_write() -> None:
    with tarfile.open(fileobj=io.BytesIO(golden_shard())) as tar:
        assert tar.getnames() == NAMES
        member = tar.extractfile(NAMES[3])
        assert member is not None
        array = np.load(io.BytesIO(member.read()), allow_pickle=False)
    assert np.array_equal(array, PIXELS[1])


def test_every_truncation_and_addition_is_refused() -> None:
    shard = golden_shard()
    for end in range(0, len(shard), 512):
        for cut in (end - 1, end, end + 1):
            if 0 <= cut < len(shard):
                with pytest.raises(FormatError):
                    parse(shard[:cut], NAMES)
    for extra in (b"\0", bytes(512), END):
        with pytest.raises(FormatError):
            parse(shard + extra, NAMES)


def test_every_bit_flip_is_refused_or_changes_a_checksum() -> None:
    shard = golden_shard()
    members = parse(shard, NAMES)
    for place in range(len(shard)):
        bad = bytearray(shard)
        bad[place] ^= 1 << place % 8
        try:
            assert not np.array_equal(parse(bytes(bad), NAMES), members)
        except FormatError:
            continue


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, b"x", b"L"])
def test_links_and_extensions_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo(NAMES[0])
    info.type, info.mode = kind, 0o444
    data = info.tobuf(tarfile.USTAR_FORMAT) + END
    with pytest.raises(FormatError, match="must be that of"):
        parse(data, NAMES[:1])


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/b.json", "a", "é.json", "x" * 65 + ".js"]
)
def test_names_that_are_paths_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="member name must match"):
        pack_header(name, 1)


def test_npy_round_trip_and_refusals() -> None:
    array = np.arange(12, dtype="<u4").reshape(3, 4)
    raw = pack_npy(array)
    assert np.array_equal(np.load(io.BytesIO(raw), allow_pickle=False), array)
    assert np.array_equal(unpack_npy(raw, array.dtype, (3, 4)), array)
    for bad in (raw[:-1], raw + b"\0", raw.replace(b"<u4", b"<i4")):
        with pytest.raises(FormatError, match="npy must be"):
            unpack_npy(bad, array.dtype, (3, 4))
