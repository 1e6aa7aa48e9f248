"""What every exporter must do: each row of FORMATS is tested in the same way."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.loaders.told import tell
from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import ROWS, build_small, write_photographs
from viewstore.beton.reader import Beton
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.export.ffcv import export_beton
from viewstore.export.formats import FORMATS
from viewstore.export.parquet import export_parquet
from viewstore.export.selection import Exported, are_whole, select
from viewstore.export.webdataset import export_tar
from viewstore.files import disk
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store, open_store


class Counter(Silent):
    """Counts the samples."""

    def __init__(self) -> None:
        self.samples = 0

    def advance(self, count: int = 1, **facts: Fact) -> None:
        self.samples += count


@pytest.mark.parametrize("name", FORMATS)
def test_an_exporter_counts_samples_and_leaves_a_whole_export_alone(
    raw_store: Store, tmp_path: Path, name: str
) -> None:
    counter = Counter()
    first = FORMATS[name].export(select(raw_store), tmp_path / "a", progress=counter)
    assert (first.num_samples, first.already, counter.samples) == (ROWS, False, ROWS)
    assert first.bytes == sum(path.stat().st_size for path in first.paths)
    again = FORMATS[name].export(select(raw_store), tmp_path / "a", progress=counter)
    assert again == Exported.of(select(raw_store), first.paths, already=True)
    assert counter.samples == ROWS
    second = FORMATS[name].export(select(raw_store), tmp_path / "b")
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_an_exporter_replaces_nothing_that_no_export_wrote(
    raw_store: Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file", tmp_path / "folder" / "thesis.txt"):
        path.write_text("mine")
    for out in (tmp_path / "file", tmp_path / "folder"):
        with pytest.raises(ConfigError):
            FORMATS[name].export(select(raw_store), out, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.read_text() for path in (tmp_path / "folder").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", FORMATS)
def test_another_export_is_replaced_only_if_that_is_asked_for(
    raw_store: Store, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", raw_store.root, "--format", name, "--out", tmp_path / "out"]
    assert run(capsys, *command)[0] == 0
    paths = FORMATS[name].export(select(raw_store), tmp_path / "out").paths
    before = [path.read_bytes() for path in paths]
    code, _, err = run(capsys, *command, "-n", 3)
    assert (code, "cannot take this export" in err, "it holds another export" in err) == (2, 1, 1)
    assert "add --overwrite" in err
    assert [path.read_bytes() for path in paths] == before
    assert run(capsys, *command, "-n", 3, "--overwrite")[0] == 0
    assert FORMATS[name].export(select(raw_store, limit=3), tmp_path / "out").already


def test_the_command_offers_every_exporter() -> None:
    text = " ".join(invoke("export", "--help").output.split())
    assert "[" + "|".join(FORMATS) + "]" in text
    for name, each in FORMATS.items():
        assert f"{name}: {each.contents}." in text


def test_files_are_whole_if_all_have_their_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    sha256 = disk.sha256_of(tmp_path / "a")
    assert are_whole({tmp_path / "a": sha256})
    assert not are_whole({tmp_path / "a": "0" * 64})
    assert not are_whole({tmp_path / "a": sha256, tmp_path / "b": sha256})


@pytest.fixture
def damaged_images(tmp_path: Path) -> Path:
    """Three photographs, the second of which cannot be read beyond its header."""
    write_photographs(tmp_path / "images" / "cat", 3, cut=1)
    return tmp_path / "images"


@pytest.mark.parametrize("name", FORMATS)
def test_samples_that_were_not_made_are_left_out_and_counted(
    damaged_images: Path, tmp_path: Path, name: str
) -> None:
    """A black picture with a label would be learned."""
    build_small(tmp_path / "s", str(damaged_images), on_error="skip")
    store = open_store(tmp_path / "s")
    assert store.view_sets["simclr"].params["status"].tolist() == [[1, 1], [4, 4], [1, 1]]
    selection = select(store)
    assert (selection.rows.tolist(), selection.left_out) == ([0, 2], 1)
    done = FORMATS[name].export(selection, tmp_path / "out")
    assert (done.num_samples, done.left_out) == (2, 1)
    assert (select(store, limit=1).left_out, select(store, limit=2).left_out) == (0, 1)
    ran = invoke("export", tmp_path / "s", "--format", name, "--out", tmp_path / "out")
    assert "1 sample is left out: a view was not made" in ran.output
    with pytest.raises(ConfigError, match="none of the 1 samples to export") as caught:
        select(store, where="key == 'cat/1.jpg'")
    assert "--repair --failed" in (caught.value.fix or "")


@pytest.fixture(scope="module")
def told(source: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with `teacher`, which tells of the views, and quality of the images."""
    out = tmp_path_factory.mktemp("told") / "s"
    build_small(out, source)
    build(BuildRequest(generator="quality", out=out, settings={"of": "source"}, workers=1))
    return tell(out, "teacher", "simclr", dim=3)


JOINED = ["flip", "quality.dhash", "teacher.feature", "teacher.margin"]


def test_joined_columns_are_in_a_beton(told: Store, tmp_path: Path) -> None:
    export_beton(select(told, "simclr", columns=JOINED), tmp_path / "e.beton")
    opened = Beton(tmp_path / "e.beton")
    assert [field.name for field in opened.fields][5:] == JOINED
    for row in range(ROWS):
        for name in JOINED:
            found = opened.read(name, row)
            assert isinstance(found, np.ndarray)
            assert np.array_equal(found, column_of(told, name)[row].reshape(found.shape))


def test_joined_columns_are_in_tars(told: Store, tmp_path: Path) -> None:
    export_tar(select(told, "simclr", columns=JOINED), tmp_path / "wds")
    with tarfile.open(tmp_path / "wds" / "000000.tar") as tar:
        for row, stem in enumerate(sorted({name.split(".")[0] for name in tar.getnames()})):
            for name in JOINED:
                member = tar.extractfile(f"{stem}.{name}.npy")
                assert member is not None
                found = np.load(io.BytesIO(member.read()))
                assert found.tobytes() == column_of(told, name)[row].tobytes()


def column_of(store: Store, name: str) -> NDArray[Any]:
    """Return a column as it is exported: of the images without an axis of views."""
    set_name, _, column = name.rpartition(".")
    values = np.asarray(store.view_set(set_name or "simclr").params[column])
    return values[:, 0] if set_name == "quality" else values


def test_joined_columns_are_in_a_table(told: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="a package of the extra tables")
    selection = select(told, "simclr", columns=JOINED)
    export_parquet(selection, tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    views = told.view_sets["simclr"].num_views
    for name in JOINED:
        column = np.array(table.column(name).to_pylist())
        expected = selection.read(name, selection.rows)
        of_views = selection.columns[[c.name for c in selection.columns].index(name)].per == "view"
        lines = expected if of_views else np.repeat(expected[:, None], views, axis=1)
        assert np.array_equal(column.reshape(lines.shape), lines)


def test_an_export_is_of_the_bytes_of_all_sets_that_it_reads(told: Store) -> None:
    plain, joined = (select(told, "simclr", columns=each) for each in (["flip"], JOINED))
    digests = [plain.digest, joined.digest]
    store = open_store(told.root)
    for name in ("teacher", "quality"):
        each = store.view_sets[name]
        each.__dict__["index"] = replace(each.index, root="0" * 64)
        digests.append(select(store, "simclr", columns=JOINED).digest)
    assert len(set(digests)) == 4
    assert select(store, "simclr", columns=["flip"]).digest == plain.digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("teacher.features", "teacher has no column 'features'; did you mean 'feature'?"),
        ("simclr.flip", "simclr has views of its own, only columns sets are joined"),
        ("teach.feature", "there is no view set 'teach' in this store; did you mean 'teacher'?"),
        ("flop", "there is no params column 'flop'; did you mean 'flip'?"),
    ],
)
def test_columns_that_cannot_be_exported_are_refused(told: Store, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(told, "simclr", columns=[name])
    assert str(caught.value) == message


@pytest.mark.parametrize("name", FORMATS)
def test_another_view_set_makes_no_other_export(source: str, tmp_path: Path, name: str) -> None:
    build_small(tmp_path / "s", source)
    FORMATS[name].export(select(open_store(tmp_path / "s")), tmp_path / "out")
    build_small(tmp_path / "s", None, view_set="second", seed=1)
    again = select(open_store(tmp_path / "s"), "simclr")
    assert FORMATS[name].export(again, tmp_path / "out").already


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "parquet"])
def test_images_change_nothing_where_there_always_are_some(
    raw_store: Store, tmp_path: Path, name: str
) -> None:
    FORMATS[name].export(select(raw_store), tmp_path / "out")
    assert FORMATS[name].export(select(raw_store, images=True), tmp_path / "out").already
