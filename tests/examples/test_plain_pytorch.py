"""The loop in plain PyTorch, and lightly's, which trains on the very same batches."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import viewstore
from tests.examples.conftest import EXAMPLES
from tests.examples.steps import check_learns, steps_of
from viewstore.loaders import ViewLoader

LIGHTLY = str(EXAMPLES / "lightly_style.py")


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Have an optimizer fail after a number of steps, as if the job was killed."""
    step, taken = torch.optim.AdamW.step, []

    def counted(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        if len(taken) == steps:
            raise TimeoutError
        taken.append(1)
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)


@pytest.fixture
def printed(run: Callable[..., str], store: str) -> str:
    """What the loop in plain PyTorch prints if nothing stops it."""
    return run("plain_pytorch", store, "whole.pt")


def test_it_learns_and_a_second_run_is_equal(
    run: Callable[..., str], store: str, printed: str
) -> None:
    check_learns(steps_of(printed), by=0.4)
    assert run("plain_pytorch", store, "again.pt") == printed


@pytest.mark.parametrize(("stop", "saved"), [(3, 0), (7, 5), (14, 13), (31, 29)])
def test_a_stopped_run_goes_on_with_the_steps_that_would_have_come(
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., str],
    store: str,
    printed: str,
    stop: int,
    saved: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        with pytest.raises(TimeoutError):
            run("plain_pytorch", store, "stopped.pt")
    steps = printed.splitlines()
    both = run("plain_pytorch", store, "stopped.pt").splitlines()
    assert both == [*steps[:stop], *steps[saved:]]


def test_it_has_less_than_sixty_lines() -> None:
    assert len((EXAMPLES / "plain_pytorch.py").read_text().splitlines()) < 60


def test_the_loop_of_lightly_takes_the_same_steps(
    run: Callable[..., str], store: str, printed: str
) -> None:
    assert run("lightly_style", store) == printed


def test_a_batch_has_the_form_that_lightly_expects(store: str) -> None:
    opened = viewstore.open(store)
    form = runpy.run_path(LIGHTLY)["LightlyBatches"]
    with ViewLoader(store, "near,near", batch_size=64, seed=3) as loader:
        batches = form(loader, list(opened.keys))
        assert len(batches) == 8
        found = list(batches)
    with ViewLoader(store, "near,near", batch_size=64, seed=3) as loader:
        for (views, targets, filenames), batch in zip(found, loader, strict=True):
            for view, expected in zip(views, batch.normalised(), strict=True):
                assert (view.dtype, view.shape) == (torch.float32, (64, 3, 16, 16))
                assert torch.equal(view, expected)
            assert filenames == [opened.keys[row] for row in batch.index.tolist()]
            assert targets.tolist() == [int(opened.labels[row]) for row in batch.index.tolist()]


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Equation 1 of arXiv:2002.05709 as loops in float64."""
    rows = [row / row.norm() for row in torch.cat([first, second]).double()]
    total = 0.0
    for i, anchor in enumerate(rows):
        partner = (i + len(first)) % len(rows)
        cosines = {k: float(anchor @ row) for k, row in enumerate(rows) if k != i}
        pool = sum(math.exp(cosine / temperature) for cosine in cosines.values())
        total += math.log(pool) - cosines[partner] / temperature
    return total / len(rows)


def test_its_losses_are_those_of_the_equation() -> None:
    first, second = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    ours = runpy.run_path(LIGHTLY)["NTXentLoss"](0.3)
    plain = runpy.run_path(str(EXAMPLES / "plain_pytorch.py"))["nt_xent"]
    assert float(ours(first, second)) == pytest.approx(nt_xent(first, second, 0.3), rel=1e-6)
    assert float(plain(first, second, 0.3)) == pytest.approx(nt_xent(first, second, 0.3), rel=1e-6)


def test_lightlys_own_loss_fits_and_is_equal(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        from lightly.loss import NTXentLoss
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises the latter
        pytest.skip(f"needs lightly: {error}")
    example = runpy.run_path(LIGHTLY)
    losses = []
    for criterion in (example["NTXentLoss"](), NTXentLoss()):
        with ViewLoader(store, "near,near", batch_size=64, seed=0) as loader:
            example["train"](example["LightlyBatches"](loader, [""] * 512), criterion)
        losses.append([loss for *_, loss in steps_of(capsys.readouterr().out)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)
