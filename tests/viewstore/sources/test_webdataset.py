"""WebDataset tars as a source: stock ones and long names are read, hostile ones are refused."""

import contextlib
import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.viewstore.sources.pictures import PIXELS, encoded, write_tar
from viewstore.errors import ConfigError, FormatError
from viewstore.sources.braces import expand_braces
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader


def test_tars_and_brace_patterns_give_keys_and_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "d-000.tar", {"b.png": encoded(), "b.cls": b"7"})
    write_tar(tmp_path / "d-001.tar", {"a.png": encoded(), "a.json": b'{"label": 3}'})
    source = open_source(str(tmp_path / "d-{000..001}.tar"))
    assert list(source.table.keys) == ["a", "b"]
    assert source.table.label.tolist() == [3, 7]
    assert np.array_equal(SourceReader(source.table).image(0), PIXELS)
    assert expand_braces("x{a,b}{08..10}") == [
        "xa08", "xa09", "xa10", "xb08", "xb09", "xb10",
    ]  # fmt: skip


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {"a.png": encoded()})
    with pytest.raises(ConfigError, match="'a' stands twice"):
        open_source(str(tmp_path / "{0,1}.tar"))


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(FormatError, match="must be a plain file"):
        open_source(str(path))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_as_both_kinds_of_tar_write_them(tmp_path: Path, form: int) -> None:
    names = {"é" * 90 + ".png": encoded(), "short.png": encoded(), "d/" * 80 + "x.png": encoded()}
    path = write_tar(tmp_path / "x.tar", names, form)
    keys = open_source(path).table.keys
    assert sorted(keys) == sorted(name.removesuffix(".png") for name in names)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_lead_nowhere_else(tmp_path: Path, name: str, form: int) -> None:
    path = write_tar(tmp_path / "x.tar", {name.replace("a", "a" * 120): encoded()}, form)
    with pytest.raises(FormatError, match="must not lead elsewhere"):
        open_source(path)


def test_a_pax_header_that_changes_more_than_the_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": "4"}
        info.size = len(encoded())
        tar.addfile(info, io.BytesIO(encoded()))
    with pytest.raises(FormatError, match="pax header with 'size'"):
        open_source(str(path))


def test_every_cut_of_a_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": encoded(), "b.png": encoded()})
    whole = path.read_bytes()
    end = 2 * (512 + -(-len(encoded()) // 512) * 512)
    for length in range(0, end, 512):
        path.write_bytes(whole[:length])
        with pytest.raises((FormatError, ConfigError), match=r"tar|cannot be used"):
            open_source(str(path))


def header_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes()[:512])


def with_header(path: Path, header: bytearray) -> str:
    """Write `header` back with a checksum that fits."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + path.read_bytes()[512:])
    return str(path)


def test_tars_of_stock_webdataset_are_read(tmp_path: Path) -> None:
    """They hold pax headers with the time of writing."""
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for label in range(3):
            writer.write({"__key__": f"s{label}", "png": encoded(), "cls": label})
    assert b"PaxHeader" in (tmp_path / "x.tar").read_bytes()
    table = open_source(str(tmp_path / "x.tar")).table
    assert list(table.keys) == ["s0", "s1", "s2"]
    assert table.label.tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_writers_are_read_if_they_hold_plain_files(tmp_path: Path, form: int) -> None:
    path = write_tar(tmp_path / "x.tar", {"./a/b.png": encoded(), "a/b.cls": b"0000012\n"}, form)
    table = open_source(path).table
    assert list(table.keys) == ["a/b"]
    assert table.label.tolist() == [12]


@pytest.mark.parametrize("size", [b"-00000001000", b"\x80" + bytes(11), b"0000_000100\0"])
def test_sizes_that_are_no_octal_number_are_refused(tmp_path: Path, size: bytes) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": encoded(), "b.png": encoded()})
    header = header_of(path)
    header[124:136] = size
    with pytest.raises(FormatError, match="damaged"):
        open_source(with_header(path, header))


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, {"a.png": encoded()})
    header = header_of(path)
    header[:100] = name.encode().ljust(100, b"\0")
    with pytest.raises(FormatError, match="must not lead elsewhere"):
        open_source(with_header(path, header))


def test_a_member_twice_and_bytes_behind_the_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(FormatError, match=r"a\.png stands twice"):
        open_source(str(path))
    write_tar(path, {"a.png": encoded()})
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(FormatError, match="behind its end"):
        open_source(str(path))


def test_a_compressed_tar_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    path.write_bytes(path.read_bytes().ljust(600, b"\0"))
    with pytest.raises(FormatError, match="must not be compressed"):
        open_source(str(path))


@settings(deadline=None)
@given(place=st.integers(0, 511), value=st.integers(1, 255))
def test_no_changed_header_byte_gives_other_rows(place: int, value: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.tar")
        write_tar(path, {"a.png": encoded()})
        header = header_of(path)
        header[place] ^= value
        path.write_bytes(bytes(header) + path.read_bytes()[512:])
        # The checksum field may be written in another way, for example without its last space.
        with contextlib.suppress(FormatError, ConfigError):
            assert list(open_source(str(path)).table.keys) == ["a"]


@pytest.mark.parametrize("spelling", ["", "*.tar", "{2,1}*.tar", "[12]*.tar", "??.tar"])
def test_a_folder_of_tars_and_patterns_of_names_are_read(tmp_path: Path, spelling: str) -> None:
    folder = tmp_path / "t[1]"  # letters of a pattern in the name of what exists
    folder.mkdir()
    for name in ("10", "20"):
        write_tar(folder / f"{name}.tar", {f"{name}.png": encoded()})
    (folder / "._10.tar").write_bytes(b"left by a system")
    (folder / "sizes.json").write_text("{}")
    table = open_source(str(folder / spelling)).table
    assert list(table.keys) == ["10", "20"]
    assert np.array_equal(SourceReader(table).image(1), PIXELS)


def test_tars_beside_pictures_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": encoded()})
    (tmp_path / "b.png").write_bytes(encoded())
    source = open_source(str(tmp_path))
    assert list(source.table.keys) == ["b.png"]
    assert source.notes == ("1 file was not read: 1 .tar",)


def test_a_pattern_that_would_be_searched_for_too_often_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source(str(tmp_path / "{0..1000}*.tar"))
    assert "at most 1000 patterns" in (caught.value.why or "")
