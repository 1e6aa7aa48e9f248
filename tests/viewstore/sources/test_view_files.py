"""Ready-made views found by a naming rule, in folders and tars; what is refused there."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from viewstore.errors import ConfigError, FormatError
from viewstore.files.listed import ListedFiles
from viewstore.files.naming import ViewFiles
from viewstore.format.listing import NOWHERE, Listing
from viewstore.sources.view_files import Scanned, scan_views, stem_of


def picture(number: int, suffix: str = "png", side: int = 8) -> bytes:
    """Return the file of a small picture."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (side, side + number % 3, 3), np.uint8))
    image.save(buffer, format={"jpg": "JPEG"}.get(suffix, suffix))
    return buffer.getvalue()


def write(folder: Path, files: Mapping[str, bytes]) -> str:
    """Write files below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(folder)


def write_tar(path: Path, files: Mapping[str, bytes]) -> str:
    """Write files into a tar."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def scan(
    files: str, keys: list[str], *, views: int | None = None, missing: bool = False
) -> Scanned:
    return scan_views(ViewFiles.parse(files), keys, views=views, missing=missing)


KEYS = ["a/1.jpg", "a/2.jpg", "b_1"]
FILES = {
    f"{key}_{view}.png": picture(7 * row + view) for row, key in enumerate(KEYS) for view in (0, 1)
}


@pytest.mark.parametrize("in_tar", [False, True])
def test_each_view_lies_where_the_rule_says(tmp_path: Path, in_tar: bool) -> None:
    others = {"README.txt": b"about", "c_0.png": picture(1), ".a_0.png": b"", "b_1_x.png": b""}
    files = FILES | others
    if in_tar:
        root = write_tar(tmp_path / "v.tar", files)
        rule = f"{root}:{{key}}_{{view}}.png"
    else:
        root = write(tmp_path / "views", files)
        rule = f"{root}/{{key}}_{{view}}.png"
    found = scan(rule, KEYS)
    assert found.unwanted == 2  # c_0.png and b_1_x.png
    assert found.places.shape == (3, 2)
    listing = Listing.of(found.places, found.names, {})
    reader = ListedFiles(root, listing, in_tar=in_tar)
    for row, key in enumerate(KEYS):
        for view in (0, 1):
            data = FILES[f"{key}_{view}.png"]
            place = found.places[row, view]
            assert reader.read(row, view) == data
            assert place["crc32"] == zlib.crc32(data)
            width, height = Image.open(io.BytesIO(data)).size
            assert (place["height"], place["width"]) == (height, width)


def test_equal_names_in_two_folders_are_one_view_each(tmp_path: Path) -> None:
    root = write(tmp_path / "augmented", {"cat/a.png": picture(0), "dog/b.png": picture(1)})
    found = scan(f"{root}/{{key}}", ["cat/a.png", "dog/b.png"])
    assert found.places.shape == (2, 1)
    assert found.names == ("cat/a.png", "dog/b.png")


def test_stems_and_padded_numbers_are_found(tmp_path: Path) -> None:
    files = {
        f"v{view:02}/{name}.webp": picture(view, "webp") for view in range(12) for name in "ab"
    }
    root = write(tmp_path, files)
    found = scan(f"{root}/v{{view}}/{{stem}}.webp", ["x/a.jpg", "y/b.png"])
    assert found.places.shape == (2, 12)
    assert found.names[found.places["part"][1, 11]] == "v11/b.webp"
    both = scan(f"{root}/v{{view}}/{{stem}}.webp", ["x/a.jpg", "y/b.png"], views=5)
    assert (both.places.shape, both.unwanted) == ((2, 5), 14)
    assert [stem_of(key) for key in ("a/b.c.jpg", "n.5", "x")] == ["b.c", "n.5", "x"]


def test_names_keep_their_folder_and_lose_their_suffix(tmp_path: Path) -> None:
    """Class folders of JPEG files, each number in every class, whose views are PNG files."""
    keys = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    files = {
        f"{name}_{view}.png": picture(view, "png")
        for name in ("cat/1", "cat/2", "dog/1")
        for view in range(2)
    }
    root = write(tmp_path, files)
    found = scan(f"{root}/{{name}}_{{view}}.png", keys)
    assert found.names[found.places["part"][2, 1]] == "dog/1_1.png"
    with pytest.raises(ConfigError, match=r"cat/1.jpg and dog/1.jpg would have the same views"):
        scan(f"{root}/{{stem}}_{{view}}.png", keys)


def test_gaps_are_named_or_have_no_file(tmp_path: Path) -> None:
    kept = dict(list(FILES.items())[:2]) | {f"z{n}_0.png": picture(n) for n in range(4)}
    root = write(tmp_path, kept)
    with pytest.raises(ConfigError) as caught:
        scan(f"{root}/{{key}}_{{view}}.png", KEYS)
    error = caught.value
    assert str(error) == (
        "import: 4 views have no file, first a/2.jpg view 0, a/2.jpg view 1, b_1 view 0"
    )
    assert error.code == "VS105"
    assert error.why == "4 files there belong to no sample, first z0_0.png, z1_0.png, z2_0.png"
    assert "missing=true" in str(error.fix)
    found = scan(f"{root}/{{key}}_{{view}}.png", KEYS, missing=True)
    assert (found.places["part"] == NOWHERE).tolist() == [[False] * 2, [True] * 2, [True] * 2]
    assert (found.places["size"][1:] == 0).all()


def test_a_rule_that_finds_nothing_is_no_view_set_of_gaps(tmp_path: Path) -> None:
    root = write(tmp_path, {"a.png": picture(0)})
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"a name that is no UTF-8")
    with pytest.raises(ConfigError, match="1 view has no file, first b view 0") as caught:
        scan(f"{root}/{{key}}.png", ["b"], missing=True)
    why = "2 files there belong to no sample, first a.png, ?.png"
    assert caught.value.why == why


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("views/all.png", "it has no field"),
        ("views/{view}.png", "nothing in it says which sample"),
        ("views/{title}.png", "it has no field {title}"),
        ("views/{key}{view}.png", "where one field ends"),
        ("views/{key}_{view.png", "a brace is left over"),
        ("views/{key}/../../x_{view}.png", "leads out of its folder"),
        ("views.tar:/{key}.png", "leads out of its folder"),
        ("views.tar:../{key}.png", "leads out of its folder"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ViewFiles.parse(rule)
    assert caught.value.code == "VS105"
    assert said in str(caught.value.why)


def test_a_rule_begins_in_the_folder_before_its_first_field() -> None:
    for text, wanted in {
        "{key}.png": (".", False, "{key}.png"),
        "/data/v/{key}.png": ("/data/v", False, "{key}.png"),
        "/{key}.png": ("/", False, "{key}.png"),
        "../v/x_{key}.png": ("../v", False, "x_{key}.png"),
        "v/{key}/{view}.png": ("v", False, "{key}/{view}.png"),
        "a:b/v.tar:x/{key}.png": ("a:b/v.tar", True, "x/{key}.png"),
    }.items():
        found = ViewFiles.parse(text)
        assert (found.root, found.in_tar, found.rule) == wanted


@given(st.text("ab_1.", min_size=1, max_size=6), st.integers(0, 99))
def test_the_rule_finds_what_it_names(key: str, view: int) -> None:
    match = ViewFiles.parse("v/{key}_{view}.png").expression().fullmatch(f"{key}_{view}.png")
    assert match is not None
    assert (match["key"], int(match["view"])) == (key, view)


def test_two_files_of_one_view_and_two_rows_of_one_file_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "v", {"a_1.png": picture(0), "a_01.png": picture(1)})
    with pytest.raises(ConfigError, match=r"a_01\.png and a_1\.png are both view 1 of a"):
        scan(f"{root}/{{key}}_{{view}}.png", ["a"], missing=True)
    with pytest.raises(ConfigError, match=r"x/a\.jpg and y/a\.jpg would have the same views"):
        scan(f"{root}/{{stem}}_{{view}}.png", ["x/a.jpg", "y/a.jpg"])


@pytest.mark.parametrize("key", ["../a", "/a", "a/../../b", "a\0b"])
def test_keys_that_lead_elsewhere_are_refused(tmp_path: Path, key: str) -> None:
    root = write(tmp_path / "v", {"a.png": picture(0)})
    with pytest.raises(ConfigError, match="names no file"):
        scan(f"{root}/{{key}}.png", [key], missing=True)


def bomb() -> bytes:
    """Return a PNG whose header claims 100,000 x 100,000 pixels."""
    side = (100_000).to_bytes(4, "big")
    head = b"IHDR" + side + side + bytes([8, 2, 0, 0, 0])
    crc = zlib.crc32(head).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + crc + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("in_tar", [False, True])
@pytest.mark.parametrize("data", [b"", b"text", picture(0)[:20], bomb()])
def test_files_that_are_no_pictures_are_named(tmp_path: Path, data: bytes, in_tar: bool) -> None:
    files = {"a.png": picture(0), "b.png": data}
    if in_tar:
        rule = write_tar(tmp_path / "v.tar", files) + ":{key}.png"
    else:
        rule = write(tmp_path / "v", files) + "/{key}.png"
    with pytest.raises(FormatError, match="a view to import cannot be read") as caught:
        scan(rule, ["a", "b"])
    assert caught.value.code == "VS205"
    assert "b.png" in str(caught.value.where)


def link(name: str, kind: bytes, target: str) -> bytes:
    """Return a tar whose one member is a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "tar is empty"),
        (b"\x1f\x8b" + bytes(1024), "must not be compressed"),
        (link("a.png", tarfile.SYMTYPE, "/etc/passwd"), "must be a plain file"),
        (link("a.png", tarfile.LNKTYPE, "b.png"), "must be a plain file"),
        (link("../a.png", tarfile.REGTYPE, ""), "must not lead elsewhere"),
        (link("/a.png", tarfile.REGTYPE, ""), "must not lead elsewhere"),
        (link("a.png", tarfile.REGTYPE, "")[:512], "no end block"),
    ],
)
def test_tars_with_tricks_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "v.tar").write_bytes(data)
    with pytest.raises(FormatError, match=said) as caught:
        scan(f"{tmp_path}/v.tar:{{key}}.png", ["a"])
    assert caught.value.where == f"{tmp_path}/v.tar"


def test_a_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in (0, 1):
            member = tarfile.TarInfo("a.png")
            member.size = len(picture(number))
            tar.addfile(member, io.BytesIO(picture(number)))
    with pytest.raises(FormatError, match=r"a\.png stands twice"):
        scan(f"{path}:{{key}}.png", ["a"])


def test_a_place_where_nothing_is_is_named(tmp_path: Path) -> None:
    for rule in (f"{tmp_path}/none/{{key}}.png", f"{tmp_path}/none.tar:{{key}}.png"):
        with pytest.raises(ConfigError, match="views to import are not there"):
            scan(rule, ["a"])


def test_other_bytes_later_are_no_view(tmp_path: Path) -> None:
    """Every byte of the file counts; so does one more."""
    root = write(tmp_path, {"a.png": picture(0)})
    found = scan(f"{root}/{{key}}.png", ["a"])
    reader = ListedFiles(root, Listing.of(found.places, found.names, {}), in_tar=False)
    data = reader.read(0, 0)
    changed = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for bad in [*changed, data + b"\0", data[:-1], b""]:
        (tmp_path / "a.png").write_bytes(bad)
        with pytest.raises(FormatError, match="cannot be imported") as caught:
            reader.read(0, 0)
        assert (caught.value.code, caught.value.where) == ("VS205", f"{root}/a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(FormatError, match="cannot be imported"):
        reader.read(0, 0)
