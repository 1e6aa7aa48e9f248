"""Hard sets of real stores: against loops over samples and pairs, and what goes wrong."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.conformance.generator_rows import pictures, stored_views
from tests.generators.latent_world import FixedParams, FixedPlan, FixedViewSet, world_on
from tests.generators.scored.encoders import write_encoder
from tests.train.scoring.made import FRAME, UNKNOWN, scorer_of, write_checkpoint
from tests.viewstore.small_stores import ROWS, build_small, write_npz, write_photographs
from viewstore.build.repair import repair, take_mended_images, withdraw
from viewstore.build.roles import load_model
from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.format.columns import Column
from viewstore.format.paths import StorePaths
from viewstore.generators.contract import Sample
from viewstore.generators.scored.hard import Hard
from viewstore.progress import Silent
from viewstore.randomness import Op, Stream
from viewstore.store.column_content import meaning_faults
from viewstore.store.committed import committed_shards
from viewstore.store.sample_views import StoredViews
from viewstore.store.store import open_store
from viewstore.store.verify import verify
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.overlap import pairwise_iou

VIEWS, BANK = 4, 6
CHOICES = ("selected", "easiest", "random", "min_iou")
SCORERS = ("simclr", "simsiam", "moco-v2", "deepcluster-v2", "dino", "encoder")


@dataclass(frozen=True)
class WithRoles(FixedViewSet):
    """Crops in memory, all of one role."""

    role: str = "global"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,) * self.pixels.shape[1]


def hard(store: Path, of: str, scorer: Path, name: str, **changes: Any) -> Any:  # noqa: ANN401
    """Build a hard set."""
    settings = {"of": of, "slots": 3, "bank": BANK} | changes.pop("settings", {})
    request: dict[str, Any] = {"files": {"scorer": scorer}, "shard_rows": None} | changes
    return build_small(store, None, generator="hard", view_set=name, settings=settings, **request)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of candidates and of crops, and a file of each scorer. Nobody changes it."""
    folder = tmp_path_factory.mktemp("hard")
    source, store = write_npz(folder / "images.npz"), folder / "s"
    sizes = {"height": 16, "width": 16}
    build_small(store, source, view_set="four", settings={"views": VIEWS, **sizes})
    for name, views, side in (("dino", 4, 16), ("dino-local", 6, 8)):
        settings = {"views": views, "height": side, "width": side}
        build_small(store, source, generator=name, view_set=name, settings=settings)
    for name in SCORERS:
        if name == "encoder":
            write_encoder(
                folder / "encoder", np.concatenate(list(open_store(store).view_sets["four"]))
            )
        else:
            write_checkpoint(folder / name, name)
    hard(store, "four", folder / "simsiam", "hard")
    return folder


def scores_of(
    world: Path, scorer: str, of: str, name: str
) -> dict[int, dict[tuple[int, ...], float]]:
    """The score of each pair of views of each row, one sample at a time."""
    store = open_store(world / "s")
    network, views = load_model("scorer", world / scorer), store.view_sets[of]
    if network.needs_bank:
        words = Stream.of_view_set(0, name).seed_word(np.arange(ROWS), 0)
        bank = sorted(np.argsort(words)[:BANK].tolist())
        first = np.stack([views[row][0] for row in bank])
        network.remember(torch.tensor(first).permute(0, 3, 1, 2) / 255, torch.tensor(bank))
    found = {}
    for row in range(ROWS):
        images = torch.tensor(views[row]).permute(0, 3, 1, 2)[None] / 255
        table = network.pair_losses(images, torch.tensor([row]))[0].double()
        every = itertools.permutations if network.directed else itertools.combinations
        of_row = {}
        for pair in every(range(views.num_views), 2):
            total = 0.0
            for student, target, weight in network.entries:
                seen = pair[student if target is None else target]
                total += weight * float(table[pair[student], seen])
            of_row[pair] = total
        found[row] = of_row
    return found


@pytest.mark.parametrize("scorer", SCORERS)
def test_choices_are_those_of_a_loop_over_samples_and_pairs(world: Path, scorer: str) -> None:
    name = f"by-{scorer}"
    hard(world / "s", "four", world / scorer, name)
    store = open_store(world / "s")
    params = store.view_sets[name].params
    assert list(params) == sorted(
        [*CHOICES, "margin", "model_step", "pair_iou", "pair_loss", "status"]
    )
    scores = scores_of(world, scorer, "four", name)
    pairs = sorted(scores[0])
    assert len(pairs) == (12 if scorer == "moco-v2" else 6)
    boxes = torch.tensor(np.array(store.view_sets["four"].params["crop_box"]))
    for row in range(ROWS):
        chosen = {each: tuple(params[each][row, 0].tolist()) for each in CHOICES}
        if scorer == "deepcluster-v2" and row == UNKNOWN:
            assert set(chosen.values()) == {(255, 255)}
            assert params["status"][row].tolist() == [3] * VIEWS
            assert np.isinf(params["pair_loss"][row]).all()
            assert np.isnan(params["margin"][row]).all()
            continue
        of_row = scores[row]
        best, least = max(of_row.values()), min(of_row.values())
        assert of_row[chosen["selected"]] == pytest.approx(best, abs=1e-5)
        assert of_row[chosen["easiest"]] == pytest.approx(least, abs=1e-5)
        second = sorted(of_row.values())[-2]
        assert params["margin"][row, 0] == pytest.approx(best - second, abs=2e-5)
        if best - second > 1e-5:
            assert of_row[chosen["selected"]] == best
        uniform = Stream.of_view_set(0, name).uniform(Op.SET_CHOICE, row, 0)[0]
        assert chosen["random"] == pairs[int(uniform * len(pairs))]
        iou = pairwise_iou(boxes[row][None], torch.tensor(pairs))[0]
        assert chosen["min_iou"] == pairs[int(iou.argmin())]
        for pair, value in zip(pairs, iou.tolist(), strict=True):
            assert params["pair_iou"][row][pair] == pytest.approx(value)
    assert np.isnan(np.diagonal(params["pair_iou"], axis1=1, axis2=2)[:UNKNOWN]).all()
    step = -1 if scorer == "encoder" else 12
    known = np.arange(ROWS) != UNKNOWN
    assert (params["model_step"][known] == step).all()
    faults = [each for each in verify(world / "s", level="content") if each.view_set == name]
    assert faults == []


def test_losses_are_kept_row_by_student_and_column_by_target(world: Path) -> None:
    store = open_store(world / "s")
    network = load_model("scorer", world / "simsiam")
    stored = store.view_sets["hard"].params["pair_loss"]
    assert stored.shape == (ROWS, VIEWS, VIEWS)
    for row in (0, 7, ROWS - 1):
        images = torch.tensor(store.view_sets["four"][row]).permute(0, 3, 1, 2)[None] / 255
        expected = network.pair_losses(images, torch.tensor([row]))[0].numpy()
        assert np.allclose(stored[row], expected, atol=1e-5, equal_nan=True)


def test_what_is_built_says_what_scored_it(world: Path) -> None:
    store = open_store(world / "s")
    plan = store.view_sets["hard"].plan
    assert (plan.kind, plan.reach, plan.codec, plan.height) == ("columns", "sample", None, 0)
    assert [each.role for each in plan.weights] == ["scorer"]
    assert "torch" in plan.libraries
    assert plan.parent == {"view_set": "four", "plan_id": store.view_sets["four"].plan.id}
    assert [each.name for each in plan.columns if each.per == "choice"] == sorted(CHOICES)
    hard(world / "s", "four", world / "encoder", "by-file", files={"encoder": world / "encoder"})
    by_file = open_store(world / "s").view_sets["by-file"].plan
    assert ([each.role for each in by_file.weights], by_file.reach) == (["scorer"], "set")


@pytest.mark.parametrize("scorer", ["simsiam", "encoder"])
def test_order_workers_and_company_change_no_bit(world: Path, tmp_path: Path, scorer: str) -> None:
    """Shards of other sizes, built backwards, one at a time, and by two workers of one scorer."""
    source, expected = str(world / "images.npz"), None
    for number, (rows, order, workers) in enumerate(
        ((8, (2, 0, 1), 1), (8, None, 2 if scorer == "encoder" else 1), (5, None, 1))
    ):
        store = tmp_path / str(number)
        settings = {"views": VIEWS, "height": 16, "width": 16}
        build_small(store, source, view_set="four", settings=settings, shard_rows=rows)
        for shard in order or ():
            hard(store, "four", world / scorer, "hard", only=(shard,))
        hard(store, "four", world / scorer, "hard", workers=workers)
        view_set = open_store(store).view_sets["hard"]
        found = {name: view_set.params[name].tobytes() for name in view_set.params}
        expected = found if expected is None else expected
        assert found == expected
        root = view_set.index.root
        assert (root == open_store(tmp_path / "0").view_sets["hard"].index.root) == (rows == 8)


def test_groups_choose_for_themselves(world: Path) -> None:
    """Each group of two is the one pair that there is; of one group the choice is another."""
    hard(world / "s", "four", world / "simsiam", "pairs", settings={"groups": 2})
    params = open_store(world / "s").view_sets["pairs"].params
    assert params["pair_loss"].shape == (ROWS, VIEWS, 2)
    for name in CHOICES:
        assert (params[name] == [[0, 1], [2, 3]]).all()
    assert np.isposinf(params["margin"]).all()
    whole = open_store(world / "s").view_sets["hard"].params["pair_loss"]
    for group in (0, 1):
        places = slice(2 * group, 2 * group + 2)
        assert np.allclose(
            params["pair_loss"][:, places], whole[:, places, places], atol=1e-6, equal_nan=True
        )
    assert list(verify(world / "s", level="content")) == []


def in_memory(views: NDArray[np.uint8], scorer: Any, **settings: Any) -> list[Any]:  # noqa: ANN401
    """What is made of views [N, V, H, W, 3] in memory."""
    boxes = np.random.default_rng(4).integers(1, 9, (*views.shape[:2], 4)).astype(np.float32)
    params = {"status": np.ones(views.shape[:2], np.uint8), "crop_box": boxes}
    context = replace(pictures().context, num_samples=len(views))
    world = world_on(context, stored_views("views", views, params), views[:, 0])
    world = world.with_models(scorer=scorer)
    resolved = Hard(of="views", slots=2, **settings).resolve(world.context)
    return [each.params for each in resolved.make(world.context).render(world.samples)]


@pytest.mark.parametrize("name", ["simsiam", "moco", "ibot"])
def test_other_groups_change_no_bit(name: str) -> None:
    views = np.random.default_rng(0).integers(0, 256, (3, 6, 16, 16, 3), np.uint8)
    other = views.copy()
    other[:, 3:] = 255 - other[:, 3:]
    first, second = (in_memory(each, scorer_of(name), groups=2) for each in (views, other))
    for one, two in zip(first, second, strict=True):
        for column in ("pair_loss", "pair_iou"):
            assert one[column][:3].tobytes() == two[column][:3].tobytes()
        for column in (*CHOICES, "margin"):
            assert one[column][0].tolist() == two[column][0].tolist()
        assert one["pair_loss"][3:].tobytes() != two["pair_loss"][3:].tobytes()


@pytest.mark.parametrize("name", ["simsiam", "moco"])
def test_permuted_candidates_give_the_permuted_choice(name: str) -> None:
    views = np.random.default_rng(0).integers(0, 256, (4, 5, 16, 16, 3), np.uint8)
    order = np.array([3, 0, 4, 2, 1])
    first, second = (in_memory(each, scorer_of(name)) for each in (views, views[:, order]))
    for one, two in zip(first, second, strict=True):
        for column in ("selected", "easiest"):
            seen = order[two[column][0]]
            assert (seen if name == "moco" else np.sort(seen)).tolist() == one[column][0].tolist()
        assert np.allclose(one["margin"], two["margin"], atol=1e-5)


def test_only_what_is_asked_for_is_kept(world: Path) -> None:
    settings = {"keep_losses": False, "choices": ("easiest",)}
    hard(world / "s", "four", world / "simsiam", "few", settings=settings)
    store = open_store(world / "s")
    params = store.view_sets["few"].params
    assert list(params) == ["easiest", "margin", "model_step", "status"]
    assert np.array_equal(params["easiest"], store.view_sets["hard"].params["easiest"])


def best_crops(
    pair: float, gains: NDArray[np.float64], taken: int, sign: int
) -> tuple[float, tuple[int, ...]]:
    """The best of all subsets of small crops beside a pair, and its score."""
    found = (math.nan, ())
    for crops in itertools.combinations(range(len(gains)), taken):
        total = pair + sum(gains[list(crops)])
        if not found[1] or sign * total > sign * found[0]:
            found = (total, crops)
    return found


def test_two_sets_hold_the_best_combination_of_large_and_small_crops(world: Path) -> None:
    """As the search over all combinations of a pair of four and three of six small crops."""
    store, scorer = world / "s", world / "dino"
    hard(store, "dino", scorer, "large", settings={"locals": "dino-local"})
    small = {"globals": "large", "choose": 3}
    hard(store, "dino-local", scorer, "small", settings=small)
    opened = open_store(store)
    large, small_set = (opened.view_sets[name] for name in ("large", "small"))
    assert large.plan.generator["args"]["train_locals"] == 3
    assert {role: each["view_set"] for role, each in small_set.plan.inputs.items()} == {
        "globals": "large",
        "views": "dino",
    }
    assert small_set.params["pair_loss"].shape == (ROWS, 6, 4)
    assert small_set.params["selected"].shape == (ROWS, 1, 3)
    network = load_model("scorer", scorer)
    terms = network.entries_beside(3)
    (weight,) = {float(each.weight) for each in terms}
    for row in range(ROWS):
        views, crops = (
            torch.tensor(opened.view_sets[name][row]).permute(0, 3, 1, 2)[None] / 255
            for name in ("dino", "dino-local")
        )
        table = network.pair_losses(views, torch.tensor([row]))[0].double().numpy()
        gains = network.crop_losses(crops, views, torch.tensor([row]))[0].double().numpy()
        assert np.allclose(small_set.params["pair_loss"][row], gains, atol=1e-5)
        for name, sign in (("selected", 1), ("easiest", -1)):
            every = {}
            for even, odd in itertools.product((0, 2), (1, 3)):
                both = weight * (table[even, odd] + table[odd, even])
                of_crops = weight * (gains[:, even] + gains[:, odd])
                total, taken = best_crops(both, of_crops, 3, sign)
                every[even, odd] = (sign * total, taken)
            ranked = sorted(every.values(), reverse=True)
            chosen = tuple(large.params[name][row, 0].tolist())
            assert every[chosen][0] == pytest.approx(ranked[0][0], abs=1e-5)
            if ranked[0][0] - ranked[1][0] > 1e-4:
                assert tuple(small_set.params[name][row, 0].tolist()) == every[chosen][1]
            if sign == 1:
                lead = ranked[0][0] - ranked[1][0]
                assert large.params["margin"][row, 0] == pytest.approx(lead, abs=2e-5)
        for name in ("random", "min_iou"):
            assert small_set.params[name][row, 0].tolist() == [0, 1, 2]
    assert list(verify(store, level="content")) == []


def test_a_choice_of_large_crops_that_is_no_view_is_refused() -> None:
    """Of another group, or beyond the views there are; none at all gives none."""
    rng, groups = np.random.default_rng(0), 2
    large, small = (rng.integers(0, 256, (2, 4, s, s, 3), np.uint8) for s in (16, 8))

    def made(choice: NDArray[np.uint8]) -> list[Any]:
        args = {"locals": "small", "train_locals": 1}
        column = Column(name="selected", dtype="u1", shape=(groups, 2), per="choice")
        chosen = FixedViewSet(
            "large-hard",
            FixedPlan((column,), {"args": args}),
            FixedParams({"selected": choice}),
            large,
            "large",
            "columns",
        )
        status = {"status": np.ones((2, 4), np.uint8)}
        of = WithRoles("large", FixedPlan((), {}), FixedParams(status), large)
        crops = WithRoles("small", FixedPlan((), {}), FixedParams(status), small, role="local")
        inputs = {"globals": chosen, "views": of}
        context: Any = replace(
            pictures().context,
            num_samples=2,
            parent=crops,
            inputs=inputs,
            models={"scorer": scorer_of("dino")},
        )
        settings = {"groups": groups, "choose": 1, "slots": 2}
        resolved = Hard(of="small", globals="large-hard", **settings).resolve(context)
        samples = [
            Sample(row, (16, 16), Mock(), StoredViews(crops, row), {
                role: StoredViews(each, row) for role, each in inputs.items()
            })
            for row in range(2)
        ]  # fmt: skip
        return [each.params for each in resolved.make(context).render(samples)]

    choice = np.array([[[0, 1], [2, 3]], [[255, 255], [2, 3]]], np.uint8)
    first, second = made(choice)
    assert (first["selected"] < 4).all()
    assert second["selected"].tolist()[0] == [255]
    assert second["status"].tolist() == [3, 3, 1, 1]
    for wrong in ([[0, 2], [2, 3]], [[0, 1], [2, 9]]):
        choice[0] = wrong
        with pytest.raises(FormatError, match="selected of row 0 of large-hard is no view of its"):
            made(choice)


def test_views_that_were_never_made_are_not_chosen(tmp_path: Path, world: Path) -> None:
    source, store = write_photographs(tmp_path / "images", 4, cut=2), tmp_path / "s"
    settings = {"views": VIEWS, "height": 16, "width": 16}
    build_small(store, str(source), view_set="four", settings=settings, on_error="skip")
    for scorer in ("simsiam", "encoder"):
        hard(store, "four", world / scorer, scorer, on_error="skip")
        params = open_store(store).view_sets[scorer].params
        assert params["status"][:, 0].tolist() == [1, 1, 4, 1]
        assert (params["selected"][2] == 255).all()
        assert params["model_step"].tolist()[2] == -1
        assert np.isposinf(params["pair_loss"][2]).all()
        assert (params["selected"][[0, 1, 3]] < VIEWS).all()
    assert list(verify(store, level="content")) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no group": ({"groups": 0}, "hard.groups must be a whole number from 1 to"),
    "a bank of one": ({"bank": 1}, "hard.bank must be a whole number from 2, got 1"),
    "three of a pair": ({"choose": 3}, "hard.choose must be 2, got 3"),
    "another choice": ({"choices": ("hardest",)}, "hard.choices must be some of"),
    "no choice": ({"choices": ()}, "hard.choices must be some of"),
    "both kinds of crops": ({"locals": "a", "globals": "b"}, "are both given"),
    "crops of nothing": ({"train_locals": 3}, "goes with hard.locals, which is not given"),
    "no crops": ({"locals": "a", "train_locals": 0}, "must be a whole number from 1, got 0"),
    "a word": ({"keep_losses": "no"}, "hard.keep_losses must be true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    settings, expected = REFUSED[name]
    with pytest.raises(ConfigError, match=expected):
        Hard(**settings)


UNFIT: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "the images": ("source", "simsiam", {}, "hard chooses among the views of a view set"),
    "columns": ("hard", "simsiam", {}, "hard has no views to describe, it describes those of four"),
    "groups": ("four", "simsiam", {"groups": 3}, "groups must divide the 4 views of four, got 3"),
    "one a group": ("four", "simsiam", {"groups": 4}, "four has 1 a group"),
    "small crops alone": ("dino-local", "dino", {}, "are small crops, which are chosen for large"),
    "crops by simsiam": (
        "dino", "simsiam", {"locals": "dino-local"}, "simsiam does not score small crops",
    ),
    "crops of experts": (
        "four", "dino", {"locals": "dino-local"}, "those of four are expert",
    ),
    "large as small": (
        "dino", "dino", {"locals": "four"}, "have the role local, those of four are expert",
    ),
    "too many": (
        "dino", "dino", {"locals": "dino-local", "train_locals": 7}, r"chosen in \[1, 6\]",
    ),
    "other globals": (
        "dino-local", "dino", {"globals": "hard", "choose": 3}, "hard does not hold choices beside",
    ),
    "globals of views": (
        "dino-local", "dino", {"globals": "dino", "choose": 3}, "and it is about none",
    ),
    "a missing set": ("four", "dino", {"locals": "nothing"}, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused_before_a_view_is_read(
    world: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, scorer, settings, expected = UNFIT[name]
    monkeypatch.setattr("viewstore.store.view_set.ViewSet.__getitem__", None)
    with pytest.raises(ConfigError, match=expected):
        hard(world / "s", of, world / scorer, "refused", settings=settings)
    assert not (world / "s" / "views" / "refused").exists()


def test_scorers_that_do_not_fit_are_refused(world: Path, tmp_path: Path) -> None:
    store = world / "s"
    with pytest.raises(ConfigError, match="no file is given") as caught:
        hard(store, "four", world, "refused", files={})
    assert "--scorer RUN/checkpoint.safetensors" in str(caught.value.fix)
    both = {"scorer": world / "dino", "encoder": world / "encoder"}
    with pytest.raises(ConfigError, match="--scorer and --encoder are both given: hard scores by"):
        hard(store, "four", world, "refused", files=both)
    with pytest.raises(ConfigError, match="--gan cannot be given"):
        hard(store, "four", world, "refused", files={"gan": world / "dino"})
    write_checkpoint(tmp_path / "few", "deepcluster-v2", frame={**FRAME, "rows": ROWS - 1})
    with pytest.raises(ConfigError, match="was trained on 19 images, the store has 20") as caught:
        hard(store, "four", tmp_path / "few", "refused")
    assert "has a target for each of them" in str(caught.value.why)


def test_sizes_that_a_transformer_does_not_take_are_refused(world: Path, tmp_path: Path) -> None:
    for patch in (8, 16):
        made = {"network": NetworkSettings(backbone="vit-ti", patch=patch, projector=(16, 8))}
        write_checkpoint(tmp_path / f"vit-{patch}", "dino", made=made)
    store, crops = world / "s", {"locals": "dino-local"}
    with pytest.raises(ConfigError, match="takes images of 16x16, the views of dino-local are 8x8"):
        hard(store, "dino-local", tmp_path / "vit-8", "refused")
    with pytest.raises(ConfigError, match="must be multiples of the patch of 16 pixels"):
        hard(store, "dino", tmp_path / "vit-16", "refused", settings=crops)
    assert hard(store, "dino", tmp_path / "vit-8", "by-vit", settings=crops).left == 0


def test_views_without_boxes_have_no_overlap(world: Path, tmp_path: Path) -> None:
    store = world / "s"
    for key, pixels in zip(
        open_store(store).keys, open_store(store).view_sets["four"], strict=True
    ):
        for view in range(2):
            Image.fromarray(pixels[view]).save(tmp_path / f"{key}_{view}.png")
    settings = {"files": f"{tmp_path}/{{key}}_{{view}}.png"}
    build_small(store, None, generator="import", view_set="plain", settings=settings)
    hard(store, "plain", world / "simsiam", "no-boxes")
    params = open_store(store).view_sets["no-boxes"].params
    assert not {"pair_iou", "min_iou"} & set(params)
    with pytest.raises(ConfigError, match="hard cannot choose min_iou of plain") as caught:
        hard(store, "plain", world / "simsiam", "no", settings={"choices": ("min_iou",)})
    assert "no crop_box" in str(caught.value.why)


def test_a_killed_build_goes_on_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    source = str(world / "images.npz")
    settings = {"views": VIEWS, "height": 16, "width": 16}
    for name in ("killed", "whole"):
        build_small(tmp_path / name, source, view_set="four", settings=settings, shard_rows=2)
    hard(tmp_path / "whole", "four", world / "simsiam", "hard")
    program = "from viewstore.cli.main import main; main()"
    options = ("--of", "four", "--scorer", world / "simsiam", "--out", tmp_path / "killed")
    chosen = ("--set", "slots=3", "--set", f"bank={BANK}", "-j", "1", "-q")
    command = ["build", "--generator", "hard", *options, *chosen]
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, command)])
    paths = StorePaths(tmp_path / "killed").view_set("hard")
    while process.poll() is None and not (paths.plan.is_file() and committed_shards(paths)):
        time.sleep(0.002)
    process.kill()
    process.wait()
    hard(tmp_path / "killed", "four", world / "simsiam", "hard")
    roots = [open_store(tmp_path / n).view_sets["hard"].index.root for n in ("killed", "whole")]
    assert roots[0] == roots[1]
    faults = list(verify(tmp_path / "killed", level="content"))
    assert {each.kind for each in faults} <= {"orphan"}


@pytest.mark.parametrize("scorer", ["simsiam", "encoder"])
def test_a_mended_parent_makes_choices_stale(world: Path, tmp_path: Path, scorer: str) -> None:
    """Of a scorer with a bank all of them: any row may be in it."""
    images, store = tmp_path / "images", tmp_path / "s"
    write_photographs(images, 6, cut=2)
    whole = (images / "1.jpg").read_bytes()
    settings = {"views": 2, "height": 16, "width": 16}
    build_small(
        store, str(images), view_set="four", settings=settings, on_error="skip", shard_rows=2
    )
    hard(store, "four", world / scorer, "hard", on_error="skip")
    (images / "2.jpg").write_bytes(whole)
    take_mended_images(store, Silent())
    withdraw(StorePaths(store).view_set("four"), 1)
    build_small(store, None, view_set="four", settings=settings, shard_rows=None)
    stale = [each.shard for each in verify(store, level="content") if each.kind == "stale"]
    assert stale == ([0, 1, 2] if scorer == "encoder" else [1])
    repair(store, list(verify(store, level="content")), files={"scorer": world / scorer}, workers=1)
    assert list(verify(store, level="content")) == []
    assert (open_store(store).view_sets["hard"].params["status"] == 1).all()


def test_a_repair_with_another_scorer_is_refused(world: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    shutil.copytree(world / "s", store)
    withdraw(StorePaths(store).view_set("hard"), 1)
    faults = list(verify(store, level="quick"))
    with pytest.raises(CheckpointError, match="the scorer is not the one that hard was planned"):
        repair(store, faults, files={"scorer": world / "dino"}, workers=1)


def test_damaged_choices_and_losses_are_named(world: Path) -> None:
    store = open_store(world / "s")
    plan, params = store.view_sets["hard"].plan, store.view_sets["hard"].params
    values = {name: params[name].copy() for name in params}
    assert list(meaning_faults(plan, values)) == []
    for name, value, expected in (
        ("selected", VIEWS, "choices that are no distinct views"),
        ("easiest", [0, 0], "choices that are no distinct views"),
        ("pair_loss", np.nan, "views without a finite loss where the status is 1"),
    ):
        wrong = {**values, name: values[name].copy()}
        wrong[name][3, 0] = value
        ((_, what),) = meaning_faults(plan, wrong)
        assert what == f"column {name} has {expected}"
