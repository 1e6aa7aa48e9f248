"""The exporter `ffcv`: content of a `.beton`, kills and damage; and the command `export`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import ROWS, build_small, write_npz
from viewstore.beton import layout
from viewstore.beton.layout import JPG, RAW, Kind, check_page_bytes
from viewstore.beton.reader import Beton
from viewstore.beton.sidecar import check_sidecar, read_sidecar, sidecar_of
from viewstore.beton.writer import Picture
from viewstore.errors import ConfigError, FormatError, UnavailableError
from viewstore.export import ffcv as ffcv
from viewstore.export.ffcv import SHORT_NAMES, _page_for, export_beton, fields_of
from viewstore.export.selection import check_export_space, select
from viewstore.files import disk
from viewstore.format.columns import Column
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store, open_store

PAGE = 2 << 20


def test_a_beton_holds_the_views_and_what_is_known_of_them(store: Store, tmp_path: Path) -> None:
    export_beton(select(store), tmp_path / "e.beton")
    opened = Beton(tmp_path / "e.beton")
    views = store.view_sets["simclr"]
    names = [field.name for field in opened.fields]
    assert names == ["v0", "v1", "index", "label", "key", *sorted(views.params)]
    for row in range(ROWS):
        assert opened.read("index", row) == row
        assert opened.read("label", row) == store.labels[row]
        assert opened.read("key", row) == store.keys[row].encode() + b"\0"
        for view in range(2):
            picture = opened.read(f"v{view}", row)
            assert isinstance(picture, Picture)
            if views.codec.name == "jpg":  # the bytes of the store, not a second encoding
                assert picture.data == views.payloads(row)[f"v{view}.jpg"]
                assert picture.mode == JPG
            else:
                assert picture.data == views[row][view].tobytes()
                assert picture.mode == RAW
        for name in views.params:
            found, wanted = opened.read(name, row), views.params[name][row]
            assert isinstance(found, np.ndarray)
            assert (found.tobytes(), found.dtype) == (wanted.tobytes(), wanted.dtype)


def test_the_size_of_the_file_is_known_before_it_is_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of 2 to 3 small pages; the space that is checked for is what is taken."""
    needed: list[int] = []
    monkeypatch.setattr(ffcv, "check_export_space", lambda _, n: needed.append(n))
    monkeypatch.setattr(layout, "MIN_PAGE_BYTES", 1 << 14)
    done = export_beton(select(store), tmp_path / "e.beton", page_bytes=1 << 14)
    assert needed == [done.bytes]
    assert Beton(tmp_path / "e.beton").header.table_offset >= 3 << 14


def test_the_same_store_gives_the_same_bytes(raw_store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_beton(select(raw_store), tmp_path / name, page_bytes=PAGE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sidecar_of(tmp_path / "a").read_bytes() == sidecar_of(tmp_path / "b").read_bytes()


def test_an_export_that_is_there_already_is_left_alone(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "e.beton"
    first = export_beton(select(raw_store), out, page_bytes=PAGE)
    inode = out.stat().st_ino
    assert not first.already
    assert export_beton(select(raw_store), out, page_bytes=PAGE).already
    assert out.stat().st_ino == inode
    for changes in ({"limit": 7}, {"columns": ["crop_box"]}):
        chosen = select(raw_store, **changes)
        assert not export_beton(chosen, out, page_bytes=PAGE, overwrite=True).already
    assert len(Beton(out)) == ROWS
    with out.open("r+b") as file:  # damage: written again
        file.seek(PAGE)
        byte = file.read(1)[0]
        file.seek(PAGE)
        file.write(bytes([byte ^ 1]))
    assert not export_beton(select(raw_store, columns=["crop_box"]), out, page_bytes=PAGE).already
    assert check_sidecar(out) is not None


def test_what_no_export_wrote_is_never_replaced(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "e.beton"
    out.write_bytes(b"somebody's data")
    with pytest.raises(ConfigError, match="cannot take this export") as caught:
        export_beton(select(raw_store), out, overwrite=True)
    assert "no export wrote it" in str(caught.value.why)
    sidecar_of(out).write_text("{}")
    with pytest.raises(FormatError, match="record kind must be 'viewstore-beton'"):
        export_beton(select(raw_store), out)
    with pytest.raises(ConfigError, match="must name a file"):
        export_beton(select(raw_store), tmp_path)
    assert out.read_bytes() == b"somebody's data"


def test_every_flipped_byte_of_an_export_is_found(raw_store: Store, tmp_path: Path) -> None:
    """Of header, records and table every one, of data and padding some; and of the record."""
    out = tmp_path / "e.beton"
    selection = select(raw_store, columns=[], limit=1)
    export_beton(selection, out, page_bytes=PAGE)
    data, record = out.read_bytes(), sidecar_of(out).read_bytes()
    index = [*range(6000), *range(2 * PAGE, len(data))]
    offsets = [at for at in index if data[at]] + list(range(0, 2 * PAGE, 29_989))
    assert len(offsets) > 150
    for at in offsets:
        with out.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
            file.flush()
            with pytest.raises(FormatError, match=r"does not match the sha256 in e\.beton\.json"):
                check_sidecar(out)
            file.seek(at)
            file.write(data[at : at + 1])
    for at in range(len(record)):
        sidecar_of(out).write_bytes(record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :])
        with pytest.raises(FormatError):
            check_sidecar(out)
    sidecar_of(out).write_bytes(record)
    assert check_sidecar(out) == read_sidecar(out)


def test_a_killed_export_leaves_the_old_file_and_the_next_one_clears_up(
    raw_store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "e.beton"
    export_beton(select(raw_store, limit=3), out, page_bytes=PAGE)
    old = out.read_bytes()
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from viewstore.export.ffcv import export_beton\n"
        "from viewstore.export.selection import select\n"
        "from viewstore.store.store import open_store\n"
        "from viewstore.progress import Silent\n"
        "class Killer(Silent):\n"
        "    def advance(self, count=1): os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = open_store(sys.argv[1])\n"
        "export_beton(select(store), Path(sys.argv[2]), page_bytes=2 << 20, overwrite=True,"
        " progress=Killer())\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(raw_store.root), str(out)])
    assert killed.returncode == -signal.SIGKILL
    assert out.read_bytes() == old
    assert check_sidecar(out) is not None
    assert len(list(tmp_path.iterdir())) == 4  # the file, its record, the torn file, its table
    export_beton(select(raw_store), out, page_bytes=PAGE, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.beton", "e.beton.json"]
    assert len(Beton(out)) == ROWS


def test_a_stopped_export_leaves_nothing(raw_store: Store, tmp_path: Path) -> None:
    class Stop(Silent):
        def advance(self, count: int = 1, **facts: Fact) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_beton(select(raw_store), tmp_path / "e.beton", progress=Stop())
    assert list(tmp_path.iterdir()) == []


def test_a_running_export_is_not_cleared_up(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "e.beton"

    class Rival(Silent):
        """Exports to the same file in the midst of it."""

        calls = 0

        def advance(self, count: int = 1, **facts: Fact) -> None:
            self.calls += count
            if self.calls == 1:
                export_beton(select(raw_store, limit=3), out, page_bytes=PAGE)

    export_beton(select(raw_store), out, page_bytes=PAGE, progress=Rival())
    assert len(Beton(out)) == ROWS
    assert check_sidecar(out) is not None
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", ["write_atomic", "rename"])
def test_a_crash_between_file_and_record_is_seen_and_mended(
    raw_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    out = tmp_path / "e.beton"
    export_beton(select(raw_store, limit=3), out, page_bytes=PAGE)

    def crash(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(disk, step, crash)
        with pytest.raises(OSError, match="Input/output"):
            export_beton(select(raw_store), out, page_bytes=PAGE, overwrite=True)
    assert len(Beton(out)) == 3
    export_beton(select(raw_store), out, page_bytes=PAGE, overwrite=True)
    assert len(Beton(out)) == ROWS
    assert check_sidecar(out) is not None


def test_pages_grow_with_the_largest_sample(raw_store: Store, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="power of two"):
        export_beton(select(raw_store), tmp_path / "e.beton", page_bytes=PAGE // 2)
    assert [_page_for(size) >> 20 for size in (1, 8 << 20, (8 << 20) + 1)] == [8, 8, 16]
    too_large = _page_for((2 << 30) + 1)
    with pytest.raises(FormatError, match="power of two"):
        check_page_bytes(too_large)


def test_names_too_long_for_ffcv_are_shortened_or_refused(raw_store: Store) -> None:
    views = raw_store.view_sets["simclr"]
    columns = [Column(name=name, dtype="f4", shape=(2,)) for name in sorted(SHORT_NAMES)]
    names = [field.name for field in fields_of(views, columns)][5:]
    assert names == ["mean_pair_dist", "min_pair_dist"]
    with pytest.raises(ConfigError, match="1 to 16 ASCII characters, got 'x_a_name_of_my_own'"):
        fields_of(views, [Column(name="x_a_name_of_my_own", dtype="f4", shape=(2,))])
    with pytest.raises(ConfigError, match="'key' twice"):
        fields_of(views, [Column(name="key", dtype="f4", shape=(2,))])
    (half,) = fields_of(views, [Column(name="anchor", dtype="f2", shape=())])[5:]
    assert (half.kind, half.dtype, half.shape) == (Kind.NDARRAY, "<f4", (1,))


def test_free_space_is_checked_before_the_start(tmp_path: Path) -> None:
    check_export_space(tmp_path, 1)
    with pytest.raises(UnavailableError, match="the export needs"):
        check_export_space(tmp_path, 1 << 60)


def test_the_command_says_what_it_wrote(
    raw_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "e.beton"
    line = ["export", raw_store.root, "--format", "ffcv", "--out", out]
    code, said, _ = run(capsys, *line, "--columns", "crop_box,flip", "-n", "5")
    assert (code, said) == (0, f"{out}: 5 samples, 16.8 MB in 1 file\n")
    assert [field.name for field in Beton(out).fields][5:] == ["crop_box", "flip"]
    code, said, _ = run(capsys, *line, "--columns", "none", "--overwrite", "--json")
    answer = json.loads(said)
    assert answer["store_id"] == raw_store.store_id
    assert answer["result"] == {
        "paths": [str(out)],
        "num_samples": ROWS,
        "bytes": out.stat().st_size,
        "already": False,
        "left_out": 0,
    }
    assert run(capsys, *line, "--columns", "none")[1].endswith("in 1 file, there already\n")
    code, said, _ = run(
        capsys, *line, "--where", "label = 2", "-n", "3", "--view-set", "simclr", "--overwrite"
    )
    assert (code, said) == (0, f"{out}: 3 samples, 16.8 MB in 1 file\n")
    twos = np.flatnonzero(raw_store.labels == 2)[:3]
    assert Beton(out).column("index").tolist() == twos.tolist()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--format", "ffcv"], 2, "Missing option '-o' / '--out'"),
        (["--format", "zip", "--out", "x"], 2, "'zip' is not one of"),
        (["--format", "ffcv", "--out", "."], 2, "--out must name a file"),
        (["--format", "ffcv", "--out", "x", "--view-set", "simclir"], 2, "did you mean 'simclr'"),
        (["--format", "ffcv", "--out", "x", "--columns", "crop_bx"], 2, "did you mean 'crop_box'"),
        (["--format", "ffcv", "--out", "x", "-n", "0"], 2, "must be at least 1, got 0"),
        (["--format", "ffcv", "--out", "x", "--where", "label ="], 2, "at character"),
        (["--format", "ffcv", "--out", "/proc/x/y.beton"], 3, "the system refused"),
    ],
)
def test_mistakes_end_in_an_error_for_people(
    raw_store: Store,
    capsys: pytest.CaptureFixture[str],
    arguments: list[Any],
    code: int,
    text: str,
) -> None:
    found, _, said = run(capsys, "export", raw_store.root, *arguments)
    assert (found, text in said) == (code, True), said


def test_a_full_disk_ends_resumable(
    raw_store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "rename", full)
    out = tmp_path / "e.beton"
    code, _, said = run(capsys, "export", raw_store.root, "--format", "ffcv", "--out", out)
    assert (code, "VS302" in said, "run the same command again" in said) == (4, True, True)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_a_store_with_several_view_sets_asks_which(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "s", source)
    build_small(tmp_path / "s", source, view_set="second")
    with pytest.raises(ConfigError, match="must be said, the store has second, simclr"):
        select(open_store(tmp_path / "s"))
    assert select(open_store(tmp_path / "s"), "second").view_set.name == "second"
