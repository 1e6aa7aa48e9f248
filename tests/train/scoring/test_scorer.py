"""Scorers against loops from the papers in float64, one pair of one sample at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.scoring.made import SETTINGS, Plain, images, scorer_of, trained, unit
from tests.train.world import ROWS, at, make_method, same, snapshot
from viewstore.errors import ConfigError
from viewstore.images.masks import block_masks
from viewstore.randomness import Stream
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.scoring.scorer import MethodScorer
from viewstore.train.views import At

SAMPLES, VIEWS, BANK = 3, 3, 9
SAMPLE_ROWS = (11, 40, 2)  # the middle one is in the bank
BANK_ROWS = tuple(range(36, 36 + BANK))
PAIR_METHODS = [name for name in SETTINGS if name not in ("ibot", "deepcluster")]
CROP_METHODS = ("dino", "ibot")


def bank_images() -> Tensor:
    return images(BANK, seed=8)


def scored(scorer: MethodScorer, views: Tensor, rows: tuple[int, ...] = SAMPLE_ROWS) -> Tensor:
    """The table of a scorer that has its bank."""
    if scorer.needs_bank:
        scorer.remember(bank_images(), torch.tensor(BANK_ROWS))
    return scorer.pair_losses(views, torch.tensor(rows))


def contrast(plain: Plain, student: Tensor, target: Tensor, others: list[Tensor]) -> float:
    """-log of the share of the target among the target and others, in nats."""
    tau = plain.method.settings.temperature
    own = math.exp(float(student @ target) / tau)
    rest = sum(math.exp(float(student @ other) / tau) for other in others)
    return -math.log(own / (own + rest))


def oracle(name: str, plain: Plain, student: Tensor, target: Tensor, row: int) -> float:
    """The loss of a pair of images, straight from the paper of its method."""
    settings = plain.method.settings
    if name == "simclr":
        others = [
            unit(plain.z(image))
            for image, other in zip(bank_images(), BANK_ROWS, strict=True)
            if other != row
        ]
        pair = unit(plain.z(student)), unit(plain.z(target))
        return float(settings.loss_scale) * contrast(plain, *pair, others)
    if name.startswith("moco"):
        keys = list(plain.method.queue)
        return contrast(plain, unit(plain.z(student)), unit(plain.z(target, "target")), keys)
    if name in ("simsiam", "byol"):
        p = unit(plain.method.predictor(plain.z(student)[None])[0])
        goal = unit(plain.z(target, "student" if name == "simsiam" else "target"))
        return 2 - 2 * float(p @ goal)
    assert name == "dino"
    wanted = plain.method.teacher_prototypes(plain.z(target, "target"))
    share = ((wanted - plain.method.center) / settings.teacher_temperature).softmax(0)
    logits = plain.method.prototypes(plain.z(student)) / settings.temperature
    return -float((share * (logits - logits.logsumexp(0))).sum())


@pytest.mark.parametrize("name", PAIR_METHODS)
def test_pair_losses_are_those_of_a_loop_over_samples_and_pairs(name: str) -> None:
    scorer, views = scorer_of(name), images(SAMPLES, VIEWS)
    plain = Plain.of(scorer.method)
    table = scored(scorer, views)
    assert table.shape == (SAMPLES, VIEWS, VIEWS)
    for b, row in enumerate(SAMPLE_ROWS):
        for k in range(VIEWS):
            for m in range(VIEWS):
                if k == m:
                    assert table[b, k, m].isnan()
                    continue
                expected = oracle(name, plain, views[b, k], views[b, m], row)
                assert float(table[b, k, m]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_bank_is_without_the_sample_itself() -> None:
    """The sample in the bank has one negative less than another sample of the same views."""
    scorer, views = scorer_of("simclr"), images(1, 2).expand(2, -1, -1, -1, -1)
    own, other = scored(scorer, views, (40, 1))[:, 0, 1].tolist()
    assert own < other - 1e-3


def test_ibot_adds_the_patches_of_each_view() -> None:
    scorer, views = scorer_of("ibot"), images(SAMPLES, 2)
    plain = Plain.of(scorer.method, torch.float32)
    settings, method = plain.method.settings, plain.method
    table = scored(scorer, views)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in plain.normalisation)
    for b, row in enumerate(SAMPLE_ROWS):
        for k in range(2):
            masked = torch.from_numpy(
                block_masks(Stream(3, 0), torch.tensor([row]).numpy(), k, grid=(4, 4), ratio=0.4)[0]
            )
            image = ((views[b, k] - mean) / std)[None]
            seen = method.student.backbone.tokens(image, masked[None])[1][0]
            whole = method.teacher.backbone.tokens(image, None)[1][0]
            losses = []
            for place in masked.nonzero().flatten().tolist():
                goal = method.teacher_prototypes(method.teacher.projector(whole[place][None]))[0]
                share = ((goal - method.patch_center) / settings.patch_temperature_start).softmax(0)
                logits = method.prototypes(method.student.projector(seen[place][None]))[0]
                log = (logits / settings.temperature).log_softmax(0)
                losses.append(-float((share * log).sum()))
            expected = sum(losses) / len(losses)
            assert float(table[b, k, k]) == pytest.approx(expected, rel=1e-4)
    weights = {entry[:2]: float(entry.weight) for entry in scorer.entries}
    assert weights == {(0, 1): 0.5, (1, 0): 0.5, (0, 0): 0.35, (1, 1): 0.35}


def test_prototypes_score_each_view_alone_and_unknown_samples_not_at_all() -> None:
    scorer, views = scorer_of("deepcluster"), images(SAMPLES, 2)
    plain = Plain.of(scorer.method)
    method = plain.method
    table = scored(scorer, views, (11, 40, 5))
    assert table[2].isnan().all()
    assert table[:, [0, 1], [1, 0]].isnan().all()
    for b, row in enumerate((11, 40)):
        for k in range(2):
            z, losses = unit(plain.z(views[b, k])), []
            for head, prototypes in enumerate(method.prototypes.split([4, 3])):
                logits = prototypes @ z / method.settings.temperature
                label = int(method.assignments[head, row])
                losses.append(float(logits.logsumexp(0) - logits[label]))
            assert float(table[b, k, k]) == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert [entry.target for entry in scorer.entries] == [None, None]
    with pytest.raises(ConfigError, match="was trained on 64 images, the store has more"):
        scored(scorer, views, (11, 40, ROWS))


@pytest.mark.parametrize("name", CROP_METHODS)
def test_small_crops_are_scored_against_large_ones(name: str) -> None:
    scorer = scorer_of(name)
    large, small = images(SAMPLES, 2), images(SAMPLES, 4, seed=5, side=8)
    found = scorer.crop_losses(small, large, torch.tensor(SAMPLE_ROWS))
    assert found.shape == (SAMPLES, 4, 2)
    if name == "dino":
        plain = Plain.of(scorer.method)
        for b, row in enumerate(SAMPLE_ROWS):
            for s in range(4):
                expected = [oracle(name, plain, small[b, s], large[b, t], row) for t in (0, 1)]
                assert found[b, s].tolist() == pytest.approx(expected, rel=1e-4)
    entries = scorer.entries_beside(2)
    of_crops = {(s, t) for s, t, _ in entries if s >= 2}
    assert of_crops == {(s, t) for s in (2, 3) for t in (0, 1)}
    assert len({float(weight) for s, t, weight in entries if s != t}) == 1


@pytest.mark.parametrize("name", SETTINGS)
def test_a_score_is_that_of_its_sample_alone(name: str) -> None:
    """Company, order and views of other samples change nothing that is not rounding."""
    scorer, views = scorer_of(name), images(SAMPLES, VIEWS)
    together = scored(scorer, views)
    backwards = scored(scorer, views.flip(0), SAMPLE_ROWS[::-1]).flip(0)
    assert torch.allclose(together, backwards, rtol=1e-4, atol=1e-5, equal_nan=True)
    for b, row in enumerate(SAMPLE_ROWS):
        alone = scored(scorer, views[b : b + 1], (row,))
        assert torch.allclose(together[b : b + 1], alone, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "ibot"])
def test_the_loss_of_two_views_is_that_of_the_table_and_differentiable(name: str) -> None:
    scorer, views = scorer_of(name), images(SAMPLES, 2)
    table = scored(scorer, views)
    student = views[:, 0].clone().requires_grad_()
    losses = scorer.losses(student, views[:, 1], torch.tensor(SAMPLE_ROWS))
    expected = table[:, 0, 0 if name == "deepcluster" else 1]
    assert torch.allclose(losses, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_scoring_changes_nothing(name: str) -> None:
    scorer = scorer_of(name)
    before = snapshot(scorer.method)
    scored(scorer, images(SAMPLES, VIEWS))
    assert same(before, snapshot(scorer.method))
    assert not any(each.training for each in scorer.method.modules())


FORMS: dict[str, tuple[bool, bool, bool, bool]] = {  # directed, bank, crops, knows rows
    "simclr": (False, True, False, False),
    "simsiam": (False, False, False, False),
    "byol": (False, False, False, False),
    "moco": (True, False, False, False),
    "moco-both": (False, False, False, False),
    "dino": (False, False, True, False),
    "ibot": (False, False, True, False),
    "deepcluster": (False, False, False, True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_scorer_says_what_kind_it_is(name: str) -> None:
    scorer = scorer_of(name, step=7)
    found = (scorer.directed, scorer.needs_bank, scorer.crops, scorer.num_rows is not None)
    assert found == FORMS[name]
    assert scorer.step == 7
    assert scorer.entries_beside(0) == scorer.entries


def test_forwards_are_in_float32_whatever_a_run_trained_in() -> None:
    """Rounding of bfloat16 would be a hundred times that of the oracle's tolerance."""
    plain, method = trained("simsiam"), trained("simsiam")
    method.amp = torch.bfloat16
    tables = [
        scored(MethodScorer(each, at(2), num_rows=ROWS, input_size=None), images(SAMPLES, VIEWS))
        for each in (plain, method)
    ]
    assert torch.equal(tables[0].nan_to_num(), tables[1].nan_to_num())


def test_a_large_bank_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for at_once in (64, 2):
        monkeypatch.setattr("viewstore.train.scoring.scorer.AT_ONCE", at_once)
        tables.append(scored(scorer_of("simclr"), images(SAMPLES, VIEWS)))
    assert torch.allclose(tables[0], tables[1], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_loss_of_a_whole_batch_is_refused() -> None:
    method: Any = make_method(BarlowTwinsSettings())
    with pytest.raises(ConfigError, match="cannot be scored by barlow-twins") as caught:
        MethodScorer(method, At(0, 0, 1, 1, 0), num_rows=ROWS, input_size=None)
    assert "encoder.safetensors" in str(caught.value.fix)
