"""Fine-tuning: all weights of a copy of an encoder are trained on labelled images.

Also semi-supervised training, which is the same on few labels, by the recipe of SimCLR's lists.
Sources: HEXA (arXiv:2012.13493), appendix C; HVP (arXiv:2310.03940), tables 12 and 13.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from viewstore.progress import tracked
from viewstore.train.encoder_file import Encoder
from viewstore.train.eval.features import Images, Work, as_input, open_loader
from viewstore.train.eval.recipe import Recipe
from viewstore.train.eval.samples import Score, check_probed, class_count, validation_split
from viewstore.train.eval.training import (
    Training,
    best_rate,
    classifier,
    epochs_of,
    fit,
    share_within,
    top_ranks,
)
from viewstore.train.eval.transform import CROP, PAPERS, EvalTransform, TrainingCrop

TOP_5_CLASSES = 20  # top-5 is reported from so many classes on
LARGE_BATCH = 64  # of images whose outputs are computed


@dataclass(frozen=True, kw_only=True)
class FinetunePreset:
    """How an encoder is fine-tuned.

    Attributes:
        recipe: How its weights and the head are trained.
        augment: Draws the training images.
        test: The evaluation transform of the queries.
    """

    recipe: Recipe
    augment: TrainingCrop = CROP
    test: EvalTransform = PAPERS


def _hvp(lr: float, epochs: int) -> FinetunePreset:
    """Return a row of HVP; crop, flip, cosine and 5 epochs of warm-up are ours."""
    return FinetunePreset(
        recipe=Recipe(
            optimizer="adamw", lr=(lr,), weight_decay=0.05, epochs=epochs, batch=512, warmup=5
        )
    )


HVP_EPOCHS = {"cifar10": 300, "cifar100": 300, "flowers": 300, "inat21": 100, "food101": 100}
HVP_RATES = {  # in that order: of DINO ViT-S, and of SimSiam ResNet-50
    "dino": (7.5e-6, 7.5e-6, 5e-5, 5e-5, 5e-5),
    "simsiam": (7.5e-6, 5e-6, 5e-4, 7e-5, 5e-6),
}
FINETUNE_PRESETS = {
    "hexa-ft": FinetunePreset(
        recipe=Recipe(
            optimizer="adamax",
            lr=(5e-4, 1e-3, 1e-2),
            epochs=20,
            batch=256,
            milestones=(7, 14),
        )
    ),
    **{
        f"hvp-ft-{net}-{data}": _hvp(lr, epochs)
        for net, rates in HVP_RATES.items()
        for (data, epochs), lr in zip(HVP_EPOCHS.items(), rates, strict=True)
    },
}
# Few labels. The rate of the head is 1 for a share of 1 %, .1 for more.
SEMI = FinetunePreset(
    recipe=Recipe(
        optimizer="sgd",
        lr=(0.1,),
        backbone_lr=0.01,
        weight_decay=5e-4,
        epochs=20,
        batch=256,
        milestones=(12, 16),
        factor=0.2,
    )
)
FEW_LABELS = 0.05  # a share below it has the rate of 1 %


def semi_recipe(share: float) -> Recipe:
    """Return the recipe for training on a share of the labels."""
    return SEMI.recipe.changed(lr=1.0 if share < FEW_LABELS else 0.1)


class Classifier(nn.Module):
    """An encoder that can be trained, and a linear layer on its features."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        """Copy `encoder`, which stays as it is."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, classes] of images, float32 [B, 3, H, W] in [0, 1]."""
        out: Tensor = self.head(self.encoder.features(x))
        return out


def finetune_score(
    encoder: Encoder,
    bank: Images,
    queries: Images,
    preset: FinetunePreset,
    training: Training,
    *,
    metric: str = "finetune",
) -> Score:
    """Return the score of an encoder after all its weights were trained on `bank`.

    Of several learning rates the one is taken that is best on every fifth image of the bank, where
    the others are trained on; then it is trained on all. Batch norms are in training mode, and
    a last batch that is short is dropped. Top-5 is reported where there are 20 classes or more.

    Args:
        encoder: Is left as it was.
        bank: What is trained on.
        queries: What is tested on: all of them.
        preset: Training images and evaluation transform.
        training: How weights are trained; its recipe stands in place of the preset's.
        metric: What the result is called.

    Raises:
        ConfigError: The bank or the queries are of one class.
        DivergedError: The learning rate is too high.
        FormatError: An image cannot be read.
    """
    check_probed(bank.labels, queries.labels)
    classes = class_count(bank.labels, queries.labels)
    rate, *others = training.recipe.lr
    chosen: dict[str, Any] = {}
    if others:
        trains, validates = validation_split(bank.labels)
        known, asked = bank.take(trains), bank.take(validates)
        quiet = replace(training, curve=None)
        rate, chosen = best_rate(
            training.recipe,
            lambda lr: share_within(_trained(encoder, known, asked, preset, quiet, lr, classes), 1),
        )
    ranks = _trained(encoder, bank, queries, preset, training, rate, classes)
    details = dict(chosen)
    if classes >= TOP_5_CLASSES:
        details["top5"] = share_within(ranks, 5)
    return Score(
        metric=metric,
        accuracy=share_within(ranks, 1),
        n=len(queries),
        bank=len(bank),
        settings={"recipe": asdict(training.recipe), "lr": rate, "seed": training.seed},
        details=details,
    )


def _trained(
    encoder: Encoder,
    bank: Images,
    queries: Images,
    preset: FinetunePreset,
    training: Training,
    lr: float,
    classes: int,
) -> Tensor:
    """Train a copy of `encoder` on `bank`; return the rank of the true class of each query."""
    training = training.for_count(len(bank))
    recipe, work = training.recipe, training.work
    with open_loader(
        bank.table,
        bank.rows,
        preset.augment,
        work,
        size=encoder.size,
        batch_size=recipe.batch,
        shuffle=True,
        drop=True,
        seed=training.seed,
    ) as loader:
        head = classifier(_width(encoder, work.device), classes, training.seed)
        model = Classifier(encoder, head).to(work.device).train()

        def accuracy() -> float:
            return share_within(_ranks(model, queries, preset, work), 1)

        total = recipe.epochs * len(loader) * recipe.batch
        with tracked(work.progress, "finetune", total, "images") as progress:
            fit(
                model,
                recipe.make(model.head, lr, list(model.encoder.parameters())),
                epochs_of(loader, work.device),
                recipe,
                progress,
                training.noted(training.seed, accuracy),
            )
    return _ranks(model, queries, preset, work)


def _width(encoder: Encoder, device: str) -> int:
    """Return how many features an encoder has."""
    with torch.inference_mode():
        blank = torch.zeros(1, 3, encoder.size, encoder.size, device=device)
        return encoder.features(blank).shape[1]


def _ranks(model: Classifier, queries: Images, preset: FinetunePreset, work: Work) -> Tensor:
    """Return `top_ranks` of all queries, int64 [N]; the model is in training mode afterwards."""
    size = model.encoder.size
    found = []
    model.eval()
    with (
        open_loader(
            queries.table,
            queries.rows,
            preset.test.policy(size),
            work,
            size=size,
            batch_size=LARGE_BATCH,
        ) as loader,
        torch.inference_mode(),
    ):
        for batch in loader:
            logits = model(as_input(batch.views[0].pixels, work.device))
            found.append(top_ranks(logits, batch.label))
    model.train()
    return torch.cat(found)
