"""The controls of hard views, on the same candidates."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.train.strategies.small import (
    CROPS,
    EXPERTS,
    SIZE,
    Clustered,
    Distilling,
    at_step,
    moco,
    simsiam,
    traits,
    views_of_roles,
)
from viewstore.errors import ConfigError
from viewstore.train.methods.base import Method
from viewstore.train.plan import Plan
from viewstore.train.strategies.base import Slot, Strategy
from viewstore.train.strategies.candidates import CandidateChooser
from viewstore.train.strategies.controls import Cooperative, MinIoU, Random
from viewstore.train.strategies.hvp import HVP
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import Views

PAIRS = list(itertools.combinations(range(4), 2))


def boxed(*roles: str, samples: int = 40) -> Views:
    generator = torch.Generator().manual_seed(3)
    params = [
        {"crop_box": torch.randint(1, 12, (samples, 4), generator=generator).float()} for _ in roles
    ]
    return views_of_roles(*roles, samples=samples, params=params)


def selected(plan: Plan) -> list[tuple[int, ...]]:
    return [tuple(row) for row in plan.log["selected"].tolist()]


def test_names_are_rows_of_the_table() -> None:
    for kind in (HVP, Cooperative, Random, MinIoU):
        assert strategy_of(kind.NAME, {"n_views": 6}) == Strategy(kind(n_views=6))


@pytest.mark.parametrize("method", [simsiam(), moco()])
def test_cooperative_chooses_the_least_of_the_same_table(method: Method) -> None:
    views = boxed(*EXPERTS)
    hard, easy = HVP().plan(views, method), Cooperative().plan(views, method)
    assert easy.log["losses"].equal(hard.log["losses"])
    assert easy.log["chosen"].equal(hard.log["losses"].argmin(0))
    assert not easy.log["chosen"].equal(hard.log["chosen"])


@pytest.mark.parametrize("search", ["exact", "sampled"])
def test_cooperative_crops_are_the_least_of_all_combinations(search: str) -> None:
    method, views = Distilling(), boxed(*CROPS)
    easy = Cooperative(search=search, limit=0).plan(views, method)  # type: ignore[arg-type]
    hard = HVP(search=search, limit=0).plan(views, method)  # type: ignore[arg-type]
    assert (easy.log["losses"] < hard.log["losses"]).all()
    assert easy.log["chosen"].equal(easy.log["losses"].argmin(0))


def iou(first: Tensor, second: Tensor) -> float:
    (ya, xa, ha, wa), (yb, xb, hb, wb) = first.tolist(), second.tolist()
    height = max(0, min(ya + ha, yb + hb) - max(ya, yb))
    width = max(0, min(xa + wa, xb + wb) - max(xa, xb))
    return float(height * width / (ha * wa + hb * wb - height * width))


def test_min_iou_is_the_first_least_overlap_and_needs_no_forward() -> None:
    method, views = simsiam(), boxed(*EXPERTS)
    plan = MinIoU().plan(views, method)
    ties = 0
    for sample, pair in enumerate(selected(plan)):
        overlap = [
            iou(*(views.params[view]["crop_box"][sample] for view in each)) for each in PAIRS
        ]
        assert pair == PAIRS[overlap.index(min(overlap))]
        ties += overlap.count(min(overlap)) > 1
    assert ties > 0
    assert method.forwards == 0
    assert plan.log["min_iou"].all()
    assert "losses" not in plan.log


def test_min_iou_needs_boxes() -> None:
    slots = [Slot("expert", SIZE, frozenset(["flip"]), -1, "simclr")] * 4
    with pytest.raises(ConfigError, match="min_iou reads the column crop_box, which simclr lacks"):
        Strategy(MinIoU()).check(traits("none"), slots)


@pytest.mark.parametrize("kind", [Random, MinIoU])
def test_controls_without_a_model_take_every_method_that_trains_on_pairs(
    kind: type[CandidateChooser],
) -> None:
    slots = [Slot("expert", SIZE, frozenset(["crop_box"]))] * 4
    for target in ("none", "stopgrad", "ema", "prototype"):
        Strategy(kind()).check(traits(target), slots)
    assert Clustered()(kind().plan(boxed(*EXPERTS), Clustered())).loss.isfinite()


@pytest.mark.parametrize("kind", [Random, MinIoU])
def test_of_crops_the_globals_are_chosen(kind: type[CandidateChooser]) -> None:
    plan = kind().plan(boxed(*CROPS), Distilling())
    found = set(selected(plan))
    assert found == {(a, b, 4, 5, 6) for a in (0, 2) for b in (1, 3)}
    assert len(plan.targets) == 2


def test_random_pairs_are_equally_frequent_and_keyed_by_sample() -> None:
    views = views_of_roles(*EXPERTS, samples=3000)
    method = simsiam()
    pairs = selected(Random().plan(views, method))
    counts = Counter(pairs)
    assert set(counts) == set(PAIRS)
    # 500 of each are expected, with a standard deviation of 20.
    assert max(abs(count - 500) for count in counts.values()) < 90
    turned = replace(views, sample=views.sample.flip(0))
    assert selected(Random().plan(turned, method)) == pairs[::-1]
    later = replace(views, at=at_step(0, epoch=1))
    assert selected(Random().plan(later, method)) != pairs
    assert method.forwards == 0


@pytest.mark.parametrize("kind", [Random, MinIoU, Cooperative])
def test_controls_change_nothing(kind: type[CandidateChooser]) -> None:
    method = moco()
    before = [value.clone() for value in method.state_dict().values()]
    state = torch.get_rng_state()
    kind().plan(boxed(*EXPERTS), method)
    assert all(map(torch.equal, before, method.state_dict().values()))
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("kind", [Random, MinIoU, Cooperative])
def test_controls_choose_every_so_many_steps(kind: type[CandidateChooser]) -> None:
    chooser = kind(every=2)
    assert chooser.wants(EXPERTS, 4) is None
    assert chooser.wants(EXPERTS, 5) == (0, 1)
    plan = chooser.plan(replace(boxed(*EXPERTS), at=at_step(5)), simsiam())
    assert [row.view for row in plan.students] == [0, 1]
