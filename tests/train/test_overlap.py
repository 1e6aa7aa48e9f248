"""Overlaps of crops: against painted pixels, numbers of a public implementation, and loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewstore.train.overlap import all_pairs, choice_facts, is_least, pairwise_iou

BOX = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))


def painted_iou(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    masks = []
    for top, left, height, width in (first, second):
        mask = np.zeros((20, 20), bool)
        mask[top : top + height, left : left + width] = True
        masks.append(mask)
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


@given(st.lists(st.tuples(BOX, BOX, BOX), min_size=1, max_size=5))
def test_overlaps_are_those_of_painted_pixels(boxes: list[tuple[tuple[int, ...], ...]]) -> None:
    found = pairwise_iou(torch.tensor(boxes))
    assert (found.shape, found.dtype) == ((len(boxes), 3), torch.float32)
    for row, views in enumerate(boxes):
        for number, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
            assert found[row, number].item() == np.float32(painted_iou(views[i], views[j]))


def test_overlaps_are_those_of_a_public_implementation(shared: Path) -> None:
    arrays = np.load(shared / "fixtures" / "ssl" / "crop_metrics_hvp.npz")
    boxes = torch.from_numpy(arrays["boxes_H_W_i_j_h_w"][..., 2:])
    np.testing.assert_allclose(pairwise_iou(boxes)[:, 0], arrays["iou"], rtol=1e-7, atol=1e-7)


def test_pairs_may_be_named() -> None:
    boxes = torch.tensor([[[0, 0, 4, 4], [0, 0, 4, 2], [2, 2, 4, 4.0]]])
    found = pairwise_iou(boxes, torch.tensor([[2, 0], [1, 0], [1, 1]]))
    torch.testing.assert_close(found, torch.tensor([[4 / 28, 0.5, 1.0]]))
    assert all_pairs(4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


VALUES = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=6), min_size=1, max_size=8
)


@given(VALUES, st.data())
def test_the_least_is_counted_in_both_ways(rows: list[list[float]], data: st.DataObject) -> None:
    chosen = [data.draw(st.integers(0, 5)) for _ in rows]
    values, numbers = torch.tensor(rows), torch.tensor(chosen)
    first = [row.index(min(row)) == pair for row, pair in zip(rows, chosen, strict=True)]
    tied = [row[pair] == min(row) for row, pair in zip(rows, chosen, strict=True)]
    assert is_least(values, numbers).tolist() == first
    assert is_least(values, numbers, ties=True).tolist() == tied
    facts = choice_facts(values, numbers)
    wanted = {
        "min_iou_share": np.mean(first),
        "min_iou_share_ties": np.mean(tied),
        "iou": np.mean([row[pair] for row, pair in zip(rows, chosen, strict=True)]),
        "iou_first_pair": np.mean([row[0] for row in rows]),
    }
    assert facts.keys() == wanted.keys()
    for name, value in facts.items():
        assert isinstance(value, Tensor)
        assert abs(value.item() - wanted[name]) < 1e-6
