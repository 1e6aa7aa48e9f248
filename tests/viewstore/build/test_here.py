"""What a worker checks of its own machine before its first unit, and before networks are loaded."""

from __future__ import annotations

import importlib.metadata
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build import compose, roles
from viewstore.build.here import MOST_PARTS, check_source
from viewstore.build.planning import plan
from viewstore.build.request import BuildRequest
from viewstore.build.roles import WeightFiles, packaged_weights
from viewstore.build.run import build
from viewstore.errors import (
    CheckpointError,
    ConfigError,
    FormatError,
    ViewStoreError,
)
from viewstore.format.paths import StorePaths
from viewstore.generators.pixels.expert import Expert
from viewstore.progress import Progress, Silent
from viewstore.shards.builder import ShardBuilder, Unwatched, made_builder
from viewstore.shards.place import Place
from viewstore.sources.table import OnError
from viewstore.store.committed import committed_shards

HOST = f"host {socket.gethostname()}"


class Said(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def other_version(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    versions = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == library else versions(name)
    )


def made(
    out: Path, name: str, files: WeightFiles | None = None, on_error: OnError = "fail"
) -> ShardBuilder | ViewStoreError:
    factory = compose.builder_factory(out, name, files or {}, on_error=on_error)
    return made_builder(factory, Unwatched(), Place())


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A store in which views of a folder of photographs, and what an encoder says, are planned."""
    _folder(tmp_path / "images")
    small: dict[str, Any] = {"out": tmp_path / "s", "source": str(tmp_path / "images")}
    plan(BuildRequest(generator="simclr", settings={"height": 16, "width": 16}, **small))
    plan(BuildRequest(generator="embed", settings={"of": "source"}, **small))
    return tmp_path / "s"


def _folder(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a network fails the test."""

    def loaded(*arguments: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(compose, "load_models", loaded)


def refused(found: object) -> ViewStoreError:
    """Return the error of a worker that has no builder, which names its host."""
    assert isinstance(found, ViewStoreError), "it was not refused"
    assert found.where is not None
    assert found.where.startswith(HOST)
    return found


@pytest.mark.usefixtures("no_network")
def test_another_byte_of_weights_is_refused(planned: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.safetensors"
    data = bytearray(packaged_weights("encoder").read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    error = refused(made(planned, "embed", {"encoder": other}))
    assert isinstance(error, CheckpointError)
    assert error.code == "VS210"
    assert str(other) in (error.where or "")


@pytest.fixture
def replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoder's file that is replaced by another encoder just before it is loaded."""
    path = tmp_path / "mine.safetensors"
    path.write_bytes(packaged_weights("encoder").read_bytes())
    load_model = roles.load_model

    def late(role: str, found: Path, progress: Progress | None = None) -> object:
        data = bytearray(found.read_bytes())
        data[-1] ^= 1
        found.write_bytes(data)
        return load_model(role, found, progress)

    monkeypatch.setattr(roles, "load_model", late)
    return path


def test_weights_that_are_replaced_between_check_and_load_are_refused(
    planned: Path, replaced: Path
) -> None:
    error = refused(made(planned, "embed", {"encoder": replaced}))
    assert isinstance(error, CheckpointError)
    assert error.code == "VS210"
    assert "the encoder was changed while it was loaded" in str(error)


def test_a_plan_is_not_made_with_weights_that_are_replaced_meanwhile(
    planned: Path, replaced: Path
) -> None:
    request = BuildRequest(
        out=planned, generator="embed", view_set="other", files={"encoder": replaced}
    )
    with pytest.raises(CheckpointError, match="the encoder was changed while it was loaded"):
        plan(request)
    assert not StorePaths(planned).view_set("other").plan.exists()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("library", ["numpy", "opencv-python-headless", "pillow", "simplejpeg"])
def test_another_version_of_a_library_is_refused(
    planned: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.metadata.version(library)
    other_version(monkeypatch, library)
    for name in ("embed", "simclr"):
        error = refused(made(planned, name))
        assert isinstance(error, ConfigError)
        assert error.code == "VS103"
        assert f"{library} was {there}, is 0.1" in str(error)


@pytest.mark.usefixtures("no_network")
def test_another_generator_is_refused(planned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Expert, "VERSION", Expert.VERSION + 1)
    error = refused(made(planned, "simclr"))
    assert (error.code, error.exit_code) == ("VS103", 2)
    assert "generator simclr was" in str(error)


@pytest.mark.usefixtures("no_network")
def test_a_damaged_plan_is_refused(planned: Path) -> None:
    path = StorePaths(planned).view_set("embed").plan
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1'))
    assert isinstance(refused(made(planned, "embed")), FormatError)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["embed", "simclr"])
def test_another_byte_of_the_source_is_refused(planned: Path, tmp_path: Path, name: str) -> None:
    first = tmp_path / "images" / "0.png"
    first.write_bytes(first.read_bytes()[:-1] + b"\0")
    error = refused(made(planned, name))
    assert error.code == "VS205"
    assert str(first) in (error.where or "")
    assert "--on-error skip" in (error.fix or "")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_source_that_is_not_there_is_refused(
    planned: Path, tmp_path: Path, on_error: OnError
) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    error = refused(made(planned, "embed", on_error=on_error))
    assert error.code == "VS207"
    assert str(tmp_path / "images") in (error.where or "")


def test_a_broken_image_is_left_out_where_the_user_says_so(tmp_path: Path) -> None:
    _folder(tmp_path / "images")
    build_small(tmp_path / "s", str(tmp_path / "images"), only=(), on_error="skip")
    (tmp_path / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(FormatError, match=r"0\.png cannot be read"):
        build_small(tmp_path / "s", None)
    assert committed_shards(StorePaths(tmp_path / "s").view_set("simclr")) == []
    assert build_small(tmp_path / "s", None, on_error="skip").failed_rows == [0]


def test_a_view_set_that_reads_no_source_needs_none(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "i.npz")
    build_small(tmp_path / "s", source)
    Path(source).unlink()
    assert build(
        BuildRequest(generator="cutmix", settings={"of": "simclr"}, out=tmp_path / "s", workers=1)
    ).manifest


def test_another_torch_is_warned_of_and_builds(
    planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.metadata.version("torch")
    other_version(monkeypatch, "torch")
    said = Said()
    request = BuildRequest(generator="embed", out=planned, workers=1, shard_rows=None)
    assert build(request, said).manifest is not None
    (warning,) = (each for each in said.warnings if "torch" in each)
    assert f"{HOST} has torch 0.1" in warning
    assert there in warning
    # so it is where the settings are resolved anew
    source = str(planned.parent / "images")
    assert build(BuildRequest(generator="embed", out=planned, source=source, workers=1)).left == 0


class Parts:
    """Stands in for a reader of a source of many parts."""

    def __init__(self, parts: int, rows: int) -> None:
        self.table = self
        self.part = np.repeat(np.arange(parts, dtype=np.uint32), rows)
        self.read_rows: list[int] = []

    def read(self, row: int) -> bytes:
        self.read_rows.append(row)
        return b""


@pytest.mark.parametrize(
    ("parts", "expected"), [(1, [0]), (3, [0, 5, 10]), (16, list(range(0, 80, 5)))]
)
def test_one_image_of_every_part_is_read(parts: int, expected: list[int]) -> None:
    reader: Any = Parts(parts, 5)
    check_source(reader, "fail")
    assert reader.read_rows == expected


def test_of_many_parts_some_are_read_from_the_first_to_the_last() -> None:
    reader: Any = Parts(1000, 2)
    check_source(reader, "fail")
    assert len(set(reader.read_rows)) == MOST_PARTS
    assert (min(reader.read_rows), max(reader.read_rows)) == (0, 1998)
