"""The state of a training: each part of it matters, and it is of one run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, StoppedError
from viewstore.files.tensors import read_tensors, write_tensors
from viewstore.generators.gan.settings import GanSettings
from viewstore.generators.gan.state import KIND
from viewstore.generators.gan.training import GanTrainer, train_generator
from viewstore.generators.stylegan2.network import StyleGAN2

SETTINGS = GanSettings(
    kimg=0.24,
    lr=0.01,
    latent_dim=6,
    mapping_layers=1,
    channels=4,
    batch=8,
    snapshot_kimg=0.08,
    conditional=True,
    augment="ada",
    augment_ops="flip,bgc",
    ada_target=0.1,
    ada_kimg=0.08,
)


def images() -> tuple[Tensor, Tensor]:
    keyed = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=keyed)
    return levels, torch.arange(40) % 2


def stopped_after(steps: int, state: Path) -> None:
    asked = iter(range(1, 1000))
    pixels, labels = images()
    with pytest.raises(StoppedError):
        train_generator(
            pixels, SETTINGS, labels=labels, state=state, stop=lambda: next(asked) == steps
        )


def finished(state: Path | None = None) -> StyleGAN2:
    pixels, labels = images()
    return train_generator(pixels, SETTINGS, labels=labels, state=state)


@pytest.fixture(scope="module")
def whole() -> StyleGAN2:
    return finished()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("state") / "state"
    stopped_after(14, state)  # within a window of the controller, of four steps
    return state


def same(a: StyleGAN2, b: StyleGAN2) -> bool:
    others = b.state_dict()
    return all(torch.equal(value, others[name]) for name, value in a.state_dict().items())


def test_an_augmented_conditional_training_goes_on_bit_for_bit(
    whole: StyleGAN2, begun: Path, tmp_path: Path
) -> None:
    controller = json.loads(read_tensors(begun, KIND)[1]["augmentation"])
    assert controller["p"] > 0
    assert controller["seen"] == 16
    state = tmp_path / "state"
    state.write_bytes(begun.read_bytes())
    assert same(finished(state), whole)


@pytest.mark.parametrize(
    "part", ["generator/", "judge/", "average/", "generator_adam/", "judge_adam/"]
)
def test_every_network_and_optimiser_in_a_state_matters(
    whole: StyleGAN2, begun: Path, tmp_path: Path, part: str
) -> None:
    tensors, about = read_tensors(begun, KIND)
    for name, value in tensors.items():
        if name.startswith(part) and "step" not in name and value.numel():
            tensors[name] = value * 0.9
    state = tmp_path / "state"
    write_tensors(state, tensors, about)
    assert not same(finished(state), whole)


@pytest.mark.parametrize(("name", "changed"), [("p", 0.01), ("signs", 16.0), ("step", 13)])
def test_the_controller_and_the_step_of_a_state_matter(
    whole: StyleGAN2, begun: Path, tmp_path: Path, name: str, changed: float
) -> None:
    tensors, about = read_tensors(begun, KIND)
    if name == "step":
        about["step"] = str(changed)
    else:
        controller = json.loads(about["augmentation"]) | {name: changed}
        about["augmentation"] = json.dumps(controller)
    state = tmp_path / "state"
    write_tensors(state, tensors, about)
    assert not same(finished(state), whole)


def test_all_settings_that_differ_are_named_with_both_values(begun: Path) -> None:
    pixels, labels = images()
    other = replace(SETTINGS, gamma=0.5, ada_target=0.3, augment_ops="c", kimg=9.0)
    with pytest.raises(ConfigError) as caught:
        train_generator(pixels, other, labels=labels, state=begun)
    message = str(caught.value)
    assert f"gamma is 0.5, but the training in {begun} has 0.1" in message
    assert "ada_target is 0.3, but" in message
    assert "augment_ops is c, but" in message
    assert "kimg is" not in message.replace("ada_kimg", "")
    assert "another --state file" in str(caught.value.fix)


def test_other_images_are_named_with_their_form(begun: Path) -> None:
    pixels, labels = images()
    with pytest.raises(ConfigError, match=r"has 40 images of 3 x 8 x 8, torch\.uint8, these"):
        train_generator(pixels.flip(2), SETTINGS, labels=labels, state=begun)
    with pytest.raises(ConfigError, match="these are 39 images"):
        train_generator(pixels[:39], SETTINGS, labels=labels[:39], state=begun)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("step", "-1"),
        ("step", "two"),
        ("augmentation", '{"p":2,"signs":0,"seen":0,"overfit":0}'),
        ("augmentation", '{"p":0,"signs":0,"overfit":0}'),
        ("augmentation", '{"p":0,"signs":0,"seen":[],"overfit":0}'),
        ("augmentation", "[]"),
        ("settings", "{"),
        ("data", "{"),
    ],
)
def test_a_state_with_other_texts_is_refused(
    begun: Path, tmp_path: Path, name: str, text: str
) -> None:
    tensors, about = read_tensors(begun, KIND)
    state = tmp_path / "state"
    write_tensors(state, tensors, about | {name: text})
    with pytest.raises(CheckpointError):
        finished(state)


@pytest.mark.parametrize("name", ["judge/out.bias", "judge_adam/0/exp_avg", "judge_adam/3/step"])
def test_a_state_that_lacks_a_tensor_or_has_another_is_refused(
    begun: Path, tmp_path: Path, name: str
) -> None:
    tensors, about = read_tensors(begun, KIND)
    state = tmp_path / "state"
    write_tensors(state, {k: v for k, v in tensors.items() if k != name}, about)
    with pytest.raises(CheckpointError, match="cannot resume from"):
        finished(state)
    write_tensors(state, tensors | {name: torch.zeros(2, 3)}, about)
    with pytest.raises(CheckpointError, match="cannot resume from"):
        finished(state)


def test_a_picture_that_a_kill_left_out_is_made_when_the_training_goes_on(tmp_path: Path) -> None:
    """The state is written first, so it may be there without what follows it."""
    state = tmp_path / "state"
    stopped_after(10, state)
    shown: list[int] = []
    pixels, labels = images()
    train_generator(
        pixels, SETTINGS, labels=labels, state=state, snapshot=lambda seen, _: shown.append(seen)
    )
    assert shown == [80, 160, 240]


def test_levels_are_trained_on_as_the_floats_that_they_stand_for() -> None:
    from viewstore.generators.gan.training import _signed
    from viewstore.sources.image_array import signed

    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(_signed(levels), torch.from_numpy(signed(levels.numpy())))
    pixels, labels = images()
    short = replace(SETTINGS, kimg=0.03)
    floats = torch.from_numpy(signed(pixels.numpy()))
    told = [train_generator(each, short, labels=labels) for each in (pixels, floats)]
    assert same(*told)


def test_an_augmentation_that_never_happens_changes_nothing() -> None:
    pixels, _ = images()
    plain = GanSettings(kimg=0.06, latent_dim=6, mapping_layers=1, channels=4, batch=8)
    never = train_generator(pixels, replace(plain, augment=0.0))
    assert same(never, train_generator(pixels, plain))
    often = train_generator(pixels, replace(plain, augment=0.5))
    assert not same(never, often)


def test_penalty_is_of_the_image_before_it_was_augmented() -> None:
    pixels, labels = images()
    fixed = replace(SETTINGS, augment=1.0, augment_ops="contrast", gamma=2.0)
    trainer = GanTrainer(pixels, fixed, labels=labels)
    real = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    seen = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(trainer._score(seen, labels[:8], "real").sum(), seen)
    wanted = slope.square().sum((1, 2, 3)).mean()
    assert float(trainer._penalise(real, labels[:8])) == pytest.approx(float(wanted), rel=1e-5)
