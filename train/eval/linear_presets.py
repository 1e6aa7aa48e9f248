"""The linear probes of papers, by name: recipe, training images, evaluation transform.

Where a paper says no schedule, batch or lr, a comment says what stands here instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from viewstore.train.eval.recipe import Recipe
from viewstore.train.eval.transform import CROP, OURS, PAPERS, EvalTransform, TrainingCrop


@dataclass(frozen=True, kw_only=True)
class LinearPreset:
    """A linear probe of frozen features; the backbone stays in evaluation mode.

    Attributes:
        recipe: How the layer is trained.
        augment: Draws the training images anew in each epoch. None: they are not augmented, their
            features are computed once, and what is measured is called `lin_frozen`.
        train: What is done to training images that are not augmented.
        test: The evaluation transform of the queries.
        seeds: How many probe seeds the mean is taken over.
        standardise: Whether features are standardised by mean and deviation of the bank.
    """

    recipe: Recipe
    augment: TrainingCrop | None = CROP
    train: EvalTransform = PAPERS
    test: EvalTransform = PAPERS
    seeds: int = 1
    standardise: bool = False

    @property
    def metric(self) -> str:
        return "lin_frozen" if self.augment is None else "lin"

    def seeds_from(self, seed: int) -> range:
        """Return the probe seeds, of which `seed` is the first."""
        return range(seed, seed + self.seeds)


def _sgd(lr: float, epochs: int, batch: int, *milestones: int, per: int | None = None) -> Recipe:
    return Recipe(
        optimizer="sgd",
        lr=(lr,),
        lr_batch=per,
        epochs=epochs,
        batch=batch,
        milestones=milestones or None,
    )


def _nesterov(lr: float) -> Recipe:
    return Recipe(optimizer="nesterov", lr=(lr,), lr_batch=256, epochs=90, batch=256)


_MOCO = _sgd(30, 100, 256, 60, 80)
_CA = _sgd(30, 100, 256)
_BICUBIC = EvalTransform(resize="8/7", filter="bicubic")
_ADAMAX = Recipe(
    optimizer="adamax", lr=(0.1, 0.01, 0.001), epochs=20, batch=256, milestones=(7, 14)
)
_LARS = Recipe(optimizer="lars", lr=(0.1,), epochs=90, batch=4096)

LINEAR_PRESETS = {
    # Ours: no row of a paper.
    "frozen": LinearPreset(
        recipe=_sgd(0.1, 100, 256),
        augment=None,
        train=OURS,
        test=OURS,
        standardise=True,
    ),
    "simsiam-cifar": LinearPreset(recipe=_sgd(30, 100, 256)),
    "dssl-cifar": LinearPreset(recipe=_MOCO, augment=TrainingCrop(scale=(0.8, 1), bicubic=True)),
    # Schedule unsaid: cosine. For encoders of SimCLR and of SimSiam.
    "gs": LinearPreset(recipe=_nesterov(0.1)),
    "gs-simsiam": LinearPreset(recipe=_nesterov(30)),
    "simsiam-imagenet": LinearPreset(recipe=_LARS),  # schedule unsaid: cosine
    "hvp-simclr-imagenet": LinearPreset(recipe=_sgd(0.1, 90, 4096, per=256)),
    "dino": LinearPreset(recipe=_sgd(7.5e-4, 100, 1024)),  # schedule unsaid: cosine
    "moco": LinearPreset(recipe=_MOCO),
    "hexa-moco": LinearPreset(recipe=_MOCO),
    "hexa-dc": LinearPreset(recipe=_sgd(0.3, 100, 256)),  # batch unsaid: 256
    "ca-cifar10": LinearPreset(recipe=_CA, augment=None, train=OURS, test=_BICUBIC, seeds=5),
    "ca-cifar10-aug": LinearPreset(
        recipe=_CA, augment=TrainingCrop(bicubic=True), test=_BICUBIC, seeds=5
    ),
    # 224 px in the paper: the encoder's size.
    "hexa-cifar": LinearPreset(
        recipe=_ADAMAX,
        augment=None,
        train=EvalTransform(filter="pil"),
        test=EvalTransform(filter="pil"),
    ),
}
