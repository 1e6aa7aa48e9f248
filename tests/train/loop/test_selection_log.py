"""The selection log: what is kept of each step, by epochs, whatever interrupts the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.selections import BATCH, EPOCH_STEPS, PAIRS, SOURCE, VIEWS, log_steps, step_of
from viewstore.errors import CheckpointError, FormatError
from viewstore.train.loop.selection_log import SelectionLog, selection_files
from viewstore.train.overlap import pairwise_iou
from viewstore.train.selection_file import load_selections

END = 3 * EPOCH_STEPS


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in selection_files(folder)}


def test_a_file_has_the_steps_of_its_epoch(tmp_path: Path) -> None:
    log_steps(tmp_path, after=0, until=END, checkpoints=(END,))
    files = selection_files(tmp_path)
    assert [path.name for path in files] == [f"epoch-000{e}.safetensors" for e in range(3)]
    for epoch, path in enumerate(files):
        rows = load_selections(path)
        assert (rows.epoch, rows.source, rows.scorer) == (epoch, SOURCE, "")
        assert torch.equal(rows.pairs.long(), PAIRS)
        assert sorted(rows.params) == ["crop_box", "jitter_order", "solarize"]
        for number in range(EPOCH_STEPS):
            step = epoch * EPOCH_STEPS + number
            given, part = step_of(step), slice(number * BATCH, (number + 1) * BATCH)
            assert (rows.step[part] == step).all()
            assert torch.equal(rows.sample[part], given["sample"])
            assert torch.equal(rows.losses[part], given["losses"].T)
            assert torch.equal(rows.losses[part].argmax(1), rows.chosen[part])
            assert torch.equal(rows.selected[part].long(), PAIRS[given["chosen"]])
            for name, value in rows.params.items():
                wanted = torch.stack([each[name] for each in given["params"]], dim=1)
                assert torch.equal(value[part], wanted.to(value.dtype))
            boxes = torch.stack([each["crop_box"] for each in given["params"]], dim=1)
            assert boxes.shape == (BATCH, VIEWS, 4)
            assert rows.iou is not None
            assert torch.equal(rows.iou[part], pairwise_iou(boxes))


@settings(deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.integers(0, END), max_size=4),
    checkpoints=st.sets(st.integers(1, END - 1), max_size=4),
)
def test_an_interrupted_log_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], checkpoints: set[int]
) -> None:
    """Each cut kills the run after so many steps; it goes on from the checkpoint before."""
    folder = tmp_path_factory.mktemp("log")
    log_steps(folder / "whole", after=0, until=END, checkpoints=(END,))
    written = tuple(sorted(checkpoints | {END}))
    after = 0
    for cut in sorted(cuts):
        log_steps(folder / "cut", after=after, until=cut, checkpoints=written)
        after = max([0, *(each for each in written if each <= cut)])
    log_steps(folder / "cut", after=after, until=END, checkpoints=written)
    assert contents(folder / "cut") == contents(folder / "whole")


def test_what_a_dead_run_logged_is_dropped_by_a_new_one(tmp_path: Path) -> None:
    log_steps(tmp_path, after=0, until=END, checkpoints=(END,))
    SelectionLog(tmp_path, source=SOURCE, step=EPOCH_STEPS + 1)
    kept = [load_selections(path) for path in selection_files(tmp_path)]
    assert [each.step.max().item() for each in kept] == [EPOCH_STEPS - 1, EPOCH_STEPS]
    SelectionLog(tmp_path, source=SOURCE, step=0)
    assert selection_files(tmp_path) == []


def test_more_slots_than_a_pair_may_be_selected_and_boxes_may_be_absent(tmp_path: Path) -> None:
    log = SelectionLog(tmp_path, source=SOURCE, step=0, scorer="cd" * 32)
    selected = torch.arange(BATCH * 2 * VIEWS).reshape(BATCH, -1) % VIEWS
    step = step_of(0)
    views = [{"jitter_order": each["jitter_order"]} for each in step["params"]]
    views[0]["crop_box"] = step["params"][0]["crop_box"]  # only one view has a box
    log.add(**{**step, "params": views}, selected=selected)
    log.flush()
    rows = load_selections(selection_files(tmp_path)[0])
    assert torch.equal(rows.selected.long(), selected)
    assert (rows.iou, sorted(rows.params), rows.scorer) == (None, ["jitter_order"], "cd" * 32)


def test_steps_of_an_epoch_have_one_form(tmp_path: Path) -> None:
    log = SelectionLog(tmp_path, source=SOURCE, step=0)
    log.add(**step_of(0))
    log.add(**{**step_of(1), "pairs": PAIRS.flip(1)})
    with pytest.raises(FormatError, match="the same pairs and params"):
        log.flush()


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    log_steps(tmp_path, after=0, until=1, checkpoints=(1,))
    path = selection_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        SelectionLog(tmp_path, source=SOURCE, step=1)
