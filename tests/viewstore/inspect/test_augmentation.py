"""Augment: recorded draws against their policy; planted faults are found, nothing else is."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.viewstore.pages import Page
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.draws import DrawnAnew, drawn_anew
from viewstore.format.columns import MADE
from viewstore.images.boxes import overlap
from viewstore.images.policies import policies
from viewstore.images.policy import Policy
from viewstore.inspect.augmentation import (
    FRESH,
    Check,
    Overlaps,
    Recorded,
    checks_of,
    headline,
)
from viewstore.inspect.distributions import ks_distance
from viewstore.inspect.pages.site import Site
from viewstore.randomness import Stream
from viewstore.store.store import Store, open_store

ROWS, VIEWS = 500, 4
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PolicyDraws:
    """Draws of a policy alone, for images of these sizes."""

    policy: Policy
    seed: int
    height: NDArray[Any]
    width: NDArray[Any]
    views: int = 2

    @property
    def policies(self) -> tuple[Mapping[str, Any], ...]:
        return (asdict(self.policy),) * self.views

    def again(self, rows: NDArray[np.int64]) -> Columns:
        return self._draw(rows, self.seed)

    def fresh(self, rows: NDArray[np.int64], turn: int) -> Columns:
        return self._draw(rows, self.seed + 10_000 * (turn + 1))

    def _draw(self, rows: NDArray[np.int64], seed: int) -> Columns:
        stream = Stream.of_view_set(seed, "s", 1)
        sides = self.height[rows][:, None], self.width[rows][:, None]
        return self.policy.draw(stream, rows[:, None], np.arange(self.views), *sides)

    def recorded(self) -> Recorded:
        rows = np.arange(len(self.height))
        made = np.ones((len(rows), self.views), np.bool_)
        return Recorded(params=self.again(rows), made=made, height=self.height, width=self.width)


def draws_of(seed: int, *, rows: int = 400, policy: str = "simclr") -> PolicyDraws:
    """Return draws for photographs of three shapes."""
    (first, *_) = policies(policy)
    assert isinstance(first, Policy)
    height = np.resize([300, 500, 375], rows)
    width = np.resize([500, 333, 500], rows)
    return PolicyDraws(first, seed, height, width)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("augment")
    settings = {"views": VIEWS, "height": 16, "width": 16}
    source = write_npz(folder / "images.npz", rows=ROWS)
    build_small(folder / "s", source, settings=settings, codec="params", shard_rows=128)
    build_small(folder / "s", None, generator="quality", settings={"of": "simclr"}, shard_rows=None)
    return open_store(folder / "s")


@pytest.fixture(scope="module")
def replays(opened: Store) -> DrawnAnew:
    found = drawn_anew(opened, opened.view_sets["simclr"])
    assert found is not None
    return found


def recorded_of(store: Store, **changes: NDArray[Any]) -> Recorded:
    view_set = store.view_sets["simclr"]
    return Recorded(
        params={**view_set.params, **changes},
        made=np.isin(view_set.params["status"], MADE),
        height=store.table.height,
        width=store.table.width,
    )


def disagreeing(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.agrees}


def test_a_healthy_store_agrees_in_every_check(opened: Store, replays: DrawnAnew) -> None:
    checks = checks_of(recorded_of(opened), replays)
    assert headline(checks) == f"all {len(checks)} checks agree"
    names = {check.name for check in checks}
    assert names >= {"params drawn again", "boxes inside their image", "rate of flip", "crop area"}
    assert names >= {"rate of jitter", "rate of gray", "crop aspect", "brightness factor"}
    assert all(0 <= check.off <= 1 for check in checks)


def test_a_flip_rate_of_6_in_10_where_the_policy_says_5_is_found(
    opened: Store, replays: DrawnAnew
) -> None:
    flip = opened.view_sets["simclr"].params["flip"].copy()
    rng = np.random.Generator(np.random.Philox(5))
    flip[(flip == 0) & (rng.random(flip.shape) < 0.2)] = 1
    checks = checks_of(recorded_of(opened, flip=flip), replays)
    assert disagreeing(checks) == {"params drawn again", "rate of flip"}
    assert headline(checks) == f"2 of {len(checks)} checks disagree"
    assert not checks[0].agrees
    assert not checks[1].agrees
    assert "flip of" in checks[0].said


def test_two_boxes_that_changed_places_are_found(opened: Store, replays: DrawnAnew) -> None:
    boxes = opened.view_sets["simclr"].params["crop_box"].copy()
    boxes[0, [0, 1]] = boxes[0, [1, 0]]
    checks = checks_of(recorded_of(opened, crop_box=boxes), replays)
    assert disagreeing(checks) == {"params drawn again"}
    assert checks[0].rows == (0,)


def test_swapped_boxes_are_found_by_their_stored_overlaps_in_rows_that_nobody_draws_again(
    opened: Store, replays: DrawnAnew
) -> None:
    boxes = opened.view_sets["simclr"].params["crop_box"].copy()
    pairs = boxes.reshape(-1, 2, 4)  # two groups of two views
    iou = overlap(pairs[:, :, None], pairs[:, None]).astype(np.float32)
    iou[:, range(2), range(2)] = np.nan
    stored = Overlaps(stored=iou.reshape(-1, VIEWS, 2), targets=boxes.copy(), groups=2)
    healthy = replace(recorded_of(opened), overlaps={"hard": stored})
    assert not disagreeing(checks_of(healthy, replays))
    boxes[3, [0, 2]] = boxes[3, [2, 0]]
    swapped = recorded_of(opened, crop_box=boxes)
    for targets in (boxes, stored.targets):
        known = {"hard": replace(stored, targets=targets)}
        found = {c.name: c for c in checks_of(replace(swapped, overlaps=known), replays)}
        assert found["overlaps in hard"].rows == (3,)


def test_overlaps_with_the_views_of_another_set_are_computed_by_its_boxes() -> None:
    rng = np.random.Generator(np.random.Philox(6))
    boxes, others = (rng.uniform(1, 9, (5, views, 4)) for views in (8, 4))
    stored = np.empty((5, 8, 2))
    for view in range(8):
        for target in range(2):
            stored[:, view, target] = overlap(boxes[:, view], others[:, view // 4 * 2 + target])
    found = Overlaps(stored=stored, targets=others, groups=2).again(boxes, slice(0, 5))
    assert np.allclose(found, stored)


@pytest.mark.parametrize("column", ["blur", "crop_box", "flip", "gray", "jitter", "jitter_order"])
def test_a_column_shifted_by_a_row_is_found(opened: Store, replays: DrawnAnew, column: str) -> None:
    view_set = opened.view_sets["simclr"]
    shifted = np.roll(view_set.params[column], 1, axis=0)
    checks = checks_of(recorded_of(opened, **{column: shifted}), replays)
    changes = bool((shifted != view_set.params[column]).any())  # views this small have no blur
    assert ("params drawn again" in disagreeing(checks)) == changes
    assert changes or column == "blur"


def test_a_box_outside_its_image_is_found_wherever_it_is(opened: Store, replays: DrawnAnew) -> None:
    boxes = opened.view_sets["simclr"].params["crop_box"].copy()
    boxes[77, 2, 1] = 19
    boxes[77, 2, 3] = 5
    found = checks_of(recorded_of(opened, crop_box=boxes), replays)
    outside = next(check for check in found if check.name == "boxes inside their image")
    assert outside.rows == (77,)


def test_views_that_were_never_made_are_left_out(opened: Store, replays: DrawnAnew) -> None:
    flip = opened.view_sets["simclr"].params["flip"].copy()
    flip[:50] = 255
    recorded = recorded_of(opened, flip=flip)
    recorded.made[:50] = False
    assert not disagreeing(checks_of(recorded, replays))
    nothing = replace(recorded, made=np.zeros_like(recorded.made))
    assert headline(checks_of(nothing, replays)) == "no view was made, there is nothing to check"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("crop area", {"scale": (0.1, 1.0)}),
        ("brightness factor", {"jitter": (0.7, 0.8, 0.8, 0.2)}),
        ("blur sigma", {"sigma": (0.1, 1.8)}),
        ("rate of blur", {"blur": 0.6}),
        ("crop aspect", {"ratio": (0.85, 1 / 0.85)}),
    ],
)
def test_draws_of_another_policy_are_found_by_what_differs(
    name: str, change: Mapping[str, Any]
) -> None:
    draws = draws_of(3, rows=3000)
    other = replace(draws, policy=replace(draws.policy, **change))
    assert name in disagreeing(checks_of(other.recorded(), draws))


def test_25_healthy_policies_have_at_most_one_disagreement() -> None:
    flagged = [
        seed
        for seed in range(25)
        if disagreeing(checks_of(draws_of(seed).recorded(), draws_of(seed)))
    ]
    assert len(flagged) <= 1


def test_a_nominal_uniform_distribution_of_areas_would_blame_healthy_stores() -> None:
    """The trap: a box that does not fit is drawn again, so that large areas are rare."""
    draws = draws_of(1, rows=FRESH // 2)
    box = draws.recorded().params["crop_box"].astype(np.float64)
    area = (box[..., 2] * box[..., 3] / (draws.height * draws.width)[:, None]).reshape(-1)
    rng = np.random.Generator(np.random.Philox(2))
    nominal = rng.uniform(*draws.policy.scale, FRESH)
    assert ks_distance(area, nominal) > 0.05
    (found,) = [c for c in checks_of(draws.recorded(), draws) if c.name == "crop area"]
    assert found.agrees


def test_the_page_shows_the_numbers_of_its_json_and_absent_generators_have_no_tab(
    opened: Store,
) -> None:
    site = Site({"s": lambda: opened}, replays=drawn_anew)
    facts = json.loads(site.get("s", "augment", "view_set=simclr&format=json").body)
    assert facts["disagree"] == 0
    assert facts["level"] == pytest.approx(0.01 / len(facts["checks"]))
    page = Page(site.get("s", "augment", "view_set=simclr").body)
    assert facts["headline"].capitalize() in page.text
    assert all(check["said"] in page.text for check in facts["checks"])
    assert site.get("s", "augment", "view_set=quality").status == 404
    without = Site({"s": lambda: opened})
    assert without.get("s", "augment", "view_set=simclr").status == 404
    assert b">Augment<" not in without.get("s", "stats", "view_set=simclr").body
    assert b">Augment<" in site.get("s", "stats", "view_set=simclr").body


def test_a_generator_of_an_unknown_version_draws_nothing(opened: Store) -> None:
    view_set = copy.copy(opened.view_sets["simclr"])
    plan = view_set.plan
    for changed in ({"version": 99}, {"name": "nobody"}, {"args": {"unknown": 1}}):
        view_set.plan = replace(plan, generator={**plan.generator, **changed})
        assert drawn_anew(opened, view_set) is None
    view_set.plan = plan
    assert drawn_anew(opened, view_set) is not None


def test_views_of_networks_have_no_tab_and_nothing_imports_torch_for_it(searched: Path) -> None:
    script = (
        "import sys; from viewstore.build.draws import drawn_anew; "
        "from viewstore.store.store import open_store; store = open_store(sys.argv[1]); "
        "print([drawn_anew(store, each) for each in store.view_sets.values()], "
        "'torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(searched)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["[None,", "None]", "False"]


@pytest.mark.parametrize(
    ("generator", "settings"),
    [
        ("randaugment", {}),
        ("digits", {}),
        ("dino", {}),
        ("heavy", {"of": "simclr"}),
        ("heavy", {"of": "simclr", "chain": "byol"}),
    ],
)
def test_params_of_other_generators_are_drawn_again_too(
    tmp_path: Path, generator: str, settings: dict[str, Any]
) -> None:
    source = write_npz(tmp_path / "images.npz", rows=40)
    build_small(tmp_path / "s", source, codec="params")
    build_small(tmp_path / "s", None, generator=generator, codec="params", settings=settings)
    store = open_store(tmp_path / "s")
    view_set = store.view_sets[generator]
    found = drawn_anew(store, view_set)
    assert found is not None
    for name, values in found.again(np.arange(40)).items():
        assert np.array_equal(values, view_set.params[name], equal_nan=values.dtype.kind == "f")
    assert len(found.policies) == view_set.num_views


@pytest.mark.slow
def test_of_100_healthy_stores_at_most_3_are_flagged(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz", rows=300, side=72)
    flagged = []
    for seed in range(100):
        out = tmp_path / str(seed)
        settings = {"views": 4, "height": 64, "width": 64}
        build_small(out, source, settings=settings, codec="params", shard_rows=300, seed=seed)
        store = open_store(out)
        replays = drawn_anew(store, store.view_sets["simclr"])
        assert replays is not None
        if disagreeing(checks_of(recorded_of(store), replays)):
            flagged.append(seed)
    assert len(flagged) <= 3, flagged
