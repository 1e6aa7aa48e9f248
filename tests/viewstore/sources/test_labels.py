"""Labels in the forms that people write: numbers, words, and what is neither."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewstore.sources.labels import LabelReader, number_labels
from viewstore.sources.open import open_source


def write_tar(path: Path, suffix: str, labels: list[bytes]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, label in enumerate(labels):
            for name, data in ((f"{number}.png", buffer.getvalue()), (f"{number}.{suffix}", label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b"7", 7),
        (b"0000003", 3),
        (b" 5\n", 5),
        (b"1.0", 1),
        (b"3e1", 30),
        (b"\xef\xbb\xbf4\r\n", 4),
        (b"-1", -1),
        (b"cat", "cat"),
        (b"golden retriever\n", "golden retriever"),
        ("größe".encode(), "größe"),
    ],
)
def test_a_text_is_a_number_or_a_word(text: bytes, label: int | str) -> None:
    reader = LabelReader()
    assert reader.text(text) == label
    assert reader.note() is None


@pytest.mark.parametrize("text", [b"99999999999", b"-2", b"1.5", b"nan", b"", b"\xff\xfe", b"a\0b"])
def test_what_is_no_label_is_counted_and_shown(text: bytes) -> None:
    reader = LabelReader()
    assert reader.text(text) == -1
    note = reader.note()
    assert note is not None
    assert note.startswith("1 label was not understood")


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        (b'{"label": "cat"}', "cat"),
        (b'{"label": "1"}', 1),
        (b'{"cls": 3.0}', 3),
        (b"5", 5),
        (b'"dog"', "dog"),
        (b'{"caption": "no label here"}', -1),
        (b'{"label": null}', -1),
    ],
)
def test_a_json_is_a_number_or_a_word(raw: bytes, label: int | str) -> None:
    reader = LabelReader()
    assert reader.json(raw) == label
    assert reader.note() is None


@pytest.mark.parametrize("raw", [b'{"label": true}', b'{"label": [1]}', b"{", b"[" * 10_000])
def test_a_json_that_is_no_label_is_counted(raw: bytes) -> None:
    reader = LabelReader()
    assert reader.json(raw) == -1
    assert reader.unread == 1


def test_words_are_numbered_in_their_order_and_numbers_beside_them_are_words() -> None:
    numbers, names = number_labels(["dog", "cat", -1, 3, "cat"])
    assert names == ("3", "cat", "dog")
    assert numbers.tolist() == [2, 1, -1, 0, 1]
    numbers, names = number_labels([4, -1, 0])
    assert (numbers.tolist(), names) == ([4, -1, 0], ())


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_words_of_a_tar_become_label_names(tmp_path: Path, suffix: str) -> None:
    words = [b"dog", b"cat", b"dog"]
    labels = words if suffix == "cls" else [b'{"label": "%s"}' % word for word in words]
    source = open_source(write_tar(tmp_path / "t.tar", suffix, labels))
    assert source.table.label.tolist() == [1, 0, 1]
    assert source.table.label_names == ("cat", "dog")
    assert source.notes == ()


def test_labels_that_are_not_understood_are_said_once(tmp_path: Path) -> None:
    source = open_source(write_tar(tmp_path / "t.tar", "cls", [b"1", b"99999999999", b"1.5"]))
    assert source.table.label.tolist() == [1, -1, -1]
    (note,) = source.notes
    assert note == "2 labels were not understood and count as none (-1): 99999999999"


@pytest.mark.parametrize("name", ["targets", "target", "label", "labels", "y"])
@pytest.mark.parametrize("values", [np.array([2, 0]), np.array([2.0, 0.0]), np.array([[2], [0]])])
def test_an_npz_may_call_its_labels_by_any_of_their_names(
    tmp_path: Path, name: str, values: np.ndarray
) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", data=images, **{name: values})
    assert open_source(str(tmp_path / "a.npz")).table.label.tolist() == [2, 0]


def test_words_of_an_npz_become_label_names(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["dog", "cat", "dog"]))
    table = open_source(str(tmp_path / "a.npz")).table
    assert (table.label.tolist(), table.label_names) == ([1, 0, 1], ("cat", "dog"))


def test_an_npz_says_which_arrays_it_took_for_no_labels(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, klasse=np.arange(2), id=np.arange(2))
    source = open_source(str(tmp_path / "a.npz"))
    assert source.table.label.tolist() == [-1, -1]
    (note,) = source.notes
    assert note.startswith("there are no labels: an array of them must be called labels, ")
    assert note.endswith("; not read: id, klasse")
    np.savez(tmp_path / "b.npz", images=images)
    assert open_source(str(tmp_path / "b.npz")).notes == ()
