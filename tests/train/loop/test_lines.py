"""Files of lines: a run that is stopped anywhere and goes on leaves those of one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.errors import FormatError
from viewstore.train.loop.lines import CURVE, Curve, Table

COLUMNS = ("loss", "lr")


def write(folder: Path, *, after: int, until: int) -> None:
    """Go on after step `after` up to step `until`, with a reading every third step."""
    curve = Curve(folder, step=after)
    table = Table(folder / "metrics.csv", COLUMNS, step=after)
    for step in range(after + 1, until + 1):
        table.append(step, {"loss": step / 7, "lr": 0.1})
        if step % 3 == 0:
            curve.append({"epoch": step // 6, "step": step, "knn": 1 / step})


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in (CURVE, "metrics.csv")]


@settings(deadline=None, max_examples=25)  # every line is synced
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 30))
def test_interrupted_files_equal_uninterrupted_ones(
    tmp_path_factory: pytest.TempPathFactory, kept: int, lost: int, torn: int
) -> None:
    """It stops `lost` steps after its last checkpoint, with the last line cut short."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "whole", after=0, until=13)
    write(folder / "cut", after=0, until=kept + lost)
    for name in (CURVE, "metrics.csv"):
        with (folder / "cut" / name).open("ab") as file:
            file.write(b'{"epoch": 3, "step": 23, "knn": 0.1'[:torn])
    write(folder / "cut", after=kept, until=13)
    assert contents(folder / "cut") == contents(folder / "whole")


def test_lines_are_what_other_tools_read(tmp_path: Path) -> None:
    write(tmp_path, after=0, until=4)
    Curve(tmp_path, step=4).append({"step": 4, "knn": float("nan")})
    lines = (tmp_path / CURVE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 0, "step": 3, "knn": 1 / 3},
        {"step": 4, "knn": None},
    ]
    table = Table(tmp_path / "metrics.csv", COLUMNS, step=4)
    table.append(5, {"lr": 0.5, "other": 3})
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert (rows[0], rows[4], rows[5]) == ("step,loss,lr", f"4,{4 / 7!r},0.1", "5,,0.5")


def test_a_new_run_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, after=0, until=9)
    write(tmp_path, after=0, until=3)
    write(tmp_path / "fresh", after=0, until=3)
    assert contents(tmp_path) == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    "line", [b"{}\n", b"no JSON\n", b'{"step": -1}\n', b'{"step": 1.5}\n', b'{"step": true}\n']
)
def test_a_line_that_is_no_reading_is_refused_and_kept(tmp_path: Path, line: bytes) -> None:
    (tmp_path / CURVE).write_bytes(line)
    with pytest.raises(FormatError) as caught:
        Curve(tmp_path, step=0)
    assert caught.value.where == str(tmp_path / CURVE)
    assert (tmp_path / CURVE).read_bytes() == line


@pytest.mark.parametrize(
    "content",
    [
        b"step,loss\n",
        b"other\n",
        b"step,loss,lr\nx,1,2\n",
        b"step,loss,lr\n%b\n" % (b"9" * 5000),
    ],
)
def test_another_table_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        Table(path, COLUMNS, step=0)
    assert "train into another --out" in str(caught.value.fix)
    assert path.read_bytes() == content
