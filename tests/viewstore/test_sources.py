"""Sources: every kind comes out as RGB rows in a stable order, and nothing hostile gets in."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewstore.errors import ConfigError, FormatError
from viewstore.source_scan import expand_braces
from viewstore.sources import SourceReader, open_source

PIXELS = np.random.Generator(np.random.Philox(5)).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encoded(mode: str = "RGB", form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> str:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


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
    image = open_source(str(tmp_path)).image(0)
    assert image.shape == (12, 10, 3)
    assert image.dtype == np.uint8


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded("RGB", "JPEG", exif=exif.tobytes()))
    assert open_source(str(tmp_path)).image(0).shape == (12, 10, 3)


def test_tars_and_brace_patterns_give_keys_and_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "d-000.tar", {"b.png": encoded(), "b.cls": b"7"})
    write_tar(tmp_path / "d-001.tar", {"a.png": encoded(), "a.json": b'{"label": 3}'})
    source = open_source(str(tmp_path / "d-{000..001}.tar"))
    assert list(source.table.keys) == ["a", "b"]
    assert source.table.label.tolist() == [3, 7]
    assert np.array_equal(source.image(0), PIXELS)
    assert [path.name for path in expand_braces("x{a,b}{08..10}")] == [
        "xa08", "xa09", "xa10", "xb08", "xb09", "xb10",
    ]  # fmt: skip


def test_a_key_twice_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", {"a.png": encoded()})
    with pytest.raises(ConfigError, match="'a' stands twice"):
        open_source(str(tmp_path / "{0,1}.tar"))


def test_links_and_long_names_in_a_tar_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(FormatError, match="must be a plain file"):
        open_source(str(path))
    write_tar(path, {"é" * 90 + ".png": encoded()}, tarfile.PAX_FORMAT)
    with pytest.raises(FormatError, match="must be a plain file"):
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


def test_an_npz_gives_rows_and_bad_ones_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.stack([PIXELS, PIXELS]), labels=[4, 5])
    source = open_source(str(path))
    assert source.table.label.tolist() == [4, 5]
    assert np.array_equal(source.image(1), PIXELS)
    bad = tmp_path / "bad.npz"
    np.savez(bad, images=np.zeros((2, 3), np.float32))
    with pytest.raises(FormatError, match="must be uint8") as caught:
        open_source(str(bad))
    assert "numpy.savez" in str(caught.value.fix)
    objects = tmp_path / "objects.npz"
    np.savez(objects, images=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="npz cannot be read"):
        open_source(str(objects))


def test_digits_are_what_torch_interpolates() -> None:
    torch = pytest.importorskip("torch")
    from sklearn.datasets import load_digits

    source = open_source("digits", limit=50)
    small = torch.tensor(load_digits().images[:50] / 8 - 1)[:, None]
    large = torch.nn.functional.interpolate(small, size=16, mode="bilinear", align_corners=False)
    expected = ((large + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()[:, 0]
    for row in range(50):
        assert np.array_equal(source.image(row), np.repeat(expected[row][..., None], 3, axis=2))


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
