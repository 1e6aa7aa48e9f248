"""SimSiam and BYOL against loops from the papers and numbers of public implementations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.methods.scores import random_rows, score_of, standard_plan
from tests.train.world import at, make_method, make_views, train_step
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method, MethodSettings
from viewstore.train.methods.byol import BYOL, BYOLSettings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.plan import Pair
from viewstore.train.strategies.table import strategy_of

EE = ("expert", "expert")
SETTINGS: dict[str, tuple[MethodSettings, bool]] = {  # with whether its score is 2 - 2 cos
    "simsiam cos": (SimSiamSettings(), False),
    "simsiam mse": (SimSiamSettings(scale="mse"), True),
    "byol sum": (BYOLSettings(), True),
    "byol half": (BYOLSettings(scale="half"), False),
}


def reduced(method: Method, p: Tensor, z: Tensor) -> Tensor:
    """The loss of the standard plan of two views with these embeddings, [2, B, D] each."""
    plan = standard_plan(method, make_views(EE, samples=p.shape[1]))
    return method.reduce({"p": p, "z": z}, {"z": z.detach()}, plan)


@pytest.fixture
def known(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "fixtures/ssl/simsiam_byol_dssl.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_simsiam_is_that_of_public_implementations(known: dict[str, Tensor]) -> None:
    method = make_method(SimSiamSettings())
    p, z = (torch.stack([known[f"{name}1"], known[f"{name}2"]]) for name in "pz")
    scores = [score_of(method, {"p": p}, {"z": z}, Pair(s, 1 - s)) for s in (0, 1)]
    close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
    per_sample = (scores[0].pull + scores[1].pull) / 2
    torch.testing.assert_close(per_sample, known["simsiam_per_sample"], **close)
    for name in (
        "simsiam_facebook",
        "simsiam_solo",
        "simsiam_patrickhua",
        "simsiam_patrickhua_original",
        "dssl_code_symmetric",
    ):
        torch.testing.assert_close(reduced(method, p, z), known[name], **close)


def test_the_terms_of_dssl_are_those_of_its_code(known: dict[str, Tensor]) -> None:
    """Rows 0, 1 are the standard views, 2, 3 the heavy ones made from them."""
    method = make_method(SimSiamSettings())
    names = ("1", "2", "1_hat", "2_hat")
    p, z = (torch.stack([known[f"{kind}{name}"] for name in names]) for kind in "pz")

    def term(*pairs: tuple[int, int]) -> Tensor:
        pulls = [score_of(method, {"p": p}, {"z": z}, Pair(*pair)).pull for pair in pairs]
        return torch.stack(pulls).mean()

    close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
    whole, one_way, reverse = term((0, 1), (1, 0)), term((2, 0), (3, 1)), term((0, 2), (1, 3))
    torch.testing.assert_close(one_way, known["dssl_code_one_way"], **close)
    torch.testing.assert_close(reverse, known["dssl_code_reverse"], **close)
    soft = whole + 0.9 * one_way + 0.1 * reverse
    torch.testing.assert_close(soft, known["dssl_cifar_code_soft0p1"], **close)
    for name in ("dssl_cifar_code_soft0", "dssl_imagenet_code"):
        torch.testing.assert_close(whole + one_way, known[name], **close)
    torch.testing.assert_close((whole + one_way) / 2, known["dssl_paper_algorithm1"], **close)


def test_byol_is_that_of_a_public_implementation(known: dict[str, Tensor]) -> None:
    p, z = (torch.stack([known[f"{name}1"], known[f"{name}2"]]) for name in "pz")
    close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
    byol = reduced(make_method(BYOLSettings()), p, z)
    torch.testing.assert_close(byol, known["byol_solo_sum"], **close)
    torch.testing.assert_close(byol, 4 + 4 * known["simsiam_facebook"], **close)
    half = reduced(make_method(BYOLSettings(scale="half")), p, z)
    torch.testing.assert_close(half, known["simsiam_facebook"], **close)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_scores_are_the_loop_of_the_paper(name: str) -> None:
    settings, squared = SETTINGS[name]
    p, z = random_rows(2)
    partner = torch.tensor([1, 2, 0, 3, 5, 6, 4])
    method = make_method(settings)
    for given in (None, partner):
        scores = score_of(method, {"p": p[None]}, {"z": z[None]}, Pair(0, 0, partner=given))
        for b in range(len(p)):
            goal = z[b if given is None else int(given[b])]
            cosine = float(p[b] @ goal / p[b].norm() / goal.norm())
            expected = 2 - 2 * cosine if squared else -cosine
            assert scores.cosine[b].item() == pytest.approx(cosine, rel=1e-12)
            assert scores.pull[b].item() == pytest.approx(expected, rel=1e-12)
        assert torch.equal(scores.push, torch.zeros_like(scores.pull))


@pytest.mark.parametrize("name", list(SETTINGS))
def test_more_views_keep_the_sum_of_the_weights(name: str) -> None:
    method = make_method(SETTINGS[name][0])
    whole = 2.0 if name == "byol sum" else 1.0
    for count in (2, 4):
        plan = standard_plan(method, make_views(("expert",) * count))
        orders = [(pair.student, pair.target) for pair in plan.pairs]
        assert sorted(orders) == [(s, t) for s in range(count) for t in range(count) if s != t]
        assert {pair.weight for pair in plan.pairs} == {whole / len(orders)}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_no_gradient_enters_a_target(name: str) -> None:
    method = make_method(SETTINGS[name][0])
    embedded = method(standard_plan(method, make_views(EE)))
    assert embedded.student["p"].requires_grad
    assert not embedded.target["z"].requires_grad
    assert ("p" in embedded.target) == name.startswith("simsiam")


@pytest.mark.parametrize("fixed", [True, False])
def test_the_predictor_of_simsiam_is_a_group_of_its_own(fixed: bool) -> None:
    method = make_method(SimSiamSettings(fix_pred_lr=fixed))
    predictor = {id(each) for each in method.get_submodule("predictor").parameters()}
    found = set()
    for group in method.groups():
        assert group.decay  # the source decays all parameters
        of_predictor = {id(each) in predictor for each in group.parameters}
        assert of_predictor == {group.fixed_lr} if fixed else not group.fixed_lr
        found |= {id(each) for each in group.parameters}
    assert predictor < found


def test_the_teacher_of_byol_starts_as_the_student_and_follows_it() -> None:
    method = make_method(BYOLSettings(momentum=0.9, momentum_schedule="constant"))
    assert isinstance(method, BYOL)
    before = [each.clone() for each in method.teacher.parameters()]
    assert all(map(torch.equal, before, method.student.parameters()))
    train_step(method, strategy_of("standard", {}), make_views(EE))
    after = zip(before, method.student.parameters(), method.teacher.parameters(), strict=True)
    for old, trained, averaged in after:
        torch.testing.assert_close(averaged, 0.9 * old + 0.1 * trained, rtol=1e-6, atol=1e-7)
    assert not any(each.requires_grad for each in method.teacher.parameters())


def test_the_momentum_of_byol_rises_to_1_along_half_a_cosine() -> None:
    method = make_method(BYOLSettings(momentum=0.9))
    assert isinstance(method, BYOL)
    shares = [method.momentum(at(step, total_steps=10)) for step in (0, 5, 10)]
    assert shares == pytest.approx([0.9, 0.95, 1.0])
    constant = make_method(BYOLSettings(momentum=0.99, momentum_schedule="constant"))
    assert isinstance(constant, BYOL)
    assert constant.momentum(at(10)) == 0.99


def test_a_training_forward_of_byol_moves_statistics_of_both_nets_alone() -> None:
    method = make_method(BYOLSettings())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(standard_plan(method, make_views(EE)))
    after = method.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if "running_" in name or "num_batches" in name}
    assert {name.partition(".")[0] for name in moved} == {"student", "teacher", "predictor"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimSiamSettings(scale="sum"), "scale must be cos or mse, got 'sum'"),
        (lambda: SimSiamSettings(predictor_hidden=0), "predictor_hidden must be at least 1, got 0"),
        (lambda: BYOLSettings(scale="cos"), "scale must be sum or half, got 'cos'"),
        (lambda: BYOLSettings(predictor_hidden=0), "predictor_hidden must be at least 1, got 0"),
        (lambda: BYOLSettings(momentum=1.5), r"momentum must be in \[0, 1\], got 1.5"),
        (
            lambda: BYOLSettings(momentum_schedule="linear"),
            "momentum_schedule must be cosine or constant, got 'linear'",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
