"""Adversarial views: the budget holds on stored levels, and the losses of the scorer rise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.generators.latent_world import small_encoder
from tests.generators.standard_views import context_of, samples_on, standard_views
from tests.train.world import make_method
from viewstore.errors import ConfigError
from viewstore.generators import make_settings
from viewstore.generators.contract import Context
from viewstore.generators.scored.adversarial import stored
from viewstore.images.budget import Budget
from viewstore.images.codec import make_codec
from viewstore.train.methods.deepcluster_v2 import DeepClusterV2Settings
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simclr import SimCLRSettings
from viewstore.train.scoring.scorer import EncoderScorer, MethodScorer, Scorer
from viewstore.train.views import At

COUNT, VIEWS = 12, 3
AT = At(epoch=1, step=7, epoch_steps=4, total_steps=20, seed=3)


def picture(row: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return coarse.repeat(4, 0).repeat(4, 1)


PARENT = standard_views(picture, COUNT, views=VIEWS)


def scorer_named(name: str) -> Scorer:
    if name == "encoder":
        return EncoderScorer(small_encoder(PARENT.pixels[:, 0], in_channels=3))
    settings: dict[str, Any] = {
        "simclr": SimCLRSettings(),
        "simsiam": "simsiam",
        "moco-v2": MoCoV2Settings(queue_size=16),
        "deepcluster-v2": DeepClusterV2Settings(prototypes=(4, 4)),
    }
    method = make_method(settings[name])
    if name == "deepcluster-v2":
        generator = torch.Generator().manual_seed(2)
        drawn = torch.randn(method.prototypes.shape, generator=generator)  # type: ignore[operator]
        method.prototypes.copy_(torch.nn.functional.normalize(drawn, dim=1))  # type: ignore[operator]
        method.assignments.random_(0, 4, generator=generator)  # type: ignore[operator]
    return MethodScorer(method, AT, num_rows=COUNT, input_size=None)


SCORERS = ("encoder", "simclr", "simsiam", "moco-v2", "deepcluster-v2")


def context_with(scorer: Scorer, **changes: Any) -> Context:  # noqa: ANN401
    return replace(context_of(picture, COUNT, parent=PARENT, models={"scorer": scorer}), **changes)


def attacked(scorer: Scorer, **settings: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    context = context_with(scorer)
    generator = make_settings("adversarial", settings).resolve(context).make(context)
    found = list(generator.render(samples_on(picture, PARENT, COUNT)))
    columns = {name: np.stack([one.params[name] for one in found]) for name in found[0].params}
    return {**columns, "pixels": np.stack([one.pixels for one in found])}  # type: ignore[misc]


@pytest.mark.parametrize("name", SCORERS)
def test_the_default_attack_moves_levels_by_one_and_raises_the_loss(name: str) -> None:
    found = attacked(scorer_named(name))
    delta = found["pixels"].astype(int) - PARENT.pixels
    assert set(np.unique(delta)) <= {-1, 0, 1}
    assert (np.abs(delta).reshape(COUNT, VIEWS, -1).max(-1) == found["delta_norm"]).all()
    rose = found["loss"] > found["loss0"]
    assert rose.mean() >= 0.95
    assert (found["status"] == np.where(rose, 1, 2)).all()
    assert (found["parent"] == np.arange(VIEWS)).all()
    wanted = [-1] * VIEWS if name == "deepcluster-v2" else [1, 2, 0]
    assert (found["target"] == wanted).all()
    assert (found["model_step"] == (-1 if name == "encoder" else 7)).all()


def test_random_signs_of_the_same_size_raise_the_loss_as_often_as_not() -> None:
    """The negative control: what the attack does is not done by any change of that size."""
    scorer = scorer_named("simsiam")
    rng = np.random.default_rng(0)
    rose = []
    for _ in range(8):
        signs = rng.choice([-1, 1], PARENT.pixels.shape)
        moved = np.clip(PARENT.pixels.astype(int) + signs, 0, 255)
        rose.append(losses_of(scorer, moved) > losses_of(scorer, PARENT.pixels))
    assert 0.3 < np.mean(rose) < 0.7


def losses_of(scorer: Scorer, student: NDArray[Any]) -> NDArray[np.float32]:
    """The loss of each view [N, V] against the next clean view of its sample."""
    levels = [torch.from_numpy(np.ascontiguousarray(each, np.float32)).permute(0, 1, 4, 2, 3) / 255
              for each in (student, np.roll(PARENT.pixels, -1, axis=1))]  # fmt: skip
    rows = torch.arange(COUNT).repeat_interleave(VIEWS)
    with torch.no_grad():
        found = scorer.losses(levels[0].flatten(0, 1), levels[1].flatten(0, 1), rows)
    return found.view(COUNT, VIEWS).numpy()


@pytest.mark.parametrize("name", ["simsiam", "moco-v2"])
def test_losses_are_those_of_the_stored_levels(name: str) -> None:
    scorer = scorer_named(name)
    found = attacked(scorer, steps=2, eps=2)
    np.testing.assert_allclose(found["loss0"], losses_of(scorer, PARENT.pixels), rtol=1e-4)
    np.testing.assert_allclose(found["loss"], losses_of(scorer, found["pixels"]), rtol=1e-4)


def test_only_the_larger_budget_with_the_larger_step_is_another_attack() -> None:
    scorer = scorer_named("moco-v2")
    found = {(e, s): attacked(scorer, eps=e, step=s)["pixels"] for e in (1, 3) for s in (1, 3)}
    assert (found[1, 1] == found[1, 3]).all()
    assert (found[1, 1] == found[3, 1]).all()
    assert (found[1, 1] != found[3, 3]).any()


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "l2", "units": "unit", "eps": 0.5, "step": 0.01},
        {"norm": "l2", "units": "normalized", "eps": 2.0, "step": 0.05, "steps": 3},
        {"norm": "linf", "units": "normalized", "eps": 0.05, "step": 0.02, "steps": 3},
        {"norm": "linf", "eps": 2.5, "step": 1.0, "steps": 4, "random_start": True},
    ],
)
def test_stored_views_lie_within_every_budget(settings: dict[str, Any]) -> None:
    scorer = scorer_named("simsiam")
    found = attacked(scorer, **settings)
    delta = found["pixels"].astype(np.float64) - PARENT.pixels
    unit = np.ones(3)
    if settings.get("units") == "unit":
        unit *= 255
    elif settings.get("units") == "normalized":
        unit = 255 * np.array(scorer.std)
    delta = (delta / unit).reshape(COUNT, VIEWS, -1)
    far = np.abs(delta).max(-1) if settings["norm"] == "linf" else np.sqrt((delta**2).sum(-1))
    assert far.max() <= settings["eps"] * (1 + 1e-6)
    assert far.max() > 0
    np.testing.assert_allclose(found["delta_norm"], far, rtol=1e-5)


def test_rounding_that_would_leave_the_budget_goes_towards_the_clean_levels() -> None:
    clean = torch.full((1, 3, 2, 2), 100.0)
    linf = Budget(eps=1.5)
    levels, far = stored(linf, clean + 1.5, clean, linf.unit((1, 1, 1), clean))
    assert (levels == 101).all()
    assert far.tolist() == [1]
    l2 = Budget(norm="l2", eps=2.5)
    levels, far = stored(l2, clean + 0.72, clean, l2.unit((1, 1, 1), clean))
    assert (levels == 100).all()
    assert far.tolist() == [0]


def test_a_view_that_was_not_made_is_not_attacked_nor_attacked_against() -> None:
    status = np.ones((COUNT, VIEWS), np.uint8)
    status[4, 1] = 4
    parent = replace(PARENT, params=type(PARENT.params)({**PARENT.params, "status": status}))
    context = context_with(scorer_named("simsiam"), parent=parent)
    generator = make_settings("adversarial", {}).resolve(context).make(context)
    found = list(generator.render(samples_on(picture, parent, COUNT)))
    assert np.isin(found[4].params["status"], (1, 2)).tolist() == [False, False, True]
    assert found[4].pixels is not None
    assert not found[4].pixels[:2].any()
    assert np.isnan(found[4].params["loss"][:2]).all()


@pytest.mark.parametrize("codec", ["jpg", "webp"])
def test_codecs_that_change_levels_are_refused(codec: str) -> None:
    context = context_with(scorer_named("simsiam"), codec=make_codec(codec))
    with pytest.raises(ConfigError, match=f"cannot be stored as {codec}") as caught:
        make_settings("adversarial", {}).resolve(context)
    assert "--codec raw" in (caught.value.fix or "")


def test_what_no_view_can_be_attacked_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="less than a level of 255"):
        make_settings("adversarial", {"eps": 0.5}).resolve(context_with(scorer_named("simsiam")))
    scorer = scorer_named("deepcluster-v2")
    with pytest.raises(ConfigError, match="was trained on 12 images, the store has 13"):
        make_settings("adversarial", {}).resolve(context_with(scorer, num_samples=13))
    with pytest.raises(ConfigError, match="no file is given") as caught:
        make_settings("adversarial", {}).resolve(context_of(picture, COUNT, parent=PARENT))
    assert "--scorer" in (caught.value.fix or "")
    with pytest.raises(ConfigError, match="loss is of a whole batch"):
        MethodScorer(make_method("barlow-twins"), AT, num_rows=COUNT, input_size=None)


def test_rows_are_made_from_the_bank_only_where_there_is_one() -> None:
    for name, reach in (("simclr", "set"), ("moco-v2", "sample")):
        resolved = make_settings("adversarial", {}).resolve(context_with(scorer_named(name)))
        again = make_settings("adversarial", {"contrasts": resolved.contrasts})  # type: ignore[attr-defined]
        assert again.reach() == reach
