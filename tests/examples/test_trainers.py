"""The examples for Lightning, and for solo-learn, which builds on it."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.examples.conftest import EXAMPLES
from tests.examples.steps import check_learns, steps_of
from tests.examples.test_plain_pytorch import stop_after
from viewstore.loaders import ViewLoader

pytest.importorskip("lightning", reason="needs the extra lightning")

# What lightning itself warns of, under the versions it meets here.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:lightning")

SOLO = str(EXAMPLES / "solo_learn_style.py")


def test_lightning_learns_and_a_second_run_is_equal(run: Callable[..., str], store: str) -> None:
    printed = run("lightning_simclr", store, "run")
    check_learns(steps_of(printed), by=0.4)
    assert Path("run/last.ckpt").is_file()
    assert steps_of(run("lightning_simclr", store, "again")) == steps_of(printed)


def test_a_stopped_run_of_lightning_goes_on_from_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., str], store: str
) -> None:
    """Stopped after step 13 of 32; step 9, in the second epoch, was the last that was saved."""
    whole = steps_of(run("lightning_simclr", store, "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(TimeoutError):
            run("lightning_simclr", store, "stopped")
    resumed = steps_of(run("lightning_simclr", store, "stopped"))
    assert resumed == [*whole[:13], *whole[10:]]  # what both runs printed


def test_solo_learn_trains_the_contrast_and_the_classifier(
    run: Callable[..., str], store: str
) -> None:
    printed = run("solo_learn_style", store)
    check_learns(steps_of(printed), by=0.4)
    classes = [float(loss) for loss in re.findall(r"class (\S+)", printed)]
    assert sum(classes[-8:]) / 8 < sum(classes[:8]) / 8 - 0.3
    assert run("solo_learn_style", store) == printed


def test_solo_learn_takes_the_steps_of_the_plain_loop(run: Callable[..., str], store: str) -> None:
    """Up to rounding: it finds the partner of a row by its index."""
    plain = [loss for *_, loss in steps_of(run("plain_pytorch", store, "run.pt"))]
    solo = [loss for *_, loss in steps_of(run("solo_learn_style", store))]
    assert solo == pytest.approx(plain, abs=5e-3)


@pytest.mark.parametrize("views", ["near,near", "near,near,digits"])
def test_a_batch_has_the_form_that_solo_learn_expects(store: str, views: str) -> None:
    example = runpy.run_path(SOLO)
    data = example["SoloLearnData"](store, views, batch_size=64, seed=3)
    with ViewLoader(store, views, batch_size=64, seed=3) as loader:
        expected = next(iter(loader))
    batch = next(iter(data.train_dataloader()))
    indexes, crops, targets = data.on_after_batch_transfer(batch, 0)
    data.teardown("fit")
    assert indexes.equal(expected.index)
    assert targets.equal(expected.label)
    for crop, pixels in zip(crops, expected.normalised(), strict=True):
        assert (crop.dtype, crop.shape) == (torch.float32, (64, 3, 16, 16))
        assert torch.equal(crop, pixels)


def test_the_contrast_of_three_crops_is_that_of_the_equation() -> None:
    """As loops in float64: of each row with each of its two partners, against all other rows."""
    method = runpy.run_path(SOLO)["Method"](num_crops=3, num_classes=10, temperature=0.3)
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    rows = [row / row.norm() for row in z.double()]
    terms = []
    for i, anchor in enumerate(rows):
        scores = {k: float(anchor @ row) / 0.3 for k, row in enumerate(rows) if k != i}
        pool = math.log(sum(math.exp(score) for score in scores.values()))
        terms += [pool - score for k, score in scores.items() if k % 4 == i % 4]
    indexes = torch.tensor([40, 2, 31, 7]).repeat(3)
    assert float(method.contrast(z, indexes)) == pytest.approx(sum(terms) / 24, rel=1e-6)
