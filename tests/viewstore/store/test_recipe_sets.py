"""Recipe sets: params alone are stored, and the views come out bit for bit."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.build.repair import repair
from viewstore.errors import ConfigError, FormatError
from viewstore.images.policies import Policy
from viewstore.images.recipes import RECIPES, Renderer
from viewstore.inspect.shown_rows import read_row
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify

POLICIES = ("simclr", "moco", "dino", "dino-local", "digits")


def in_folder(folder: Path, count: int) -> str:
    """Write JPEG files of sizes of their own; return the source."""
    folder.mkdir()
    rng = np.random.Generator(np.random.Philox(5))
    for number in range(count):
        size = (60 + 7 * number, 90 - 5 * number)
        coarse = rng.integers(0, 256, (*(side // 10 for side in size), 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1]).save(folder / f"{number}.jpg", quality=92)
    return str(folder)


def in_tar(folder: Path, count: int) -> str:
    """Write the same files into a tar; return the source."""
    files = Path(in_folder(folder, count))
    with tarfile.open(f"{files}.tar", "w") as tar:
        for path in sorted(files.iterdir()):
            data = path.read_bytes()
            member = tarfile.TarInfo(path.name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return f"{files}.tar"


def in_npz(folder: Path, count: int) -> str:
    return write_npz(folder.with_suffix(".npz"), rows=count, side=40)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three shards with one recipe set. Nobody changes it."""
    folder = tmp_path_factory.mktemp("recipe")
    build_small(folder / "s", write_npz(folder / "images.npz"), codec="params")
    return folder / "s"


@pytest.mark.parametrize("write", [in_folder, in_tar, in_npz])
@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("generator", POLICIES)
def test_a_recipe_gives_the_views_that_would_have_been_stored(
    tmp_path: Path, generator: str, side: int, write: Callable[[Path, int], str]
) -> None:
    source = write(tmp_path / "images", 4)
    settings = {"views": 3, "height": side, "width": side}
    for name, codec in (("raw", "raw"), ("params", "params")):
        build_small(
            tmp_path / name, source, generator=generator, settings=settings, codec=codec, seed=3
        )
    raw, params = (open_store(tmp_path / name).view_sets[generator] for name in ("raw", "params"))
    assert (params.kind, params.plan.form, params.urls()) == ("recipe", "params", [])
    for row in range(4):
        assert np.array_equal(params[row], raw[row])
    assert params.num_bytes < raw.num_bytes / 4
    assert list(verify(tmp_path / "params", level="content")) == []


def test_params_alone_are_drawn_without_a_look_at_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "proved", source, codec="params")
    opened: list[int] = []
    monkeypatch.setattr(SourceReader, "read", lambda self, row: opened.append(row))
    settings = {"views": 2, "height": 16, "width": 16, "proof": False}
    built = build_small(tmp_path / "s", source, codec="params", settings=settings)
    assert opened == []
    monkeypatch.undo()
    proved, drawn = (open_store(tmp_path / n).view_sets["simclr"] for n in ("proved", "s"))
    assert "pixel_crc" not in drawn.params
    assert np.array_equal(drawn[7], proved[7])
    again = build_small(tmp_path / "s", source, codec="params")  # as it was begun
    assert again.plan.id == built.plan.id
    with pytest.raises(ConfigError, match="proof goes with --codec params, the views are stored"):
        build_small(tmp_path / "t", source, codec="raw", settings=settings)
    with pytest.raises(ConfigError, match="proof must be true or false, got 3"):
        build_small(tmp_path / "t", source, codec="params", settings=settings | {"proof": 3})


def test_a_generator_without_a_recipe_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="w-search has no recipe: its views cannot be stored"):
        build_small(tmp_path / "s", "nowhere", generator="w-search", settings={}, codec="params")


def test_what_is_not_stored_is_not_handed_out(recipe: Path) -> None:
    view_set = open_store(recipe).view_sets["simclr"]
    assert repr(view_set) == "ViewSet('simclr', 20 samples x 2 views, 16x16x3, params)"
    with pytest.raises(ConfigError, match="simclr stores no pixels, its kind is recipe"):
        view_set.payloads(0)
    assert np.array_equal(view_set[:3], np.stack([view_set[row] for row in range(3)]))
    assert np.array_equal(view_set.replay(5, 1), view_set[5][1])


def test_another_version_of_a_recipe_is_not_guessed(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        RECIPES,  # type: ignore[arg-type]
        "policy",
        RECIPES["policy"]._replace(version=2),
    )
    with pytest.raises(FormatError, match="recipe policy version 1 is not known here") as caught:
        open_store(recipe).view_sets["simclr"][0]
    assert caught.value.code == "VS204"


def test_other_versions_of_libraries_are_warned_of_once(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view_set = open_store(recipe).view_sets["simclr"]
    assert view_set.plan.recipe is not None
    libraries = {**view_set.plan.recipe["libraries"], "numpy": "1.0"}
    monkeypatch.setitem(view_set.plan.recipe, "libraries", libraries)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"views of simclr may be .* numpy was 1\.0, is "):
        view_set[0]
    view_set[1]


def test_an_image_that_was_unreadable_gives_black_views(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "images", 4, cut=2)
    build_small(tmp_path / "s", str(source), codec="params", on_error="skip")
    view_set = open_store(tmp_path / "s").view_sets["simclr"]
    assert view_set.params["status"].tolist() == [[1, 1], [1, 1], [4, 4], [1, 1]]
    assert view_set.params["pixel_crc"][2].tolist() == [2**32 - 1] * 2
    assert not view_set[2].any()
    assert list(verify(tmp_path / "s", level="content")) == []


def test_a_source_that_moved_is_found_where_it_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = in_folder(tmp_path / "images", 4)
    build_small(tmp_path / "s", source, codec="params")
    before = open_store(tmp_path / "s").view_sets["simclr"][1]
    Path(source).rename(tmp_path / "moved")
    with pytest.raises(FormatError, match="the source of this store is not there"):
        open_store(tmp_path / "s").view_sets["simclr"][1]
    faults = list(verify(tmp_path / "s", level="content"))
    assert {fault.kind for fault in faults} == {"unproven"}
    assert "VIEWSTORE_SOURCE" in str(faults[0].fix)
    found = open_store(tmp_path / "s", source=tmp_path / "moved").view_sets["simclr"]
    assert np.array_equal(found[1], before)
    assert run(capsys, "inspect", tmp_path / "s")[0] == 0  # which reads no image


def test_pixels_that_are_others_than_were_proved_are_told(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Policy.recolour

    def darker(self: Policy, view: Any, params: Any) -> None:  # noqa: ANN401
        real(self, view, params)
        view[0, 0, 0] ^= 1

    monkeypatch.setattr(Policy, "recolour", darker)
    assert list(verify(recipe)) == []
    faults = list(verify(recipe, level="content"))
    assert {fault.kind for fault in faults} == {"proof"}
    assert len(faults) == 40
    assert "view 0 of row 0 renders to other pixels" in faults[0].what


def test_a_damaged_pack_is_rebuilt_to_the_bytes_it_had(tmp_path: Path, source: str) -> None:
    build_small(tmp_path / "s", source, codec="params")
    before = open_store(tmp_path / "s").store_id
    (pack, *_) = sorted((tmp_path / "s/views/simclr").glob("000001-*.params"))
    damaged = bytearray(pack.read_bytes())
    damaged[3000] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    faults = list(verify(tmp_path / "s"))
    assert {(fault.shard, fault.kind) for fault in faults} == {(1, "hash")}
    assert repair(tmp_path / "s", faults).shards == {"simclr": [1]}
    assert list(verify(tmp_path / "s", level="content")) == []
    assert open_store(tmp_path / "s").store_id == before


HARM: dict[str, tuple[str, Any]] = {
    "a box that leaves its image": ("crop_box", [0, 0, 21, 4]),
    "a box without pixels": ("crop_box", [0, 0, 0, 4]),
    "a box between pixels": ("crop_box", [0.5, 0, 4, 4]),
    "a box at no place": ("crop_box", [np.nan, 0, 4, 4]),
    "a box before the image": ("crop_box", [-1, 0, 4, 4]),
    "a factor of no view": ("jitter", [1e9, 1, 1, 0]),
    "a negative factor": ("jitter", [-1, 1, 1, 0]),
    "a hue beyond half a turn": ("jitter", [1, 1, 1, 0.6]),
    "a factor that is none": ("jitter", [1, np.inf, 1, 0]),
    "an order with an op twice": ("jitter_order", [0, 0, 1, 2]),
    "an order of more ops": ("jitter_order", [0, 1, 2, 4]),
    "a blur over the whole memory": ("blur", 1e9),
    "a blur that is none": ("blur", np.nan),
    "a switch with three positions": ("flip", 2),
    "a gray of three positions": ("gray", 2),
    "a level above white": ("solarize", 257),
}


def harmed(store: Store, column: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    """Return the view set of a store whose row 9 has `value` in a column of view 1."""
    view_set = store.view_sets["simclr"]
    whole = view_set.params[column].copy()
    whole[9, 1] = value
    monkeypatch.setitem(view_set.params._whole, column, whole)
    return view_set


@pytest.mark.parametrize("name", HARM)
def test_params_that_no_view_can_have_are_refused(
    recipe: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    column, value = HARM[name]
    view_set = harmed(open_store(recipe), column, value, monkeypatch)
    assert view_set[8].any()
    with pytest.raises(
        FormatError, match=f"{column} of row 9 view 1 of simclr cannot be"
    ) as caught:
        view_set[9]
    assert caught.value.code == "VS203"
    assert "verify" in str(caught.value.fix)


def test_every_recipe_checks_every_column_that_it_reads() -> None:
    """A recipe that reads a column unchecked lets a file steer a renderer."""
    for name in ("policy", "digits"):
        generator = {"policy": "simclr", "digits": "digits"}[name]
        columns = {each.name: each for each in _columns(generator)}
        nothing = {
            key: np.full((1, *each.shape), np.nan if each.dtype == "f4" else 251, each.numpy_dtype)
            for key, each in columns.items()
        }
        found = Renderer.of(
            {"name": name, "version": 1, "args": {}, "filter": "area", "libraries": {}},
            tuple(columns),
            (8, 8),
        ).check(nothing, np.array([9]), np.array([9]))
        expected = {key for key in columns if key != "solarize"}  # 251 is a level
        assert {column for column, _ in found} == expected


def _columns(generator: str) -> Any:  # noqa: ANN401
    from viewstore.images.policies import policies

    return policies(generator)[0].columns


def test_a_plan_of_a_recipe_is_held_to_its_kind(recipe: Path) -> None:
    plan = open_store(recipe).view_sets["simclr"].plan
    changes: tuple[dict[str, Any], ...] = (
        {"recipe": None},
        {"kind": "pixels"},
        {"kind": "columns"},
        {"members": ("json",)},
        {"json_bytes": 512},
        {"kind": "frames"},
        {"reach": "all"},
    )
    for each in changes:
        with pytest.raises(FormatError, match="plan"):
            replace(plan, **each)


def test_sheet_report_and_export_show_what_a_raw_set_shows(
    recipe: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "raw", source)
    out = {}
    for name, store in (("raw", tmp_path / "raw"), ("params", recipe)):
        folder = tmp_path / f"out-{name}"
        assert run(capsys, "inspect", store, "--sheet", f"{folder}.png")[0] == 0
        assert run(capsys, "inspect", store, "--html", f"{folder}.html")[0] == 0
        assert run(capsys, "export", store, "--format", "webdataset", "--out", folder)[0] == 0
        with tarfile.open(folder / "000001.tar") as tar:
            members = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
        opened = open_store(store)
        (shown,) = (read_row(opened, 9, [each]) for each in opened.view_sets.values())
        out[name] = ([cell.pixels for cell in shown.cells["simclr"]], members)
        params_of = [cell.params for cell in shown.cells["simclr"]]
        assert not any("pixel crc" in words for words in params_of[0])
    raw, params = out["raw"], out["params"]
    assert np.array_equal(raw[0], params[0])
    assert {k: v for k, v in raw[1].items() if not k.endswith("json")} == {
        k: v for k, v in params[1].items() if not k.endswith(("json", "pixel_crc.npy"))
    }
