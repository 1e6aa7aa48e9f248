"""The GAN trainer on a few real digits."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, DivergedError, StoppedError
from viewstore.generators.gan.discriminator import Discriminator
from viewstore.generators.gan.frechet import PixelFrechet
from viewstore.generators.gan.keyed import epoch_rows
from viewstore.generators.gan.settings import GanSettings
from viewstore.generators.gan.training import GanTrainer, train_generator
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.progress import Fact, Silent
from viewstore.sources.image_array import read_images, signed

CONST = "synthesis.b4.const"
TINY = GanSettings(
    kimg=0.16, latent_dim=6, mapping_layers=1, channels=4, batch=8, snapshot_kimg=0.08
)


class Recorded(Silent):
    """Keeps every count and the losses that came with it."""

    def __init__(self) -> None:
        self.advances: list[tuple[int, dict[str, Fact]]] = []

    def advance(self, count: int = 1, **facts: Fact) -> None:
        self.advances.append((count, facts))


@pytest.fixture(scope="module")
def digits() -> Tensor:
    pixels = torch.from_numpy(load_digits().images[:50]).float()[:, None]
    return pixels / 8 - 1


def weights(network: StyleGAN2) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(a: StyleGAN2, b: StyleGAN2) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


def test_training_is_finite_and_reported(digits: Tensor) -> None:
    progress = Recorded()
    network = train_generator(digits, TINY, progress=progress)
    assert [count for count, _ in progress.advances] == [8, 128, 24]
    first, second, _ = (losses for _, losses in progress.advances)
    assert first.keys() == second.keys() == {"g", "d", "r1"}
    assert all(math.isfinite(float(value)) for value in (*first.values(), *second.values()))
    images = network.synthesis(network.sample(4, 0))
    assert images.shape == (4, 1, 8, 8)
    assert bool(images.isfinite().all())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_resumed_training_equals_an_uninterrupted_one(digits: Tensor, tmp_path: Path) -> None:
    whole = train_generator(digits, TINY)
    state = tmp_path / "state"
    train_generator(digits, replace(TINY, kimg=0.1), state=state)
    begun = state.read_bytes()
    resumed = train_generator(digits, TINY, state=state)
    assert equal(resumed, whole)
    assert state.read_bytes() != begun
    assert not equal(train_generator(digits, replace(TINY, kimg=0.1)), whole)


@pytest.mark.parametrize("steps", [1, 7])
def test_a_training_stopped_at_any_step_ends_as_if_it_never_had(
    digits: Tensor, tmp_path: Path, steps: int
) -> None:
    state = tmp_path / "state"
    asked = iter(range(1, 1000))
    with pytest.raises(StoppedError, match=f"stopped after step {steps} of 20") as caught:
        train_generator(digits, TINY, state=state, stop=lambda: next(asked) == steps)
    assert caught.value.where == str(state)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert equal(train_generator(digits, TINY, state=state), train_generator(digits, TINY))


def test_a_training_without_a_state_says_that_nothing_is_kept(digits: Tensor) -> None:
    with pytest.raises(StoppedError) as caught:
        train_generator(digits, TINY, stop=lambda: True)
    assert "nothing is kept" in str(caught.value.why)
    assert "--state FILE" in str(caught.value.fix)


def test_a_state_that_cannot_be_written_ends_the_training_at_its_start(
    digits: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    progress = Recorded()
    with pytest.raises(OSError, match="file"):
        train_generator(digits, TINY, state=tmp_path / "file" / "state", progress=progress)
    assert progress.advances == []


def test_finished_training_is_not_repeated(digits: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = train_generator(digits, TINY, state=state)
    progress = Recorded()
    again = train_generator(digits, TINY, state=state, progress=progress)
    assert equal(again, first)
    assert progress.advances == [(160, {})]


def test_seed_decides_the_result(digits: Tensor) -> None:
    short = replace(TINY, kimg=0.03)
    assert equal(train_generator(digits, short), train_generator(digits, short))
    assert not equal(
        train_generator(digits, short), train_generator(digits, replace(short, seed=1))
    )


def test_state_of_other_settings_or_images_is_refused(digits: Tensor, tmp_path: Path) -> None:
    state = tmp_path / "state"
    train_generator(digits, replace(TINY, kimg=0.01), state=state)
    with pytest.raises(ConfigError, match=r"gamma is 0.5, but the training in .*state has 0.1"):
        train_generator(digits, replace(TINY, gamma=0.5), state=state)
    with pytest.raises(ConfigError, match="is on other images"):
        train_generator(digits.flip(3), TINY, state=state)
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="viewstore_gan_training"):
        train_generator(digits, TINY, state=state)


def test_average_follows_with_its_half_life(digits: Tensor) -> None:
    trainer = GanTrainer(digits, replace(TINY, ema_kimg=0.016))
    wanted = weights(trainer.average)[CONST]
    for step in range(1, 60):
        trainer.advance()
        half_life = min(16, 0.05 * 8 * step)
        keep = 0.5 ** (8 / half_life)
        wanted = keep * wanted + (1 - keep) * weights(trainer.generator)[CONST]
    torch.testing.assert_close(weights(trainer.average)[CONST], wanted)
    assert torch.equal(trainer.average.w_avg, trainer.generator.w_avg)


def test_penalty_is_the_squared_gradient_by_real_images(digits: Tensor) -> None:
    trainer = GanTrainer(digits, replace(TINY, gamma=3.0))
    judge = trainer.discriminator.double()
    real = digits[:8].double() + 0.01  # zero is the kink of the first leaky ReLU
    step = 1e-6
    total = 0.0
    for pixel in np.ndindex(8, 1, 8, 8):
        nudge = torch.zeros_like(real)
        nudge[pixel] = step
        with torch.no_grad():
            slope = (judge(real + nudge) - judge(real - nudge)).sum() / (2 * step)
        total += float(slope) ** 2
    assert float(trainer._penalise(real)) == pytest.approx(3.0 / 2 * total / 8, rel=1e-5)


def test_discriminator_of_the_digits_has_the_specified_size() -> None:
    judge = Discriminator((32, 32, 32), 1, group=4)
    assert sum(parameter.numel() for parameter in judge.parameters()) == 63_041
    network = StyleGAN2(GanSettings().architecture(16, 1))
    assert sum(parameter.numel() for parameter in network.parameters()) == 57_416


def test_discriminator_sees_the_spread_of_a_group() -> None:
    judge = Discriminator((4, 4), 1, group=2)
    judge.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    spread = judge._spread(x)
    wanted = [x[[i, i + 2]].std(0, unbiased=False).mean() for i in (0, 1)]
    torch.testing.assert_close(spread[:, 0, 0, 0], torch.stack(wanted * 2), rtol=1e-4, atol=1e-4)
    assert float(judge._spread(x[:1].repeat(4, 1, 1, 1)).max()) <= 1e-3


def test_each_epoch_shows_every_row_once() -> None:
    rows = torch.cat([epoch_rows(10, 4, 0, step) for step in range(5)]).tolist()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert torch.cat([epoch_rows(3, 7, 0, 0)]).bincount().tolist() in (
        [3, 2, 2],
        [2, 3, 2],
        [2, 2, 3],
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 6}, "batch must be a multiple of group 4, got 6"),
        ({"kimg": 0.0}, "kimg must be positive, got 0"),
        ({"gamma": -1.0}, "gamma must be at least 0, got -1"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **settings)  # type: ignore[arg-type]


def test_images_that_cannot_be_trained_on_are_refused(digits: Tensor) -> None:
    for images, message in (
        (digits.double(), "must be float32"),
        (F.pad(digits, (0, 1)), "got 8 x 9"),
        (F.pad(digits, (1, 1, 1, 1)), "power of two from 4 to 1024, got 10 x 10"),
        (digits[:7], "at least 8 images, got 7"),
        (digits * 2, r"must lie in \[-1, 1\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_generator(images, TINY)


def test_divergence_stops_the_training(digits: Tensor) -> None:
    with pytest.raises(DivergedError, match="training left the finite numbers before step"):
        train_generator(digits, replace(TINY, lr=1e30, kimg=1.0))


@pytest.mark.slow
def test_twenty_kimg_reach_the_specified_distance() -> None:
    """14.3 is the specification's figure at 20 kimg; one kimg gives 19.9 here."""
    real = torch.from_numpy(signed(read_images("digits")))
    distance = PixelFrechet(real.numpy())
    found = []
    for kimg in (1.0, 20.0):
        network = train_generator(real, GanSettings(kimg=kimg))
        codes = torch.split(network.sample(1000, 0), 100)
        images = torch.cat([network.synthesis(part) for part in codes]).clamp(-1, 1)
        found.append(distance(images.numpy()))
    assert found[1] <= 14.3 < found[0]
