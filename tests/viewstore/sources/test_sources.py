"""Sources: every kind comes out as RGB rows in a stable order, and nothing hostile gets in."""

import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.sources.pictures import PIXELS, encoded
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader


def test_a_folder_gives_classes_and_keys(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/a.png", "cat/x/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    (tmp_path / "notes.txt").write_text("not an image")
    table = open_source(str(tmp_path)).table
    assert list(table.keys) == ["cat/a.png", "cat/x/c.png", "dog/b.png"]
    assert table.label.tolist() == [0, 0, 1]
    assert table.label_names == ("cat", "dog")
    reader = pickle.loads(pickle.dumps(SourceReader(table)))
    assert np.array_equal(reader.image(2), PIXELS)


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("L", "JPEG")]
)
def test_every_mode_comes_out_as_rgb(tmp_path: Path, mode: str, form: str) -> None:
    (tmp_path / f"a.{form.lower()}").write_bytes(encoded(mode, form))
    image = SourceReader(open_source(str(tmp_path)).table).image(0)
    assert image.shape == (12, 10, 3)
    assert image.dtype == np.uint8


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded("RGB", "JPEG", exif=exif.tobytes()))
    assert SourceReader(open_source(str(tmp_path)).table).image(0).shape == (12, 10, 3)


def test_links_to_class_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").write_bytes(encoded())
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (data / "dog").symlink_to(tmp_path / "far")
    (data / "dog" / "round").symlink_to(data)
    (data / "cat" / "back").symlink_to(data / "cat")
    table = open_source(str(data)).table
    assert list(table.keys) == ["dog/a.png"]
    assert np.array_equal(SourceReader(table).image(0), PIXELS)


def test_what_systems_leave_in_folders_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "cat" / "folder.png").mkdir(parents=True)
    (tmp_path / "cat" / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"")
    (tmp_path / "cat" / "A.PNG").write_bytes(encoded())
    assert list(open_source(str(tmp_path)).table.keys) == ["cat/A.PNG"]


def test_a_name_that_is_not_utf8_is_named_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(encoded())
    with pytest.raises(FormatError, match="cannot be read"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), on_error="skip")
    assert list(source.table.keys) == ["a.png"]
    assert len(source.skipped) == 1


def test_a_limit_keeps_the_first_readable_rows(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").write_bytes(b"" if name == "a" else encoded())
    table = open_source(str(tmp_path), limit=2, on_error="skip").table
    assert list(table.keys) == ["b.png", "c.png"]
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        open_source(str(tmp_path), limit=0)


def test_an_npz_claim_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    shape = (1 << 20, 1 << 12, 1 << 11)  # 8 TiB
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(FormatError, match="claims 8796093022208 bytes, its member holds 100"):
        open_source(str(path))


@pytest.mark.parametrize("labels", [[0.5, 1.0], [1], [2**40, 1], [-2, 1]])
def test_npz_labels_that_are_none_are_refused(tmp_path: Path, labels: list[float]) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.stack([PIXELS, PIXELS]), labels=np.array(labels))
    with pytest.raises(FormatError, match="npz labels must be"):
        open_source(str(path))


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_may_be_gray_and_in_either_order(tmp_path: Path, order: Literal["C", "F"]) -> None:
    path = tmp_path / "x.npz"
    images = np.stack([PIXELS[..., 0], PIXELS[..., 1]])
    np.savez_compressed(path, x_train=np.asarray(images, order=order))
    image = SourceReader(open_source(str(path)).table).image(1)
    assert np.array_equal(image, np.repeat(PIXELS[..., 1:2], 3, axis=2))


def test_an_npz_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS[None])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="npz cannot be read"):
        open_source(str(path))


def test_cifar_opens_with_balanced_labels(shared: Path) -> None:
    table = open_source(str(shared / "data" / "cifar10" / "test.tar")).table
    assert np.bincount(table.label).tolist() == [1000] * 10
    assert SourceReader(table).image(9999).shape == (32, 32, 3)


def test_an_npz_gives_rows_and_bad_ones_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.stack([PIXELS, PIXELS]), labels=[4, 5])
    source = open_source(str(path))
    assert source.table.label.tolist() == [4, 5]
    assert np.array_equal(SourceReader(source.table).image(1), PIXELS)
    bad = tmp_path / "bad.npz"
    np.savez(bad, images=np.zeros((2, 3), np.float32))
    with pytest.raises(FormatError, match="must be uint8") as caught:
        open_source(str(bad))
    assert "numpy.savez" in str(caught.value.fix)
    objects = tmp_path / "objects.npz"
    np.savez(objects, images=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="must hold numbers or words, got object"):
        open_source(str(objects))


def test_digits_are_the_digits_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the store is the folder, and goes on with what it recorded
        built = build(BuildRequest(generator="simclr", out=Path("digits"), limit=3, workers=1))
    assert built.manifest is not None
    stored = viewstore.open("digits")
    assert np.array_equal(
        stored.source.image(0), SourceReader(open_source("digits").table).image(0)
    )
    (note,) = open_source("digits").notes
    assert "./digits" in note
    with pytest.raises(ConfigError, match="cannot be used"):
        open_source("./digits")


def test_digits_are_what_torch_interpolates() -> None:
    torch = pytest.importorskip("torch")
    from sklearn.datasets import load_digits

    source = open_source("digits", limit=50)
    small = torch.tensor(load_digits().images[:50] / 8 - 1)[:, None]
    large = torch.nn.functional.interpolate(small, size=16, mode="bilinear", align_corners=False)
    expected = ((large + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()[:, 0]
    for row in range(50):
        assert np.array_equal(
            SourceReader(source.table).image(row), np.repeat(expected[row][..., None], 3, axis=2)
        )


def test_a_folder_that_may_not_be_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may search every folder: the refusal is the system's, by hand."""
    (tmp_path / "cat" / "private").mkdir(parents=True)
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "private":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FormatError, match="cannot be searched: Permission denied") as caught:
        open_source(str(tmp_path))
    assert caught.value.where == str(tmp_path / "cat" / "private")
    assert caught.value.fix is not None


def test_unreadable_images_are_named_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(FormatError, match=r"b\.png cannot be read") as caught:
        open_source(str(tmp_path))
    assert caught.value.code == "VS205"
    source = open_source(str(tmp_path), on_error="skip")
    assert list(source.table.keys) == ["a.png"]
    assert [key for key, _ in source.skipped] == ["b.png"]


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.npz", "nowhere.tar", "."])
def test_what_is_no_source_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_source(spec)
    assert (caught.value.code, caught.value.exit_code) == ("VS104", 2)


def test_source_bytes_that_changed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    table = open_source(str(tmp_path)).table
    (tmp_path / "a.png").write_bytes(encoded("L"))
    with pytest.raises(FormatError, match=r"a\.png cannot be read") as caught:
        SourceReader(table).image(0)
    assert "changed" in str(caught.value.why)


def test_an_npz_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    for value in (1, 2):
        np.savez(path, images=np.full((2, 4, 4, 3), value, np.uint8))
        assert (SourceReader(open_source(str(path)).table).image(0) == value).all()


def test_a_row_that_an_npz_no_longer_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((3, 4, 4, 3), np.uint8))
    reader = SourceReader(open_source(str(path)).table)
    np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8))
    assert reader.image(1).shape == (4, 4, 3)
    with pytest.raises(FormatError, match="source image 0002 cannot be read") as caught:
        reader.image(2)
    assert caught.value.why == "the array has 2 images now"


def test_pixels_of_another_size_than_the_row_says_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((1, 4, 4, 3), np.uint8))
    table = open_source(str(tmp_path / "images.npz")).table
    wrong = replace(table, height=np.array([5], np.uint32))
    with pytest.raises(FormatError) as caught:
        SourceReader(wrong).image(0)
    assert caught.value.why == "48 bytes are no 5 x 4 pixels"


@pytest.mark.parametrize("key", ["../a.png", "/etc/a.png", "a\0.png"])
def test_a_key_of_a_store_leads_nowhere_else(tmp_path: Path, key: str) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(encoded())
    table = open_source(str(tmp_path)).table
    with pytest.raises(FormatError, match="leads out of its folder"):
        SourceReader(replace(table, keys=(key,))).image(0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("photo", "nothing is there; did you mean {folder}/photos?"),
        ("elsewhere", "nothing is there"),
        ("no/photo", "nothing is there"),
    ],
)
def test_a_source_that_is_not_there_is_told_what_is(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_source(str(tmp_path / given))
    assert caught.value.code == "VS104"
    assert caught.value.why == said.format(folder=tmp_path)
