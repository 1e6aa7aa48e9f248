"""A source that was moved, or of which a file was mended: rows decide, and the build goes on."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import viewstore
from tests.viewstore.commands import invoke
from tests.viewstore.small_stores import build_small
from viewstore.build.adopt import adopt_sources
from viewstore.build.request import BuildRequest
from viewstore.build.rows import build_rows
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError
from viewstore.format.paths import StorePaths
from viewstore.progress import Silent
from viewstore.sources import folder
from viewstore.sources.again import find_again
from viewstore.sources.open import open_source
from viewstore.sources.record import read_sources
from viewstore.store.verdict import verdict_of
from viewstore.store.verify import verify

ROWS = 6


def picture(seed: int) -> Image.Image:
    pixels = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(pixels)


def write_folder(path: Path, *, rows: int = ROWS) -> str:
    path.mkdir()
    for row in range(rows):
        picture(row).save(path / f"{row}.jpg")
    wait_a_tick(path / "0.jpg")
    return str(path)


def wait_a_tick(path: Path) -> None:
    """Wait until a file written now is younger than `path`."""
    probe = path.parent / ".clock"
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_mtime_ns > path.stat().st_mtime_ns:
            break
        time.sleep(0.001)
    probe.unlink()


def cut(path: Path) -> bytes:
    """Cut a JPEG behind its header; return what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    return whole


def built(out: Path, source: str | None, **changes: Any) -> Any:  # noqa: ANN401
    return build_small(out, source, shard_rows=2, **changes)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The images whose headers were read while rows were fixed or compared."""
    names: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".jpg":
            names.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_a_build_goes_on_after_a_file_was_mended(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    whole = cut(tmp_path / "images" / "4.jpg")
    with pytest.raises(FormatError, match=r"4\.jpg cannot be read") as caught:
        built(tmp_path / "s", source)
    assert caught.value.fix is not None
    assert "--source" in caught.value.fix
    (tmp_path / "images" / "4.jpg").write_bytes(whole)
    again = built(tmp_path / "s", source)
    assert again.manifest is not None
    assert again.samples == 2
    assert list(verify(tmp_path / "s", level="content")) == []
    # What was made is what a store makes that never saw the cut file.
    never = built(tmp_path / "never", source)
    views = [viewstore.open(tmp_path / each).view_set("simclr") for each in ("s", "never")]
    assert all((first == second).all() for first, second in zip(*views, strict=True))
    assert never.samples == ROWS
    assert viewstore.open(tmp_path / "s").source.image(4).shape == (24, 32, 3)


def test_an_image_that_views_were_made_of_may_not_change(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source, only=(0,))
    picture(99).save(tmp_path / "images" / "1.jpg")
    with pytest.raises(ConfigError, match=r"1 image \(1\.jpg\) changed, and simclr has") as caught:
        built(tmp_path / "s", source)
    assert caught.value.code == "VS103"


def test_a_mended_file_of_a_failed_sample_is_rebuilt(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    whole = cut(tmp_path / "images" / "4.jpg")
    assert built(tmp_path / "s", source, on_error="skip").failures == 1
    store = viewstore.open(tmp_path / "s")
    (remedy,) = verdict_of(store, store.view_sets.values()).remedies()
    assert f"cannot be read, then run viewstore verify {tmp_path / 's'} --repair" in remedy
    assert "--repair --failed" in remedy
    command = ("verify", tmp_path / "s", "--repair", "--failed", "-j", "1")
    assert invoke(*command).exit_code == 0
    assert (viewstore.open(tmp_path / "s").view_set("simclr").params["status"] == 4).any()
    (tmp_path / "images" / "4.jpg").write_bytes(whole)
    assert invoke(*command).exit_code == 0
    assert (viewstore.open(tmp_path / "s").view_set("simclr").params["status"] == 1).all()


@pytest.mark.parametrize("limit", [None, 4])
def test_a_scan_decodes_where_that_costs_little(tmp_path: Path, limit: int | None) -> None:
    """A build with networks would meet a cut image after hours."""
    source = write_folder(tmp_path / "images")
    cut(tmp_path / "images" / "2.jpg")
    request = BuildRequest(
        generator="recon", out=tmp_path / "s", source=source, limit=limit, on_error="skip"
    )
    with pytest.raises(FormatError, match=r"2\.jpg cannot be read"):
        build_rows(replace(request, on_error="fail"), StorePaths(tmp_path / "s"), Silent())
    table, skipped = build_rows(request, StorePaths(tmp_path / "s"), Silent())
    rows = [row for row in range(ROWS) if row != 2][:limit]
    assert list(table.keys) == [f"{row}.jpg" for row in rows]
    assert [key for key, _ in skipped] == ["2.jpg"]


def test_a_moved_source_is_named_and_found(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    first = built(tmp_path / "s", source)
    moved = str(shutil.move(source, tmp_path / "elsewhere"))
    for on_error in ("fail", "skip"):  # a source that is gone is no image to skip
        with pytest.raises(FormatError, match="source of this store is not there") as caught:
            built(tmp_path / "s", None, view_set="second", on_error=on_error)
        assert caught.value.code == "VS207"
        assert str(caught.value.fix).startswith("if the source was moved")
        assert "--on-error" not in str(caught.value.fix)
    second = built(tmp_path / "s", moved, view_set="second")
    assert second.plan.sources_id == first.plan.sources_id
    store = viewstore.open(tmp_path / "s")
    assert store.source.image(3).shape == (24, 32, 3)
    assert store.table.spelling == moved
    assert built(tmp_path / "s", None, view_set="third").manifest is not None


def test_one_image_that_is_gone_may_be_skipped(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source)
    (tmp_path / "images" / "3.jpg").unlink()
    with pytest.raises(FormatError, match="cannot be read") as caught:
        built(tmp_path / "s", None, view_set="second")
    assert str(caught.value.fix).startswith("if the source was moved")
    assert str(caught.value.fix).endswith("--on-error skip")
    done = built(tmp_path / "s", None, view_set="second", on_error="skip")
    assert done.failed_rows == [3]


def test_a_moved_source_is_given_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source)
    expected = viewstore.open(tmp_path / "s").source.image(3)
    moved = str(shutil.move(source, tmp_path / "elsewhere"))
    with pytest.raises(FormatError, match="source of this store is not there") as caught:
        viewstore.open(tmp_path / "s").source.image(3)
    assert "VIEWSTORE_SOURCE" in str(caught.value.fix)
    store = viewstore.open(tmp_path / "s", source=moved)
    assert (store.source.image(3) == expected).all()
    assert (pickle.loads(pickle.dumps(store)).source.image(3) == expected).all()
    picture(7).resize((40, 40)).save(tmp_path / "elsewhere" / "3.jpg")
    with pytest.raises(ConfigError, match=r"1 image \(3\.jpg\)"):
        viewstore.open(tmp_path / "s", source=moved)
    os.unlink(tmp_path / "elsewhere" / "3.jpg")  # noqa: PTH108
    monkeypatch.setenv("VIEWSTORE_SOURCE", moved)
    with pytest.raises(ConfigError, match=r"1 image \(3\.jpg\) of the rows is not there"):
        viewstore.open(tmp_path / "s").source.image(0)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_environment_says_where_a_source_lies_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source)
    recorded = (tmp_path / "s" / "sources" / "sources.json").read_bytes()
    monkeypatch.setenv("VIEWSTORE_SOURCE", str(shutil.move(source, tmp_path / "elsewhere")))
    assert built(tmp_path / "s", None, view_set="second", workers=workers).manifest is not None
    assert viewstore.open(tmp_path / "s").source.image(3).shape == (24, 32, 3)
    assert (tmp_path / "s" / "sources" / "sources.json").read_bytes() == recorded
    assert not (tmp_path / "s" / "sources" / "located.json").exists()


def test_another_source_of_the_same_names_and_sizes_is_refused(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        rng = np.random.Generator(np.random.Philox(seed))
        images = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images)
    wait_a_tick(tmp_path / "two.npz")
    built(tmp_path / "s", str(tmp_path / "one.npz"))
    with pytest.raises(ConfigError, match="4 images"):
        built(tmp_path / "s", str(tmp_path / "two.npz"), view_set="second")


def test_an_archive_that_was_packed_anew_is_the_same_source(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    for name, order in (("one.tar", range(ROWS)), ("two.tar", reversed(range(ROWS)))):
        with tarfile.open(tmp_path / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in order:
                tar.add(tmp_path / "images" / f"{row}.jpg", f"{row}.jpg")
    built(tmp_path / "s", str(tmp_path / "one.tar"))
    (tmp_path / "one.tar").unlink()
    built(tmp_path / "s", str(tmp_path / "two.tar"), view_set="second")
    store = viewstore.open(tmp_path / "s")
    assert store.source.read(5) == (tmp_path / "images" / "5.jpg").read_bytes()


def test_a_resume_reads_no_image_again(tmp_path: Path, reads: list[str]) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source, only=(0,))
    assert sorted(reads) == [f"{row}.jpg" for row in range(ROWS)]
    reads.clear()
    built(tmp_path / "s", source, only=(1,))
    assert reads == []
    os.utime(tmp_path / "images" / "5.jpg")  # touched: read again, and the same
    assert built(tmp_path / "s", source).manifest is not None
    assert reads == ["5.jpg"]


def test_an_untouched_archive_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((4, 16, 16, 3), np.uint8))
    wait_a_tick(tmp_path / "i.npz")
    built(tmp_path / "s", str(tmp_path / "i.npz"))
    table, _, _ = read_sources(StorePaths(tmp_path / "s"))
    monkeypatch.setattr("viewstore.sources.again.open_source", None)
    found = find_again(table, str(tmp_path / "i.npz"), since=time.time_ns())
    assert (found.changed, found.table.parts) == ((), table.parts)
    with pytest.raises(TypeError):  # it would read it: changed after that moment
        find_again(table, str(tmp_path / "i.npz"), since=1)


def test_images_that_are_new_are_refused_or_left_out(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source)
    picture(50).save(tmp_path / "images" / "35.jpg")
    with pytest.raises(ConfigError, match=r"1 image \(35\.jpg\) is new"):
        built(tmp_path / "s", source, view_set="second")
    heard = Heard()
    request = BuildRequest(
        generator="simclr", out=tmp_path / "s", source=source, on_error="skip", workers=1,
        view_set="second", settings={"views": 1},
    )  # fmt: skip
    assert build(request, heard).plan.rows == ROWS
    assert any("1 image (35.jpg) is new" in line for line in heard.said)
    (tmp_path / "images" / "2.jpg").unlink()
    with pytest.raises(ConfigError, match=r"1 image \(2\.jpg\) of the rows is not there"):
        built(tmp_path / "s", source, view_set="third")


def test_an_image_that_was_left_out_is_mended_without_a_dead_end(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    whole = (tmp_path / "images" / "2.jpg").read_bytes()
    (tmp_path / "images" / "2.jpg").write_bytes(b"no picture")
    wait_a_tick(tmp_path / "images" / "2.jpg")
    assert built(tmp_path / "s", source, on_error="skip").plan.rows == ROWS - 1
    assert built(tmp_path / "s", source, view_set="second").plan.rows == ROWS - 1
    (tmp_path / "images" / "2.jpg").write_bytes(whole)
    again = built(tmp_path / "s", source, view_set="third", on_error="skip")
    assert again.plan.rows == ROWS - 1


def test_a_path_is_kept_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "version1")
    (tmp_path / "current").symlink_to("version1")
    monkeypatch.chdir(tmp_path)
    table = open_source("current").table
    assert table.parts[0].uri == str(tmp_path / "current")
    assert table.spelling == str(tmp_path / "current")


def test_a_store_of_tars_goes_on_without_their_pattern(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    for part in range(2):
        with tarfile.open(tmp_path / f"{part:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(3 * part, 3 * part + 3):
                tar.add(tmp_path / "images" / f"{row}.jpg", f"{row}.jpg")
    built(tmp_path / "s", str(tmp_path / "{000..001}.tar"), limit=5)
    assert built(tmp_path / "s", None, limit=5, view_set="second").plan.rows == 5
    with pytest.raises(ConfigError, match="limit was 5, is 6"):
        built(tmp_path / "s", None, limit=6, view_set="third")


@pytest.mark.parametrize("pattern", ["images", "{a,b}.tar"])
def test_a_store_that_recorded_another_spelling_goes_on_with_either(
    tmp_path: Path, pattern: str
) -> None:
    write_folder(tmp_path / "images")
    for row, name in enumerate(("a", "b")):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(tmp_path / "images" / f"{row}.jpg", f"{row}.jpg")
    table = open_source(str(tmp_path / pattern)).table
    detour = f"{tmp_path}/images/.."
    parts = tuple(
        replace(part, uri=part.uri.replace(str(tmp_path), detour)) for part in table.parts
    )
    paths = StorePaths(tmp_path / "s")
    before = replace(table, parts=parts, spelling=f"{detour}/{pattern}")
    adopt_sources(paths, before, 2)
    _, _, sources_id = read_sources(paths)
    spellings = (None, f"{detour}/{pattern}", str(tmp_path / pattern), f"{detour}/s/../{pattern}")
    for number, spelled in enumerate(spellings):
        done = built(tmp_path / "s", spelled, view_set=f"v{number}")
        assert done.plan.sources_id == sources_id
    assert list(verify(tmp_path / "s")) == []


def test_a_folder_is_listed_as_it_is_scanned(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    (tmp_path / "images" / "b").mkdir()
    picture(8).save(tmp_path / "images" / "b" / "a.png")
    assert folder.folder_keys(source) == list(open_source(source).table.keys)


def test_a_name_of_a_source_is_not_the_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images")
    built(tmp_path / "s", str(tmp_path / "images"))
    shutil.copytree(tmp_path / "images", tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"0\.jpg"):
        built(tmp_path / "s", "digits", view_set="second")
    assert not (tmp_path / "s" / "sources" / "located.json").exists()
    assert built(tmp_path / "s", "./digits", view_set="second").manifest is not None
    assert viewstore.open(tmp_path / "s").table.parts[0].uri == str(tmp_path / "digits")


@pytest.mark.parametrize("is_folder", [True, False])
def test_digits_are_not_read_again_whatever_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    built(tmp_path / "s", "digits")
    table, _, _ = read_sources(StorePaths(tmp_path / "s"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir() if is_folder else (tmp_path / "digits").write_bytes(b"")
    monkeypatch.setattr("viewstore.sources.again.open_source", None)
    found = find_again(table, "digits", since=time.time_ns())
    assert (found.changed, found.table.parts) == ((), table.parts)


def test_a_pattern_is_recorded_so_that_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images")
    for name, row in (("a", 0), ("b", 1)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(tmp_path / "images" / f"{row}.jpg", f"{row}.jpg")
    monkeypatch.chdir(tmp_path)
    patterns = ("{a,b}.tar", f"{{{tmp_path}/a,{tmp_path}/b}}.tar", f"{{{tmp_path}/a,b}}.tar")
    spelled = [open_source(pattern).table.spelling for pattern in patterns]
    monkeypatch.chdir("/")
    assert {*spelled} == {f"{{{tmp_path}/a.tar,{tmp_path}/b.tar}}"}
    assert list(open_source(spelled[0]).table.keys) == ["0", "1"]


def test_a_damaged_record_of_a_move_is_named_and_set_aside(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images")
    built(tmp_path / "s", source)
    moved = str(shutil.move(source, tmp_path / "elsewhere"))
    built(tmp_path / "s", moved)
    record = StorePaths(tmp_path / "s").sources_located
    record.chmod(0o644)
    record.write_bytes(b"{")
    with pytest.raises(FormatError, match=r"located\.json: not a JSON record") as caught:
        viewstore.open(tmp_path / "s")
    assert caught.value.where == str(record)
    assert caught.value.fix == "remove this file, and give --source to the next build"
    (fault,) = verify(tmp_path / "s")
    assert (fault.kind, fault.path) == ("located", str(record))
    assert invoke("verify", tmp_path / "s", "--repair").exit_code == 0
    assert not record.exists()
    assert built(tmp_path / "s", moved, view_set="second").manifest is not None
    assert viewstore.open(tmp_path / "s").table.spelling == moved


def test_an_empty_text_names_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "images")
    monkeypatch.chdir(tmp_path / "images")
    with pytest.raises(ConfigError, match="a source must be named"):
        open_source("")
    with pytest.raises(ConfigError, match="a source must be named"):
        built(tmp_path / "s", "")
    built(tmp_path / "s", str(tmp_path / "images"))
    with pytest.raises(ConfigError, match="a source must be named"):
        built(tmp_path / "s", "", view_set="second")
    with pytest.raises(ConfigError, match="view set name must match"):
        built(tmp_path / "s", None, view_set="")
    with pytest.raises(ConfigError, match="a source must be named"):
        viewstore.open(tmp_path / "s", source="")
    monkeypatch.chdir(tmp_path / "s")
    with pytest.raises(ConfigError, match="a store must be named"):
        viewstore.open("")
    monkeypatch.setenv("VIEWSTORE_SOURCE", "")  # not set, as an empty variable is
    assert viewstore.open(".").source.image(0).shape == (24, 32, 3)
