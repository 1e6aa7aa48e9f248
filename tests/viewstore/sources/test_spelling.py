"""However the path of a source is spelled, it is recorded as one, and the rows have one id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.sources.pictures import PIXELS, encoded, write_tar
from viewstore.beton.layout import RAW, Field, Kind
from viewstore.beton.writer import Picture, write_beton
from viewstore.errors import ConfigError
from viewstore.files.spelling import absolute_path
from viewstore.sources.open import open_source
from viewstore.sources.record import pack_sources

# Of what lies at F/data/NAME, with F the working folder.
PATHS = (
    "{folder}/data/{name}",
    "{folder}/data/../data/{name}",
    "{folder}/./data//{name}",
    "{folder}/data/deep/../../data/deep/../{name}",
    "data/{name}",
    "./data/./{name}",
    "data/../data/{name}",
    "../{base}/data/{name}",
)


def write_folder(path: Path) -> None:
    path.mkdir()
    for name in ("a", "b"):
        (path / f"{name}.png").write_bytes(encoded())


def write_tars(path: Path) -> None:
    path.mkdir()
    for name in ("a", "b"):
        write_tar(path / f"{name}.tar", {f"{name}.png": encoded()})


def write_arrays(path: Path) -> None:
    np.savez(path, images=PIXELS[None])


def write_pictures(path: Path) -> None:
    picture = Picture(RAW, *PIXELS.shape[:2], PIXELS.tobytes())
    write_beton(path, [Field("image", Kind.RGB)], [[picture]], 1, 1 << 21)


Write = Callable[[Path], object]
# What lies at NAME, and the ends that may follow it: all that name the same files.
SOURCES: dict[str, tuple[str, Write, tuple[str, ...]]] = {
    "folder": ("images", write_folder, ("", "/", "//", "/.")),
    "tar": ("x.tar", lambda path: write_tar(path, {"a.png": encoded()}), ("",)),
    "tars": (
        "tars",
        write_tars,
        ("", "/", "/*.tar", "/{a,b}.tar", "/[ab].tar", "/../tars/{a,b}.tar", "/{a,../tars/b}.tar"),
    ),
    "arrays": ("x.npz", write_arrays, ("",)),
    "beton": ("x.beton", write_pictures, ("",)),
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `data` in the working folder."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def sources_id(spec: str) -> str:
    record = json.loads(pack_sources(open_source(spec).table, 2)[0])
    assert "x_source" not in record
    return str(record["digest"])


@pytest.mark.parametrize("kind", SOURCES)
def test_all_spellings_of_a_source_give_one_id(data: Path, kind: str) -> None:
    name, write, ends = SOURCES[kind]
    write(data / name)
    words = {"folder": data.parent, "base": data.parent.name, "name": name}
    specs = [path.format(**words) + end for path in PATHS for end in ends]
    assert set(map(sources_id, specs)) == {sources_id(str(data / name))}
    assert len({open_source(spec).table.spelling for spec in specs}) == 1


def test_a_list_of_more_tars_than_a_path_has_letters_is_a_source(data: Path) -> None:
    names = [f"{number:0100d}" for number in range(50)]
    for name in names:
        write_tar(data / "deep" / f"{name}.tar", {f"{name[-3:]}.png": encoded()})
    spelling = open_source("data/deep").table.spelling
    assert len(spelling) > 4096
    assert sources_id(spelling) == sources_id("data/deep")
    listed = f"data/deep/{{{','.join(names)}}}.tar"  # more than the name of a file has, too
    assert sources_id(listed) == sources_id("data/deep")


def test_a_folder_with_letters_of_a_pattern_is_recorded_as_it_is_given(data: Path) -> None:
    write_tars(data / "run{1}")
    for spec in ("data/run{1}", f"{data}/../data/run{{1}}/"):
        table = open_source(spec).table
        assert table.spelling == str(data / "run{1}")
        assert list(open_source(table.spelling).table.keys) == ["a", "b"]


def test_links_are_not_resolved(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "link").symlink_to("deep")
    assert absolute_path("data/link/x") == data / "link" / "x"
    assert absolute_path("data/link/../x") == data / "link" / ".." / "x"  # where the link leads
    assert absolute_path("data/link/../../x/.") == data / "link" / ".." / ".." / "x"
    assert absolute_path("data/nothing/../x") == data / "nothing" / ".." / "x"
    assert absolute_path("/../data") == Path("/data")
    monkeypatch.chdir(data / "link")
    assert absolute_path("x") == data / "deep" / "x"
    monkeypatch.setenv("PWD", str(data / "link"))  # as a shell that went there by the link
    assert absolute_path("x") == data / "link" / "x"
    assert absolute_path("") == data / "link"
    monkeypatch.setenv("PWD", str(data))  # of a shell that began it elsewhere
    assert absolute_path("x") == data / "deep" / "x"


def test_a_source_may_be_a_file_url_and_no_other(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    spelled = [open_source(f"{scheme}{tmp_path}/images") for scheme in ("", "file://")]
    assert len({pack_sources(each.table, 8)[0] for each in spelled}) == 1
    with pytest.raises(ConfigError, match=r"^source s3://bucket/tars cannot be used$") as refused:
        open_source("s3://bucket/tars")
    assert refused.value.why == "it is a URL, and a source is read from a disk"
