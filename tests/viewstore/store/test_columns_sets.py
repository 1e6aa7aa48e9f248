"""Columns sets on disk: every flipped byte is found, and plans that cannot be are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.generators.scored.encoders import classifier, export
from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import Column
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.store.column_content import meaning_faults
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify

FLIPS = 9  # of each file
SETS = ("quality", "teacher", "duplicates")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two shards, of views and of all columns that are about views."""
    folder = tmp_path_factory.mktemp("columns")
    store, net = folder / "s", export(folder / "net.pt2", classifier())
    build_small(store, write_npz(folder / "images.npz", rows=6), shard_rows=3, codec="params")
    build_small(store, None, generator="duplicates", settings={}, shard_rows=None)
    settings = {"of": "simclr", "outputs": ("feature", "topk"), "k": 3}
    build_small(
        store, None, generator="embed", view_set="teacher", settings=settings, shard_rows=None,
        files={"encoder": net},
    )  # fmt: skip
    assert list(verify(store, level="content")) == []
    return store


def files_of(store: Path, name: str) -> Iterator[Path]:
    """Yield every file of a view set that readers use."""
    root = StorePaths(store).view_set(name).root
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size and path.parent.name not in ("tmp", "failed"):
            yield path


@pytest.mark.parametrize("name", SETS)
def test_flipped_bytes_are_found_in_every_file(built: Path, name: str) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    suffixes = set()
    for path in files_of(built, name):
        good = path.read_bytes()
        path.chmod(0o644)
        suffixes.add(path.suffix)
        ends = {0, len(good) - 1, len(good) // 2}
        for place in sorted(ends | set(rng.integers(0, len(good), FLIPS).tolist())):
            damaged = bytearray(good)
            damaged[place] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
            assert list(verify(built)), f"byte {place} of {path.relative_to(built)}"
        path.write_bytes(good)
    assert list(verify(built)) == []
    assert {".json", ".params", ".npy"} <= suffixes
    assert (".chunk" in suffixes) == (name == "teacher")


def test_a_reader_refuses_a_damaged_feature(built: Path) -> None:
    chunks = (built / "views/teacher/params.zarr/feature/c").rglob("*")
    path = min(each for each in chunks if each.is_file())
    good = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
        with pytest.raises(FormatError, match="column feature of shard 0 of teacher") as caught:
            open_store(built).view_sets["teacher"].params["feature"]
        assert "--repair" in str(caught.value.fix)
    finally:
        path.write_bytes(good)


def test_a_plan_of_columns_is_held_to_its_kind(built: Path) -> None:
    plan = open_store(built).view_sets["teacher"].plan
    choice: dict[str, Any] = {"name": "selected", "per": "choice"}
    for changes in (
        {"parent": None},
        {"height": 16},
        {"channels": 3},
        {"members": ("json",)},
        {"json_bytes": 512},
        {"codec": {"name": "raw", "args": {}, "encoder": None}},
        {"recipe": {"name": "policy"}},
    ):
        with pytest.raises(FormatError, match="plan"):
            replace(plan, **changes)
    assert Plan.unpack(plan.pack()) == plan
    for dtype, shape in (("f4", (1, 2)), ("u1", (2,))):
        with pytest.raises(FormatError, match=r"choices must be u1 \(G, m\)"):
            Column(dtype=dtype, shape=shape, **choice)
    wide = Column(dtype="u1", shape=(1, 3), **choice)
    with pytest.raises(FormatError, match="chooses 3 of 2 views"):
        replace(plan, columns=tuple(sorted((*plan.columns, wide), key=lambda each: each.name)))


def values_of(store: Store, name: str) -> dict[str, Any]:
    params = store.view_sets[name].params
    return {each: params[each].copy() for each in params}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("feature", np.float16(np.inf), "values that are not finite where the status is 1"),
        ("feature", np.float16(0.9), "features that are not of unit length"),
        ("topk_logit", np.float16([1, 2, 3]), "column topk_logit does not go down"),
    ],
)
def test_columns_that_cannot_mean_what_they_say_are_named(
    built: Path,
    column: str,
    value: Any,  # noqa: ANN401
    expected: str,
) -> None:
    store = open_store(built)
    plan, values = store.view_sets["teacher"].plan, values_of(store, "teacher")
    assert list(meaning_faults(plan, values)) == []
    values[column][2, 1] = value
    ((kind, what),) = meaning_faults(plan, values)
    assert (kind, expected in what) == ("params", True)
    values["status"][2, 1] = 3  # of such a view nothing is said
    assert list(meaning_faults(plan, values)) == []


@pytest.mark.parametrize("generator", ["embed", "quality"])
def test_what_describes_views_is_not_described_itself(built: Path, generator: str) -> None:
    with pytest.raises(ConfigError, match="has no views to describe, it describes those of source"):
        build_small(
            built, None, generator=generator, view_set="e", settings={"of": "quality"},
            shard_rows=None,
        )  # fmt: skip
    assert not (built / "views" / "e").exists()


def test_commands_live_with_sets_that_store_no_pixels(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There are recipes and columns, and columns that are about columns."""
    for words in (
        ("stats", built),
        ("stats", built, "--column", "luma_std"),
        ("inspect", built),
        ("inspect", built, "0"),
        ("inspect", built, "--sheet", tmp_path / "a.png"),
        ("inspect", built, "--html", tmp_path / "a.html"),
        ("status", built),
        ("verify", built, "--content"),
        ("gc", built, "--dry-run"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 0, (words, err)
