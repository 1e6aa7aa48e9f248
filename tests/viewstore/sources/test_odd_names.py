"""Pictures with unusual names, formats and neighbours: read, or counted and said."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tests.viewstore.small_stores import build_small
from viewstore.errors import ConfigError, FormatError
from viewstore.export.selection import select
from viewstore.export.webdataset import export_tar
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.store.store import open_store


def picture(form: str = "PNG", *, value: int = 90, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((12, 10, 3), value, np.uint8)
    Image.fromarray(pixels).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def animation() -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 90, 180))
    first.save(buffer, "GIF", save_all=True, append_images=others)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["img_0.5.jpg", "img_0.6.jpg", "img_1.jpg"], ["img_0.5", "img_0.6", "img_1"]),
        (["photo.2021.05.jpg"], ["photo.2021.05"]),
        (["001.image.jpg", "002.image.jpg"], ["001.image", "002.image"]),
        (["a.input.png", "b.input.png"], ["a.input", "b.input"]),
        (["a.tif", "b.bmp", "c.ppm", "d.JPE"], ["a", "b", "c", "d"]),
        (["image.jpg", "input.png"], ["image", "input"]),
        (["x.y/a.jpg"], ["x.y/a"]),
    ],
)
def test_no_image_of_a_tar_vanishes(tmp_path: Path, names: list[str], keys: list[str]) -> None:
    forms = {"tif": "TIFF", "bmp": "BMP", "ppm": "PPM", "png": "PNG"}
    members = {name: picture(forms.get(name.rpartition(".")[2], "JPEG")) for name in names}
    source = open_source(write_tar(tmp_path / "t.tar", members))
    assert list(source.table.keys) == keys
    assert source.notes == ()
    assert SourceReader(source.table).image(0).shape == (12, 10, 3)


def test_what_lies_beside_the_image_of_a_sample_is_counted(tmp_path: Path) -> None:
    members = {"1.jpg": picture("JPEG"), "1.mask.png": picture(), "1.jp2": b"?", "1.txt": b"words"}
    source = open_source(write_tar(tmp_path / "t.tar", members))
    assert list(source.table.keys) == ["1"]
    (note,) = source.notes
    assert note.startswith("2 files were not read: ")
    assert "1 .jp2" in note
    assert "1 .mask.png beside an image of the same name" in note


def test_labels_of_odd_names_are_found(tmp_path: Path) -> None:
    members = {
        "img_0.5.jpg": picture("JPEG"),
        "img_0.5.cls": b"3",
        "img_0.6.jpg": picture("JPEG"),
        "img_0.6.json": b'{"label": 4}',
        "7.image.jpg": picture("JPEG"),
        "7.cls": b"5",
    }
    table = open_source(write_tar(tmp_path / "t.tar", members)).table
    assert dict(zip(table.keys, table.label.tolist(), strict=True)) == {
        "img_0.5": 3,
        "img_0.6": 4,
        "7.image": 5,
    }


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.pgm", "PPM"),
        ("a.pbm", "PPM"),
        ("a.jfif", "JPEG"),
        ("a.JPE", "JPEG"),
        ("a.gif", "GIF"),
        ("a.avif", "AVIF"),
    ],
)
def test_what_pillow_reads_safely_is_read(tmp_path: Path, name: str, form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    buffer = io.BytesIO()
    mode = {"a.pgm": "L", "a.pbm": "1"}.get(name, "RGB")
    Image.new("RGB", (10, 12), (200, 200, 200)).convert(mode).save(buffer, form)
    (tmp_path / name).write_bytes(buffer.getvalue())
    source = open_source(str(tmp_path))
    assert list(source.table.keys) == [name]
    assert SourceReader(source.table).image(0).shape == (12, 10, 3)


def test_an_animation_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(animation())
    (tmp_path / "b.png").write_bytes(picture())
    with pytest.raises(FormatError, match=r"a\.gif cannot be read") as caught:
        open_source(str(tmp_path))
    assert "several" in str(caught.value.why)
    assert [key for key, _ in open_source(str(tmp_path), on_error="skip").skipped] == ["a.gif"]


def test_classes_are_the_folders_whatever_can_be_read_in_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "1.png").write_bytes(picture())
    (tmp_path / "b" / "1.jp2").write_bytes(b"\0\0\0\x0cjP  ")
    (tmp_path / "c" / "1.png").write_bytes(picture())
    source = open_source(str(tmp_path))
    assert source.table.label.tolist() == [0, 2]
    assert source.table.label_names == ("a", "b", "c")
    assert source.notes == ("1 file was not read: 1 .jp2",)


def test_where_nothing_can_be_read_the_error_says_what_is_there(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jp2").write_bytes(b"\0")
    (tmp_path / "4.heic").write_bytes(b"\0")
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_source(str(tmp_path))
    assert "4 files were not read: 3 .jp2, 1 .heic" in str(caught.value.why)


def test_links_to_nothing_are_named_and_links_to_themselves_do_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "c"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture())
    (folder / "loop").symlink_to("loop")
    assert list(open_source(str(tmp_path / "d")).table.keys) == ["c/a.png"]
    (folder / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(FormatError, match=r"gone\.png cannot be read"):
        open_source(str(tmp_path / "d"))
    (folder / "gone.png").unlink()
    (folder / "loop.png").symlink_to("loop.png")
    skipped = open_source(str(tmp_path / "d"), on_error="skip").skipped
    assert [key for key, _ in skipped] == ["c/loop.png"]


@pytest.mark.parametrize("name", ["run{1}", "set.tar", "set.npz", "set.beton"])
def test_a_folder_is_a_folder_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.png").write_bytes(picture())
    assert list(open_source(str(tmp_path / name)).table.keys) == ["a.png"]


@pytest.mark.parametrize("name", ["X.TAR", "train{1}.tar", "archive"])
def test_a_tar_is_a_tar_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / name, {"a.png": picture()})
    assert list(open_source(path).table.keys) == ["a"]


def test_braces_may_lie_one_inside_another(tmp_path: Path) -> None:
    for name in ("a", "b1", "b2", "c"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.png": picture()})
    table = open_source(str(tmp_path / "{a,b{1,2}}.tar")).table
    assert list(table.keys) == ["a", "b1", "b2"]
    assert list(open_source(str(tmp_path / "{c,{a,b1}}.tar")).table.keys) == ["a", "b1", "c"]


@pytest.mark.parametrize("codec", ["raw", "png"])
def test_shards_of_ours_are_sources(tmp_path: Path, source: str, codec: str) -> None:
    build_small(tmp_path / "s", source, codec=codec)
    store = open_store(tmp_path / "s")
    views = store.view_sets["simclr"]
    found = open_source(
        str(tmp_path / "s" / "views" / "simclr" / "000001-*.tar").replace(
            "*", _sha(views.shards[1].path)
        )
    )
    assert list(found.table.keys)[:3] == ["0000000008.v0", "0000000008.v1", "0000000009.v0"]
    assert found.table.label[:2].tolist() == [store.labels[8]] * 2
    assert np.array_equal(SourceReader(found.table).image(3), views[9][1])


def _sha(path: Path) -> str:
    return path.stem.partition("-")[2]


def test_an_export_of_ours_is_a_source(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source, codec="png")
    export_tar(select(open_store(tmp_path / "s")), tmp_path / "tars")
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    found = open_source("{" + ",".join(map(str, tars)) + "}" if len(tars) > 1 else str(tars[0]))
    assert len(found.table.keys) == 40
    assert found.table.label.tolist()[::2] == open_store(tmp_path / "s").labels.tolist()
