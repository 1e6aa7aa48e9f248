"""The file of an epoch of choices: read back as written, and refused where it is damaged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.selections import PAIRS, log_steps
from viewstore.errors import CheckpointError, FormatError
from viewstore.files.tensors import write_with_config
from viewstore.train.selection_file import Selections, load_selections, save_selections


@pytest.fixture
def rows(tmp_path: Path) -> Selections:
    log_steps(tmp_path, after=0, until=3, checkpoints=(3,))
    return load_selections(tmp_path / "selection" / "epoch-0000.safetensors")


def test_a_file_is_read_as_it_was_written(rows: Selections, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_selections(path, rows)
    again = load_selections(path)
    for each in fields(rows):
        value, other = getattr(rows, each.name), getattr(again, each.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, other), each.name
        elif each.name != "params":
            assert value == other
    assert rows.params.keys() == again.params.keys()
    assert all(torch.equal(value, again.params[name]) for name, value in rows.params.items())
    save_selections(tmp_path / "two.safetensors", again)
    assert path.read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_rows_of_all_steps_or_of_the_first(rows: Selections) -> None:
    assert (len(rows), len(rows.before(0)), len(rows.before(2))) == (12, 0, 8)
    rest = replace(
        rows,
        **{
            name: getattr(rows, name)[8:]
            for name in ("step", "sample", "losses", "chosen", "selected", "iou")
        },
        params={name: value[8:] for name, value in rows.params.items()},
    )
    assert torch.equal(rows.before(2).followed_by(rest).losses, rows.losses)
    with pytest.raises(FormatError, match="the same pairs and params"):
        rows.followed_by(replace(rest, params={}))
    with pytest.raises(FormatError, match="the same pairs and params"):
        rows.followed_by(replace(rest, pairs=rest.pairs.flip(1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": torch.full((12,), 3)}, "chose pair 3 of 3"),
        ({"chosen": torch.full((12,), -1)}, "chosen of a selection must not be negative"),
        ({"sample": torch.full((12,), -5)}, "sample of a selection must not be negative"),
        ({"losses": torch.zeros(12, 2)}, r"losses of a selection must be torch.float32 \[12, 3\]"),
        ({"losses": torch.zeros(12, 3).half()}, "losses of a selection must be"),
        ({"step": torch.zeros(11, dtype=torch.int64)}, "selection must be"),
        ({"iou": torch.zeros(3)}, "iou of a selection must be"),
        ({"selected": torch.zeros(12, dtype=torch.uint8)}, "selected of a selection must be"),
        ({"params": {"flip": torch.zeros(12)}}, r"params flip of a selection must be \[12, V"),
    ],
)
def test_what_contradicts_itself_is_refused(
    rows: Selections, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        replace(rows, **change)


def test_a_damaged_file_is_refused(rows: Selections, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    good: dict[str, Any] = {"epoch": 0, "source": "", "scorer": ""}
    tensors = {
        name: getattr(rows, name)
        for name in ("pairs", "step", "sample", "losses", "chosen", "selected")
    }
    write_with_config(path, "selection", tensors, good)
    assert len(load_selections(path)) == 12
    for other, config in (
        ({name: value for name, value in tensors.items() if name != "losses"}, good),
        ({**tensors, "more": tensors["step"]}, good),
        ({**tensors, "epoch": tensors["step"]}, good),
        ({**tensors, "chosen": tensors["chosen"] + len(PAIRS)}, good),
        (tensors, {**good, "epoch": "0"}),
        (tensors, {"epoch": 0}),
    ):
        write_with_config(path, "selection", other, config)
        with pytest.raises(CheckpointError, match="selection file is damaged") as caught:
            load_selections(path)
        assert caught.value.where == str(path)
    write_with_config(path, "encoder", tensors, good)
    with pytest.raises(CheckpointError, match="not a viewstore selection file"):
        load_selections(path)
