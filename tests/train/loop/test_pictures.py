"""The picture of a batch shows each view of each sample at its place, as it is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from viewstore.train.loop.pictures import (
    CAPTION,
    GAP,
    SAMPLES,
    SIDE,
    batch_picture,
    save_picture,
)

STEP = SIDE + GAP


def cell(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = CAPTION + row * STEP, column * STEP
    return picture[top : top + SIDE, left : left + SIDE]


def test_views_lie_in_lines_and_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 256, (9, 3, 16, 16), generator=generator, dtype=torch.uint8)
    gray = torch.randint(0, 256, (9, 1, 8, 8), generator=generator, dtype=torch.uint8)
    made = colour.float() + 0.4
    made[:, :, 0, 0] = 300.0
    picture = batch_picture([colour, gray, made], ["global", "local", "adversarial"])
    assert picture.shape == (CAPTION + SAMPLES * STEP - GAP, 3 * STEP - GAP, 3)
    for row in range(SAMPLES):
        whole = colour[row].permute(1, 2, 0).numpy()
        assert np.array_equal(cell(picture, row, 0), whole.repeat(6, 0).repeat(6, 1))
        small = gray[row, 0].numpy()[:, :, None].repeat(3, 2)
        assert np.array_equal(cell(picture, row, 1), small.repeat(12, 0).repeat(12, 1))
        last = cell(picture, row, 2)
        assert (last[:6, :6] == 255).all()
        assert np.array_equal(last[6:], cell(picture, row, 0)[6:])
    captions = [picture[:CAPTION, column * STEP : column * STEP + SIDE] for column in range(3)]
    assert all((each < 128).any() for each in captions)
    assert len({each.tobytes() for each in captions}) == 3


def test_large_views_and_few_samples() -> None:
    ramp = torch.linspace(0, 255, 224).expand(1, 3, 224, 224)
    picture = batch_picture([ramp], ["expert"])
    assert picture.shape == (CAPTION + SIDE, SIDE, 3)
    assert (np.diff(cell(picture, 0, 0)[50, :, 0].astype(int)) >= 0).all()


def test_the_file_is_the_picture(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    save_picture(tmp_path / "batch.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "batch.png")), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]
