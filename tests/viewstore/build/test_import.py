"""Importing ready-made views: two commands to a batch, what is kept, and what mends it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.viewstore.commands import run
from viewstore.build import planning
from viewstore.build.garbage import collect_garbage
from viewstore.build.listing import own_files
from viewstore.build.repair import repair
from viewstore.build.request import BuildRequest, Built
from viewstore.build.run import build
from viewstore.errors import ConfigError, FormatError, StoppedError
from viewstore.export.parquet import export_parquet
from viewstore.export.selection import select
from viewstore.format.paths import StorePaths
from viewstore.images.decode import decode
from viewstore.images.resize import resize
from viewstore.loaders import ViewLoader
from viewstore.progress import Fact, Silent
from viewstore.store.committed import read_plan
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify

ROWS = 6
RULE = "{stem}_{view}.png"


def pixels(number: int, height: int = 12, width: int = 10) -> np.ndarray[Any, Any]:
    """Return a picture of its own for each number."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def encoded(picture: np.ndarray[Any, Any], form: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return buffer.getvalue()


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six photographs of two classes, and two views of each."""
    monkeypatch.chdir(tmp_path)
    for row in range(ROWS):
        kind = ("cat", "dog")[row % 2]
        write(tmp_path / "photos", {f"{kind}/{row}.jpg": encoded(pixels(100 + row), "JPEG")})
        for view in (0, 1):
            data = encoded(pixels(10 * row + view))
            write(tmp_path / "views", {f"{row}_{view}.png": data})
    return tmp_path


def imported(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    **changes: Any,  # noqa: ANN401
) -> Built:
    files = {"files": f"{folder}/views/{RULE}"} if "generator" not in changes else {}
    request: dict[str, Any] = {
        "generator": "import",
        "out": folder / "s",
        "source": str(folder / "photos"),
        "settings": {**files, **(settings or {})},
        "shard_rows": 2,
        "workers": 1,
    }
    return build(BuildRequest(**(request | changes)))


def rows_of(store: Store) -> list[int]:
    """Return the number of the photograph of each row."""
    return [int(key.rpartition("/")[2].partition(".")[0]) for key in store.keys]


def test_two_folders_of_equal_names_come_to_a_batch_in_two_commands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As sets of pairs are published: originals/a.png beside augmented/a.png."""
    for row in range(ROWS):
        name = f"{'ab'[row % 2]}/{row}.png"
        write(folder / "originals", {name: encoded(pixels(row))})
        write(folder / "augmented", {name: encoded(pixels(50 + row, 16, 16))})
    line = ["build", "--generator", "import", "--source", "originals", "--out", "pairs"]
    code, said, err = run(capsys, *line, "--set", "files=augmented/{key}")
    assert code == 0, err
    assert "verdict: good" in said
    store = open_store(folder / "pairs")
    for row, number in enumerate(rows_of(store)):
        assert np.array_equal(store.view_sets["import"][row][0], pixels(50 + number, 16, 16))
    train = ["train", "pairs", "--views", "import,online:simclr", "--strategy", "standard"]
    train += ["--backbone", "conv3", "--batch-size", "6", "--steps", "1", "--out", "run"]
    code, _, err = run(capsys, *train)
    assert code == 0, err
    with ViewLoader(store, "import", batch_size=6) as loader:
        batch = next(iter(loader))
    assert batch.views[0].role == "generated"
    assert batch.views[0].pixels.shape == (6, 3, 16, 16)


def test_views_are_what_the_files_hold_in_any_order_and_company(folder: Path) -> None:
    imported(folder)
    store = open_store(folder / "s")
    views = store.view_sets["import"]
    for row, number in enumerate(rows_of(store)):
        for view in (0, 1):
            assert np.array_equal(views[row][view], pixels(10 * number + view))
    assert (views.params["status"] == 1).all()
    assert list(verify(folder / "s", level="content")) == []
    imported(folder, out=folder / "two", workers=2)
    assert open_store(folder / "two").store_id == store.store_id


def test_the_source_is_never_opened(folder: Path) -> None:
    imported(folder, slice_of=(0, 3))
    for path in (folder / "photos").rglob("*.jpg"):
        path.unlink()
    imported(folder, source=None)
    assert open_store(folder / "s").view_sets["import"].complete


def test_a_tar_gives_the_pixels_that_a_folder_gives(folder: Path) -> None:
    with tarfile.open(folder / "v.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted((folder / "views").iterdir(), reverse=True):
            tar.add(path, f"deep/{path.name}")
    imported(folder)
    imported(folder, {"files": f"{folder}/v.tar:deep/{RULE}"}, view_set="tar")
    store = open_store(folder / "s")
    for row in range(ROWS):
        assert np.array_equal(store.view_sets["tar"][row], store.view_sets["import"][row])


def test_baseline_jpegs_of_the_right_size_are_kept_byte_for_byte(folder: Path) -> None:
    noise, gray = pixels(1, 16, 16), pixels(2, 16, 16)[..., 0]
    adobe = Image.fromarray(pixels(3, 16, 16)).convert("CMYK")
    buffer = io.BytesIO()
    adobe.save(buffer, "JPEG")
    files = {
        "0": encoded(noise, "JPEG", quality=31),
        "1": encoded(noise, "JPEG", quality=31, progressive=True),
        "2": encoded(gray, "JPEG"),
        "3": buffer.getvalue(),
        "4": encoded(noise, "PNG"),
        "5": encoded(pixels(4, 32, 32), "JPEG"),
    }
    write(folder / "jpegs", {f"{number}.jpg": data for number, data in files.items()})
    settings = {"files": f"{folder}/jpegs/{{stem}}.jpg", "height": 16, "width": 16}
    imported(folder, settings, codec="jpg")
    store = open_store(folder / "s")
    views = store.view_sets["import"]
    for row, number in enumerate(rows_of(store)):
        stored = views.payloads(row)["v0.jpg"]
        assert (stored == files[str(number)]) == (number == 0)
        if number:
            wanted = resize(decode(files[str(number)]), 16, 16)
            assert stored == views.codec.encode(wanted)
    assert list(verify(folder / "s", level="content")) == []


def test_several_sizes_need_to_be_told_one(folder: Path) -> None:
    large = pixels(7, 30, 20)
    write(folder / "views", {"3_1.png": encoded(large)})
    with pytest.raises(ConfigError, match="2 sizes, such as 12x10 and 30x20") as caught:
        imported(folder)
    assert (caught.value.code, "--size" in str(caught.value.fix)) == ("VS105", True)
    assert not (folder / "s" / "views").exists()
    imported(folder, {"height": 8, "width": 8})
    store = open_store(folder / "s")
    row = rows_of(store).index(3)
    assert np.array_equal(store.view_sets["import"][row][1], resize(large, 8, 8))


def test_gaps_end_the_build_or_have_status_0(folder: Path) -> None:
    (folder / "views" / "4_0.png").unlink()
    with pytest.raises(ConfigError, match=r"1 view has no file, first cat/4\.jpg view 0"):
        imported(folder)
    imported(folder, {"missing": True})
    store = open_store(folder / "s")
    status = store.view_sets["import"].params["status"]
    row = rows_of(store).index(4)
    assert status[row].tolist() == [0, 1]
    assert np.count_nonzero(status == 0) == 1
    assert not store.view_sets["import"][row][0].any()
    with ViewLoader(store, "import", batch_size=6, missing="resample") as loader:
        assert (next(iter(loader)).views[0].status == 1).all()


def test_params_come_from_a_table(folder: Path) -> None:
    keys = [f"{('cat', 'dog')[n % 2]}/{n}.jpg" for n in range(ROWS) for _ in (0, 1)]
    frame = pd.DataFrame({"key": keys, "view": [0, 1] * ROWS})
    frame["distance"] = np.arange(2 * ROWS) / 10
    frame["CLIP score"] = np.arange(2 * ROWS)
    frame.to_csv(folder / "p.csv", index=False)
    frame.to_parquet(folder / "p.parquet")
    for suffix in ("csv", "parquet"):
        imported(folder, {"params": f"{folder}/p.{suffix}"}, view_set=suffix)
        (folder / f"p.{suffix}").unlink()  # its numbers are in the listing
    store = open_store(folder / "s")
    for name in ("csv", "parquet"):
        params = store.view_sets[name].params
        assert list(params) == ["distance", "status", "x_clip_score"]
        assert params["x_clip_score"].dtype == np.int64
        for row, number in enumerate(rows_of(store)):
            assert params["x_clip_score"][row].tolist() == [2 * number, 2 * number + 1]
        assert np.allclose(params["distance"] * 10, params["x_clip_score"])
    assert list(verify(folder / "s")) == []


def test_an_exported_table_comes_back_as_it_was(folder: Path) -> None:
    """Views and params of a view set, as files and a table, imported into another one."""
    settings = {"views": 2, "height": 16, "width": 16}
    imported(folder, settings, generator="simclr")
    store = open_store(folder / "s")
    first = store.view_sets["simclr"]
    export_parquet(select(store), folder / "p.parquet")
    for row, key in enumerate(store.keys):
        for view in (0, 1):
            write(folder / "out", {f"{key}_{view}.png": encoded(first[row][view])})
    settings = {"files": f"{folder}/out/{{key}}_{{view}}.png", "params": f"{folder}/p.parquet"}
    build(BuildRequest(generator="import", out=folder / "s", settings=settings, workers=1))
    second = open_store(folder / "s").view_sets["import"]
    assert list(second.params) == list(first.params)
    for name in first.params:
        assert second.params[name].tobytes() == first.params[name].tobytes(), name
    assert all(np.array_equal(second[row], first[row]) for row in range(ROWS))


class Stop(Silent):
    """Ends a build after three samples."""

    samples = 0

    def advance(self, count: int = 1, **facts: Fact) -> None:
        self.samples += count
        if self.samples > 15:  # 12 files were listed
            raise KeyboardInterrupt


def test_a_build_goes_on_with_its_listing_and_other_bytes_are_refused(folder: Path) -> None:
    settings = {"files": f"{folder}/views/{RULE}"}
    request = BuildRequest(
        generator="import",
        out=folder / "s",
        source=str(folder / "photos"),
        settings=settings,
        shard_rows=2,
        workers=1,
    )
    with pytest.raises((KeyboardInterrupt, StoppedError)):
        build(request, Stop())
    path = folder / "views" / "5_1.png"
    whole = path.read_bytes()
    path.write_bytes(encoded(pixels(999)))
    with pytest.raises(FormatError, match="view 1 of row 5 cannot be imported") as caught:
        build(request)
    assert (caught.value.code, caught.value.where) == ("VS205", str(path))
    path.write_bytes(whole)
    build(request)
    imported(folder, out=folder / "undisturbed")
    found, wanted = (open_store(folder / name).store_id for name in ("s", "undisturbed"))
    assert found == wanted


def test_pictures_that_are_damaged_behind_their_header_are_named(folder: Path) -> None:
    whole = encoded(pixels(1))
    at = whole.index(b"IDAT") + 4
    broken = whole[:at] + bytes(8) + whole[at + 8 :]
    write(folder / "views", {"2_0.png": broken})
    with pytest.raises(FormatError, match="does not decode") as caught:
        imported(folder)
    assert caught.value.where == f"{folder}/views/2_0.png"


def damage(path: Path) -> None:
    """Flip the last byte of a file."""
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_damaged_shard_is_rebuilt_from_the_files(folder: Path) -> None:
    before = imported(folder).manifest
    assert before is not None
    damage(next((folder / "s/views/import").glob("000001-*.tar")))
    repair(folder / "s", list(verify(folder / "s")))
    assert list(verify(folder / "s")) == []
    assert open_store(folder / "s").store_id == before.store_id


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_lost_listing_is_said_and_made_again(folder: Path, how: str) -> None:
    imported(folder)
    (listing,) = (folder / "s/views/import").glob("listing-*.npy")
    data = listing.read_bytes()
    if how == "gone":
        listing.unlink()
    else:
        damage(listing)
    faults = list(verify(folder / "s"))
    assert [fault.kind for fault in faults] == ["listing"]
    repair(folder / "s", faults)
    assert listing.read_bytes() == data
    listing.unlink()
    write(folder / "views", {"0_0.png": encoded(pixels(999))})
    with pytest.raises(FormatError, match="others than when they were imported"):
        repair(folder / "s", list(verify(folder / "s")))


def test_a_kill_before_the_plan_leaves_nothing_in_the_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(planning, "adopt_plan", killed)
        with pytest.raises(KeyboardInterrupt):
            imported(folder)
    assert [path.suffix for path in (folder / "s/views/import").glob("listing-*")] == [".npy"]
    write(folder / "views", {"0_0.png": encoded(pixels(999))})
    imported(folder)
    assert [fault.kind for fault in verify(folder / "s")] == ["orphan"]  # of the killed build
    collect_garbage(folder / "s", older_seconds=0, dry_run=False)
    assert list(verify(folder / "s")) == []


def test_gc_keeps_the_listing_and_drops_what_no_plan_names(folder: Path) -> None:
    imported(folder)
    view_set = folder / "s" / "views" / "import"
    (listing,) = view_set.glob("listing-*.npy")
    other = view_set / f"listing-{'0' * 16}.npy"
    other.write_bytes(b"of a build that was refused")
    assert [fault.kind for fault in verify(folder / "s")] == ["orphan"]
    assert collect_garbage(folder / "s", older_seconds=0, dry_run=False) == [other]
    assert listing.is_file()


def test_a_renamed_import_keeps_its_listing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(folder)
    assert run(capsys, "mv", folder / "s", "import", "gan")[0] == 0
    assert list(verify(folder / "s")) == []
    damage(next((folder / "s/views/gan").glob("000001-*.tar")))
    repair(folder / "s", list(verify(folder / "s")))
    assert list(verify(folder / "s")) == []


def test_other_settings_of_a_build_are_refused(folder: Path) -> None:
    imported(folder)
    with pytest.raises(ConfigError, match="files was"):
        imported(folder, {"files": f"{folder}/photos/{{key}}"})
    with pytest.raises(ConfigError, match=r"import\.files must be said"):
        imported(folder, {"files": ""}, view_set="b")
    with pytest.raises(ConfigError, match=r"import\.views must be in"):
        imported(folder, {"views": 0}, view_set="b")


def test_files_may_be_spelled_otherwise_when_a_build_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = imported(folder, only=(0,))
    monkeypatch.chdir(folder)
    for spelled in (
        f"{folder}/photos/../views//{RULE}",
        f"views/{RULE}",
        f"./photos/../views/{RULE}",
    ):
        assert imported(folder, {"files": spelled}).plan == first.plan


def test_the_name_of_a_listing_leads_nowhere(folder: Path) -> None:
    imported(folder)
    paths = StorePaths(folder / "s").view_set("import")
    plan = read_plan(paths)
    (path,) = own_files(paths, plan).values()
    assert path.is_file()
    (weights,) = plan.weights
    for name in ("../../passwd", "/etc/passwd", "listing-0.npy", weights.name.upper()):
        with pytest.raises(FormatError, match=r"a listing cannot be named|plan weights name of"):
            own_files(paths, replace(plan, weights=(replace(weights, name=name),)))
