"""Fine-tuning and training on few labels."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.eval import made
from viewstore.sources.open import open_source
from viewstore.train.eval.features import Images, Work
from viewstore.train.eval.finetune import (
    FINETUNE_PRESETS,
    SEMI,
    Classifier,
    FinetunePreset,
    finetune_score,
    semi_recipe,
)
from viewstore.train.eval.training import Training, classifier
from viewstore.train.eval.transform import OURS

HVP = {
    "hvp-ft-dino-cifar10": (7.5e-6, 300),
    "hvp-ft-dino-cifar100": (7.5e-6, 300),
    "hvp-ft-dino-flowers": (5e-5, 300),
    "hvp-ft-dino-inat21": (5e-5, 100),
    "hvp-ft-dino-food101": (5e-5, 100),
    "hvp-ft-simsiam-cifar10": (7.5e-6, 300),
    "hvp-ft-simsiam-cifar100": (5e-6, 300),
    "hvp-ft-simsiam-flowers": (5e-4, 300),
    "hvp-ft-simsiam-inat21": (7e-5, 100),
    "hvp-ft-simsiam-food101": (5e-6, 100),
}


def test_presets_are_the_tables_of_the_papers() -> None:
    assert set(FINETUNE_PRESETS) == {"hexa-ft", *HVP}
    for name, (lr, epochs) in HVP.items():
        recipe = FINETUNE_PRESETS[name].recipe
        assert (recipe.optimizer, recipe.lr, recipe.epochs) == ("adamw", (lr,), epochs), name
        assert (recipe.weight_decay, recipe.batch, recipe.warmup) == (0.05, 512, 5)
        assert recipe.milestones is None
    hexa = FINETUNE_PRESETS["hexa-ft"].recipe
    assert (hexa.optimizer, hexa.lr) == ("adamax", (5e-4, 1e-3, 1e-2))
    assert (hexa.epochs, hexa.batch, hexa.milestones, hexa.factor) == (20, 256, (7, 14), 0.1)
    for preset in (SEMI, *FINETUNE_PRESETS.values()):
        assert preset.augment.scale == (0.08, 1)
        assert (preset.augment.flip, preset.test.resize) == (0.5, "8/7")


def test_few_labels_have_simclrs_rates() -> None:
    recipe = SEMI.recipe
    assert (recipe.optimizer, recipe.weight_decay, recipe.batch) == ("sgd", 5e-4, 256)
    assert (recipe.epochs, recipe.milestones, recipe.factor) == (20, (12, 16), 0.2)
    head = torch.nn.Linear(2, 2)
    backbone = list(torch.nn.Linear(2, 2).parameters())
    for share, lr in ((0.01, 1.0), (0.1, 0.1), (1.0, 0.1)):
        found = semi_recipe(share)
        groups = found.make(head, found.lr[0], backbone).param_groups
        assert [group["peak"] for group in groups] == [lr, 0.01]
        assert {group["weight_decay"] for group in groups} == {5e-4}


def training(preset: FinetunePreset, **changes: float) -> Training:
    return Training(recipe=preset.recipe.changed(**changes), work=Work(threads=1))


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Images, Images]:
    return made.images(tmp_path, 48)


@pytest.mark.parametrize("name", ["hexa-ft", "hvp-ft-simsiam-flowers"])
def test_all_weights_are_trained_on_a_copy(parts: tuple[Images, Images], name: str) -> None:
    bank, queries = parts
    encoder, preset = made.encoder(), FINETUNE_PRESETS[name]
    before = copy.deepcopy(encoder.state_dict())
    state = torch.get_rng_state()
    run = training(preset, epochs=2, lr=1e-2, batch=12)
    found = [finetune_score(encoder, bank, queries, preset, run) for _ in range(2)]
    assert found[0] == found[1]
    assert (found[0].metric, found[0].n, found[0].bank) == ("finetune", len(queries), len(bank))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(each.requires_grad for each in encoder.parameters())


def test_fine_tuning_changes_the_backbone_and_its_batch_norms(
    parts: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, queries = parts
    trained: list[Classifier] = []
    make = Classifier.__init__

    def remember(self: Classifier, *arguments: object) -> None:
        make(self, *arguments)  # type: ignore[arg-type]
        trained.append(self)

    monkeypatch.setattr(Classifier, "__init__", remember)
    encoder, preset = made.encoder(), FINETUNE_PRESETS["hexa-ft"]
    run = training(preset, epochs=1, lr=1e-2, batch=12)
    finetune_score(encoder, bank, queries, preset, run)
    (model,) = trained
    ours = dict(model.encoder.network.backbone.state_dict())
    for key, value in encoder.network.backbone.state_dict().items():
        assert not torch.equal(value, ours[key]), key


def test_separable_images_are_learnt(parts: tuple[Images, Images]) -> None:
    bank, queries = parts
    still = replace(FINETUNE_PRESETS["hexa-ft"], test=OURS)
    # A flip would take one class for the other.
    still = replace(still, augment=replace(still.augment, flip=0, scale=(0.9, 1)))
    rows: list[Any] = []
    run = replace(training(still, epochs=30, lr=1e-2, batch=12), curve=rows.append)
    score = finetune_score(made.encoder(), bank, queries, still, run)
    assert score.accuracy == 1.0
    assert len(rows) == 30
    assert rows[-1] == {"seed": 0, "epoch": 30, "step": 90, "value": 1.0}
    assert "top5" not in score.details
    plain = replace(run, curve=None)
    assert finetune_score(made.encoder(), bank, queries, still, plain) == score


def test_the_rate_is_chosen_on_every_fifth_image(parts: tuple[Images, Images]) -> None:
    bank, queries = parts
    preset = FINETUNE_PRESETS["hexa-ft"]
    score = finetune_score(made.encoder(), bank, queries, preset, training(preset, epochs=1))
    accuracy = score.details["validation_accuracy"]
    assert set(accuracy) == {5e-4, 1e-3, 1e-2}
    assert accuracy[score.settings["lr"]] == max(accuracy.values())


def test_top_five_is_reported_from_twenty_classes_on(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(60) % 20)
    table = open_source(str(tmp_path / "set.npz")).table
    bank = Images(table=table, rows=np.arange(40))
    queries = Images(table=table, rows=np.arange(40, 60))
    preset = SEMI
    run = training(preset, epochs=1, lr=0.01)
    score = finetune_score(made.encoder(), bank, queries, preset, run, metric="semi")
    assert score.metric == "semi"
    assert score.accuracy <= score.details["top5"] <= 1


def test_a_classifier_is_drawn_by_its_seed_alone() -> None:
    one, same, other = (classifier(4, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert (one.bias == 0).all()
