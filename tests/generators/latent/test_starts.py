"""Where inversions start: latents that are known, the inverter, the class, the average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generators.latent_world import World, make_world, small_gan
from viewstore.errors import ConfigError
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.gan.inverter import Inverter, InverterShape
from viewstore.generators.latent.decode import to_pixels
from viewstore.generators.latent.generated_source import Latents
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.starts import STARTS
from viewstore.generators.stylegan2.network import StyleGAN2

NUM = 4


@pytest.fixture(scope="module")
def plain() -> World:
    return make_world(num=NUM, max_steps=1)


@pytest.fixture(scope="module")
def conditional() -> World:
    return make_world(num=NUM, max_steps=1, classes=3)


def latents_of(gan: StyleGAN2, codes: Tensor, **changes: object) -> Latents:
    known = Latents(
        codes=codes.half(),
        labels=torch.zeros(len(codes), dtype=torch.int64),
        crc32=torch.zeros(len(codes), dtype=torch.int64),
        keys=tuple(map(str, range(len(codes)))),
        generator=gan.fingerprint,
        psi=1.0,
        seed=0,
        digest="d" * 64,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def with_latents(world: World, known: Latents | None) -> Context:
    return replace(world.context, known_latents=lambda: known)


def start_of(context: Context, **settings: object) -> tuple[str, int]:
    """Return where an inversion of these settings starts, and its most steps."""
    resolved = Inversion(shift_stop=0.05, **settings).resolve(context)  # type: ignore[arg-type]
    taken = [name for name in STARTS if getattr(resolved, name)]
    assert len(taken) < 2
    return (taken or ["average"])[0], resolved.max_steps


def test_the_best_start_there_is_is_taken(plain: World, conditional: World) -> None:
    gan = conditional.context.models["gan"]
    inverter = Inverter(InverterShape.of(gan)).requires_grad_(False).eval()
    known = latents_of(gan, gan.sample(NUM, 1, gan.classes_in_turn(NUM)))
    there = with_latents(conditional.with_models(inverter=inverter), known)
    assert start_of(plain.context) == ("average", 300)
    assert start_of(conditional.context) == ("class_start", 300)
    assert start_of(conditional.with_models(inverter=inverter).context) == ("inverter", 50)
    assert start_of(there) == ("known_latents", 0)
    assert start_of(there, known_latents=False) == ("inverter", 50)
    assert start_of(there, known_latents=False, inverter=False) == ("class_start", 300)
    without = {"known_latents": False, "inverter": False, "class_start": False}
    assert start_of(there, **without) == ("average", 300)
    assert start_of(there, inverter=True) == ("inverter", 50)
    assert start_of(there, class_start=True, max_steps=7) == ("class_start", 7)


def test_settings_of_a_plan_resolve_to_themselves(conditional: World) -> None:
    gan = conditional.context.models["gan"]
    there = with_latents(conditional, latents_of(gan, gan.sample(NUM, 1, torch.zeros(NUM).long())))
    for settings in ({}, {"known_latents": False}, {"class_start": True}, {"max_steps": 0}):
        resolved = Inversion(shift_stop=0.05, **settings).resolve(there)
        again = Inversion(**{n: getattr(resolved, n) for n in resolved.__dataclass_fields__})
        assert again.resolve(there) == resolved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"known_latents": True}, "the source has no latents of its images"),
        ({"inverter": True}, "recon.inverter needs an inverter"),
        ({"class_start": True}, "recon.class_start needs a generator with classes"),
        ({"known_latents": True, "inverter": True}, "one place, got known_latents and inverter"),
        ({"max_steps": -1}, "recon.max_steps must be 0 or more, got -1"),
    ],
)
def test_a_start_that_is_not_there_is_refused(
    plain: World, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Inversion(shift_stop=0.05, **settings).resolve(plain.context)


def test_latents_of_another_generator_are_said_and_not_taken(plain: World) -> None:
    gan, said = small_gan(seed=1), list[str]()
    known = latents_of(gan, gan.sample(NUM, 0))
    there = replace(with_latents(plain, known), warn=said.append)
    assert start_of(there) == ("average", 300)
    ours = plain.context.models["gan"].fingerprint
    assert said == [
        f"the images of the source were made by the generator {gan.fingerprint[:12]}, this is "
        f"{ours[:12]}: its latents are not taken, the images are inverted"
    ]
    with pytest.raises(ConfigError, match=f"made by the generator {gan.fingerprint[:12]}, this"):
        Inversion(shift_stop=0.05, known_latents=True).resolve(there)


def test_latents_of_another_shape_are_refused(plain: World) -> None:
    gan = plain.context.models["gan"]
    for codes in (torch.zeros(NUM, 2, 8), torch.zeros(NUM, 1, 9)):
        with pytest.raises(ConfigError, match="latents of the source have shape"):
            Inversion(shift_stop=0.05).resolve(with_latents(plain, latents_of(gan, codes)))


@pytest.mark.parametrize("psi", [1.0, 0.7])
def test_known_latents_are_taken_without_a_step(plain: World, psi: float) -> None:
    """Whatever psi the views have: what is decoded is what the images were decoded from."""
    gan = plain.context.models["gan"]
    codes = gan.sample(NUM, 11)[:, :1].half().float()
    images = [to_pixels(gan.synthesis(code[None].expand(1, 6, 8)))[0] for code in codes]
    there = with_latents(plain, latents_of(gan, codes))
    settings = Inversion(shift_stop=0.05, psi=psi, slots=3).resolve(there)
    samples = [Sample.of(row, image) for row, image in enumerate(images)]
    found = {one.index: one for one in settings.make(there).render(samples)}
    assert len(found) == NUM
    for row, one in found.items():
        assert (one.params["steps"].item(), one.params["status"].item()) == (0, 1)
        assert one.params["anchor_shift"] < (1e-5 if psi == 1 else 0.03)
        assert np.abs(one.pixels[0].astype(int) - images[row]).max() <= (0 if psi == 1 else 3)
        latents, average = one.params["latent"][0].astype(np.float32), gan.w_avg.numpy()
        decoded = average + psi * (latents - average)
        np.testing.assert_allclose(decoded, codes[row].expand(6, 8).numpy(), atol=4e-3, rtol=2e-3)


def test_a_build_does_not_go_on_with_other_latents(plain: World) -> None:
    gan = plain.context.models["gan"]
    known = latents_of(gan, gan.sample(NUM, 1))
    settings = Inversion(shift_stop=0.05).resolve(with_latents(plain, known))
    for other in (None, replace(known, digest="e" * 64)):
        with pytest.raises(ConfigError, match="not those that recon was planned with"):
            settings.make(with_latents(plain, other))


def test_the_mean_of_a_class_is_that_of_its_codes(conditional: World) -> None:
    """In float64, by the equations of the mapping, over deviates of another source."""
    gan = conditional.context.models["gan"]
    state = {name: value.double().numpy() for name, value in gan.mapping.state_dict().items()}
    z = np.random.default_rng(0).normal(size=(100_000, 8))
    for label in range(3):
        hot = np.eye(3)[[label]]
        c = hot @ state["embed.weight"].T / np.sqrt(3) + state["embed.bias"]
        parts = [each / np.sqrt((each**2).mean(1, keepdims=True) + 1e-8) for each in (z, c)]
        x = np.concatenate([parts[0], parts[1].repeat(len(z), 0)], axis=1)
        for i in range(2):
            weight = state[f"fc{i}.weight"]
            x = x @ weight.T * 0.01 / np.sqrt(weight.shape[1]) + state[f"fc{i}.bias"] * 0.01
            x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
        tolerance = 5 * x.std(0) * np.sqrt(1 / 4096 + 1 / len(x))
        assert (abs(gan.class_mean(label).numpy() - x.mean(0)) < tolerance).all()
    with pytest.raises(ConfigError, match=r"class labels must be in \[0, 3\), got 3 to 3"):
        gan.class_mean(3)
    with pytest.raises(ConfigError, match=r"conditional \(3 classes\): give --labels or a source"):
        gan.sample(2, 0)


def start_latents(world: World, label: int, **settings: object) -> np.ndarray:
    """Return the latents of a sample of some label before any step."""
    options = {"shift_stop": 0.05, "max_steps": 0, "slots": 1, **settings}
    resolved = Inversion(**options).resolve(world.context)  # type: ignore[arg-type]
    sample = replace(world.samples[0], label=label)
    (one,) = resolved.make(world.context).render([sample])
    assert one.params["steps"].item() == 0
    return np.asarray(one.params["latent"][0], np.float32)


def test_a_sample_starts_from_the_mean_of_its_class(conditional: World) -> None:
    gan = conditional.context.models["gan"]
    for label in range(3):
        wanted = gan.class_mean(label).half().float().numpy()
        np.testing.assert_array_equal(start_latents(conditional, label), wanted[None].repeat(6, 0))
    average = gan.w_avg.half().float().numpy()[None].repeat(6, 0)
    for label in (-1, 3):  # no class of the generator
        np.testing.assert_array_equal(start_latents(conditional, label), average)
    np.testing.assert_array_equal(start_latents(conditional, 1, class_start=False), average)


def test_the_mean_of_the_class_is_the_nearer_start(conditional: World) -> None:
    """The images of the world are of the classes in turn; w_avg of random weights is zero."""
    labelled = [replace(each, label=each.index % 3) for each in conditional.samples]
    losses: dict[bool, float] = {}
    for of_class in (True, False):
        settings = Inversion(shift_stop=0.05, max_steps=10, slots=2, class_start=of_class)
        resolved = settings.resolve(conditional.context)
        found: list[Rendered] = list(resolved.make(conditional.context).render(labelled))
        losses[of_class] = float(np.mean([one.params["loss"] for one in found]))
    assert losses[True] < losses[False]
