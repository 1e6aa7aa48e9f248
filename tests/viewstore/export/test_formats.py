"""What every exporter must do: each row of FORMATS is tested in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.viewstore.commands import invoke
from tests.viewstore.small_stores import ROWS
from viewstore.errors import ConfigError
from viewstore.export.formats import FORMATS
from viewstore.export.selection import Exported, are_whole, select
from viewstore.files import disk
from viewstore.progress import Fact, Silent
from viewstore.store.store import Store


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
            FORMATS[name].export(select(raw_store), out)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.read_text() for path in (tmp_path / "folder").iterdir()] == ["mine"]


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
