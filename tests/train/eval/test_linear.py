"""Linear probes: the presets against the papers' table, and what is trained."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.eval import made
from tests.train.eval.made import blobs
from viewstore.errors import ConfigError, DivergedError
from viewstore.sources.open import open_source
from viewstore.train.eval.features import Images, Work
from viewstore.train.eval.linear import frozen_score, linear_score
from viewstore.train.eval.linear_presets import LINEAR_PRESETS, LinearPreset
from viewstore.train.eval.recipe import Recipe
from viewstore.train.eval.samples import Samples
from viewstore.train.eval.table import preset_of
from viewstore.train.eval.training import Training, top_ranks

ADAMAX = (0.1, 0.01, 0.001)
FULL, SMALL = (0.08, 1), (0.8, 1)
# Optimizer, rates, per how many samples, epochs, batch, milestones, crop, bicubic crop, resize and
# filter of the queries, seeds: docs/evaluation.md has the same table in words.
TABLE: dict[str, tuple[Any, ...]] = {
    "frozen": ("sgd", (0.1,), None, 100, 256, None, None, None, "1", "area", 1),
    "simsiam-cifar": ("sgd", (30,), None, 100, 256, None, FULL, False, "8/7", "pil", 1),
    "dssl-cifar": ("sgd", (30,), None, 100, 256, (60, 80), SMALL, True, "8/7", "pil", 1),
    "gs": ("nesterov", (0.1,), 256, 90, 256, None, FULL, False, "8/7", "pil", 1),
    "gs-simsiam": ("nesterov", (30,), 256, 90, 256, None, FULL, False, "8/7", "pil", 1),
    "simsiam-imagenet": ("lars", (0.1,), None, 90, 4096, None, FULL, False, "8/7", "pil", 1),
    "hvp-simclr-imagenet": ("sgd", (0.1,), 256, 90, 4096, None, FULL, False, "8/7", "pil", 1),
    "dino": ("sgd", (7.5e-4,), None, 100, 1024, None, FULL, False, "8/7", "pil", 1),
    "moco": ("sgd", (30,), None, 100, 256, (60, 80), FULL, False, "8/7", "pil", 1),
    "hexa-moco": ("sgd", (30,), None, 100, 256, (60, 80), FULL, False, "8/7", "pil", 1),
    "hexa-dc": ("sgd", (0.3,), None, 100, 256, None, FULL, False, "8/7", "pil", 1),
    "ca-cifar10": ("sgd", (30,), None, 100, 256, None, None, None, "8/7", "bicubic", 5),
    "ca-cifar10-aug": ("sgd", (30,), None, 100, 256, None, FULL, True, "8/7", "bicubic", 5),
    "hexa-cifar": ("adamax", ADAMAX, None, 20, 256, (7, 14), None, None, "1", "pil", 1),
}


def row(preset: LinearPreset) -> tuple[Any, ...]:
    recipe, augment = preset.recipe, preset.augment
    return (
        recipe.optimizer,
        recipe.lr,
        recipe.lr_batch,
        recipe.epochs,
        recipe.batch,
        recipe.milestones,
        augment and augment.scale,
        augment and augment.bicubic,
        preset.test.resize,
        preset.test.filter,
        preset.seeds,
    )


@pytest.mark.parametrize("name", LINEAR_PRESETS)
def test_every_preset_is_the_row_of_its_paper(name: str) -> None:
    preset = LINEAR_PRESETS[name]
    assert row(preset) == TABLE[name]
    assert preset.recipe.weight_decay == preset.recipe.warmup == 0
    assert preset.recipe.factor == 0.1
    assert preset.metric == ("lin" if TABLE[name][6] else "lin_frozen")
    assert preset.augment is None or preset.augment.flip == 0.5
    assert preset.standardise == (name == "frozen")


def test_the_table_has_no_other_rows() -> None:
    assert set(LINEAR_PRESETS) == set(TABLE)
    with pytest.raises(ConfigError, match=r"preset of linear must be one of frozen, .*, got 'x'"):
        preset_of(LINEAR_PRESETS, "x", "linear")


def test_ca_cifar10_trains_on_images_as_they_are_and_tests_on_36_cropped_to_32() -> None:
    preset = LINEAR_PRESETS["ca-cifar10"]
    train, test = preset.train.policy(32), preset.test.policy(32)
    assert (train.short, train.size) == (32, 32)
    assert (test.short, test.size, test.filter) == (36, 32, "bicubic")
    assert list(preset.seeds_from(0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "epochs", "shares"),
    [
        ("moco", [0, 59, 60, 79, 80, 99], [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("hexa-cifar", [6, 7, 13, 14, 19], [1, 0.1, 0.1, 0.01, 0.01]),
        ("simsiam-cifar", [0, 50], [1, 0.5]),
        ("gs", [0, 30, 60], [1, 0.75, 0.25]),
    ],
)
def test_rates_fall_as_the_row_says(name: str, epochs: list[int], shares: list[float]) -> None:
    recipe = LINEAR_PRESETS[name].recipe
    assert [recipe.share(epoch) for epoch in epochs] == pytest.approx(shares)


def test_rates_grow_over_the_warm_up() -> None:
    recipe = Recipe(optimizer="sgd", lr=(1,), epochs=25, batch=8, warmup=5)
    assert [recipe.share(epoch) for epoch in (0, 3, 4, 5, 15)] == pytest.approx(
        [0.2, 0.8, 1, 1, 0.5]
    )


@pytest.mark.parametrize("name", LINEAR_PRESETS)
def test_optimizers_are_torchs_with_the_rate_of_the_batch(name: str) -> None:
    recipe = LINEAR_PRESETS[name].recipe.changed(batch=128)
    layer = torch.nn.Linear(2, 2)
    optimizer = recipe.make(layer, recipe.lr[0])
    kind = {"lars": "LARS", "adamax": "Adamax"}.get(recipe.optimizer, "SGD")
    assert type(optimizer).__name__ == kind
    group = optimizer.param_groups[0]
    scale = 128 / 256 if recipe.lr_batch else 1
    assert group["peak"] == pytest.approx(recipe.lr[0] * scale)
    assert group["weight_decay"] == 0
    assert group.get("momentum", 0.9) == 0.9
    assert group.get("nesterov", False) == (recipe.optimizer == "nesterov")


def test_numbers_that_cannot_train_are_refused() -> None:
    recipe = LINEAR_PRESETS["moco"].recipe
    for changes in ({"lr": 0.0}, {"lr": float("nan")}, {"epochs": 0}, {"batch": 0}):
        with pytest.raises(ConfigError):
            recipe.changed(**changes)  # type: ignore[arg-type]


def training(preset: LinearPreset, **changes: float) -> Training:
    return Training(recipe=preset.recipe.changed(**changes), work=Work(threads=1))


UNAUGMENTED = [name for name, preset in LINEAR_PRESETS.items() if preset.augment is None]
AUGMENTED = [name for name in LINEAR_PRESETS if name not in UNAUGMENTED]


@pytest.mark.parametrize("name", UNAUGMENTED)
def test_separable_features_are_all_found(name: str) -> None:
    preset = LINEAR_PRESETS[name]
    score = frozen_score(blobs(120, 0), blobs(60, 1), preset, training(preset))
    assert (score.metric, score.accuracy, score.n, score.bank) == ("lin_frozen", 1.0, 60, 120)


def test_features_without_information_are_at_chance() -> None:
    preset, bank = LINEAR_PRESETS["frozen"], blobs(300, 0)
    noise = np.random.default_rng(2).permutation(300)
    shuffled = Samples(bank.features, bank.labels[noise])
    score = frozen_score(shuffled, blobs(300, 1), preset, training(preset))
    assert 0.15 < score.accuracy < 0.55


@pytest.mark.parametrize("name", AUGMENTED)
def test_every_augmented_preset_trains_and_leaves_the_backbone_bitwise(
    tmp_path: Path, name: str
) -> None:
    bank, queries = made.images(tmp_path)
    encoder, preset = made.encoder(), LINEAR_PRESETS[name]
    before = copy.deepcopy(encoder.state_dict())
    state = torch.get_rng_state()
    found = [
        linear_score(encoder, bank, queries, preset, training(preset, epochs=2)) for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0].metric == "lin"
    assert (found[0].n, found[0].bank) == (len(queries), len(bank))
    assert torch.equal(torch.get_rng_state(), state)
    assert not encoder.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_augmented_probe_learns_what_crops_and_flips_leave(tmp_path: Path) -> None:
    """Dark images and bright ones; no test image looks like the other class."""
    images = np.random.default_rng(0).integers(0, 90, (40, 16, 16, 3), np.uint8)
    labels = np.arange(40) % 2
    images[labels == 1] += 150
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    table = open_source(str(tmp_path / "set.npz")).table
    rows = np.arange(40)
    bank, queries = (Images(table=table, rows=rows[part]) for part in (rows >= 12, rows < 12))
    preset = LINEAR_PRESETS["simsiam-cifar"]
    run = training(preset, epochs=30, batch=14)
    assert linear_score(made.encoder(), bank, queries, preset, run).accuracy == 1.0


def test_seeds_are_averaged_and_their_deviation_reported(tmp_path: Path) -> None:
    bank, queries = made.images(tmp_path)
    preset = LINEAR_PRESETS["ca-cifar10"]
    score = linear_score(made.encoder(), bank, queries, preset, training(preset, epochs=1))
    by_seed = score.details["by_seed"]
    assert len(by_seed) == 5
    assert score.accuracy == pytest.approx(np.mean(by_seed))
    assert score.details["sd"] == pytest.approx(np.std(by_seed, ddof=1))


def test_the_rate_is_chosen_on_a_validation_split_and_reported() -> None:
    preset = LINEAR_PRESETS["hexa-cifar"]
    bank = blobs(100, 0, spread=1.0)
    score = frozen_score(bank, blobs(60, 1), preset, training(preset))
    accuracy = score.details["validation_accuracy"]
    assert set(accuracy) == set(ADAMAX)
    assert accuracy[score.settings["lr"]] == max(accuracy.values())
    assert score.details["validation"] == "every fifth row of the bank"
    # The queries have no say in it.
    other = frozen_score(bank, blobs(60, 7, spread=2.0), preset, training(preset))
    assert other.details["validation_accuracy"] == accuracy


def test_a_curve_has_a_row_for_each_epoch_and_changes_nothing() -> None:
    preset = LINEAR_PRESETS["frozen"]
    bank, queries = blobs(60, 0, spread=1.0), blobs(60, 1, spread=1.0)
    rows: list[Any] = []
    run = Training(recipe=preset.recipe.changed(epochs=4, batch=25), curve=rows.append, seed=3)
    score = frozen_score(bank, queries, preset, run)
    assert [(each["seed"], each["epoch"], each["step"]) for each in rows] == [
        (3, 1, 3), (3, 2, 6), (3, 3, 9), (3, 4, 12),
    ]  # fmt: skip
    assert rows[-1]["value"] == score.accuracy
    plain = Training(recipe=run.recipe, seed=3)
    assert frozen_score(bank, queries, preset, plain) == score


def test_other_seeds_train_in_another_order() -> None:
    preset = LINEAR_PRESETS["frozen"]
    bank, queries = blobs(60, 0, spread=1.0), blobs(600, 1, spread=1.0)
    recipe = preset.recipe.changed(epochs=2, batch=8, lr=3.0)
    found = {
        frozen_score(bank, queries, preset, Training(recipe=recipe, seed=seed)).accuracy
        for seed in range(4)
    }
    assert len(found) > 1


def test_a_probe_that_diverges_says_what_to_change() -> None:
    preset = LINEAR_PRESETS["moco"]
    bank = blobs(60, 0)
    huge = Samples(bank.features * np.float32(1e30), bank.labels)
    with pytest.raises(DivergedError) as caught:
        frozen_score(huge, huge, preset, training(preset, epochs=3))
    assert caught.value.fix == "give a lower --lr"


def test_of_equal_outputs_the_lower_class_comes_first() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert top_ranks(logits, torch.tensor([0, 1, 0])).tolist() == [0, 1, 2]
    with pytest.raises(DivergedError):
        top_ranks(logits * float("nan"), torch.tensor([0, 1, 0]))
