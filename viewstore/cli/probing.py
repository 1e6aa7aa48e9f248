"""Runs the probe that the options of `viewstore eval` ask for, and says what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from viewstore.cli.options import shortened
from viewstore.errors import ConfigError, counted
from viewstore.format.records import jsonable

if TYPE_CHECKING:
    from viewstore.sources.table import SourceTable
    from viewstore.train.encoder_file import Encoder
    from viewstore.train.eval.features import Images, Work
    from viewstore.train.eval.neighbours import Weighting
    from viewstore.train.eval.recipe import Recipe
    from viewstore.train.eval.samples import Score
    from viewstore.train.eval.training import Curve, Training
    from viewstore.train.eval.transform import EvalTransform

    Answer = tuple[dict[str, Any], str]  # facts for JSON, and text

SHOTS = re.compile(r"[1-9]\d{0,5}(,[1-9]\d{0,5}){0,31}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A probe that was asked for.

    Attributes:
        encoder: What is probed, on its device.
        options: Those of the command, checked.
        work: Device, threads and progress.
        stack: Closes the file of the curve.
    """

    encoder: Encoder
    options: Mapping[str, Any]
    work: Work
    stack: ExitStack

    def classify(self, bank: Images, queries: Images) -> Answer:
        """Return what a classifier that learns from `bank` says of `queries`."""
        run = {
            "knn": self._knn,
            "linear": self._linear,
            "logreg": self._logreg,
            "lowshot": self._lowshot,
            "semi": self._semi,
            "finetune": self._finetune,
        }[self.options["probe"]]
        preset, transform, score = run(bank, queries)
        facts = {
            "probe": self.options["probe"],
            "preset": preset,
            "metric": score.metric,
            "accuracy": score.accuracy,
            "standard_error": score.standard_error,
            "n": score.n,
            "bank": score.bank,
            "encoder": self.encoder.digest,
            "settings": {"size": self.encoder.size, **asdict(transform), **score.settings},
            **score.details,
        }
        return facts, _text(score)

    def retrieve(self, table: SourceTable) -> Answer:
        """Return how well the images of a ground truth are found in a source."""
        from viewstore.train.eval.ground_truth import read_ground_truth
        from viewstore.train.eval.retrieval import retrieve

        truth = read_ground_truth(self.options["ground_truth"], table)
        score = retrieve(self.encoder, table, truth, self.work)
        facts = {
            "probe": "retrieval",
            "metric": "mAP",
            **asdict(score),
            "encoder": self.encoder.digest,
            "settings": {"size": self.encoder.size, "resize": "squashed", "filter": "pil"},
        }
        lines = [
            f"{name}: mAP {100 * value:.2f} (standard error {100 * score.standard_error[name]:.2f}"
            f"), mP@{score.k} {100 * score.precision_at_k[name]:.2f} of "
            f"{score.queries[name]} queries in {counted(score.database, 'image')}"
            for name, value in score.mean_average_precision.items()
        ]
        return facts, "\n".join(lines)

    def _knn(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.neighbours import KNN_PRESETS, knn_score

        name = self.options["knn"] or "monitor"
        transform = self._transform(KNN_PRESETS[name].transform)
        known, asked = self._features(bank, queries, transform, for_knn=True)
        weighting: Weighting = self.options["weighting"] or "exp"
        score = knn_score(known, asked, name, weighting=weighting, progress=self.work.progress)
        return name, transform, score

    def _linear(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.linear import linear_score
        from viewstore.train.eval.linear_presets import LINEAR_PRESETS
        from viewstore.train.eval.table import preset_of

        name = self.options["preset"] or "frozen"
        preset = preset_of(LINEAR_PRESETS, name, "linear")
        test = self._transform(preset.test)
        preset = replace(preset, test=test, train=self._transform(preset.train))
        training = self._training(preset.recipe)
        return name, test, linear_score(self.encoder, bank, queries, preset, training)

    def _logreg(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.logistic import logistic_score
        from viewstore.train.eval.transform import OURS

        transform = self._transform(OURS)
        known, asked = self._features(bank, queries, transform)
        score = logistic_score(
            known,
            asked,
            convention=self.options["convention"] or "sum",
            progress=self.work.progress,
        )
        return None, transform, score

    def _lowshot(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.lowshot import RUNS, SHOTS, low_shot_score
        from viewstore.train.eval.subsets import check_shots
        from viewstore.train.eval.transform import OURS

        numbers = _shots(self.options["shots"]) or SHOTS
        seed = self.options["seed"] or 0
        check_shots(bank.labels, max(numbers))
        transform = self._transform(OURS)
        known, asked = self._features(bank, queries, transform)
        score = low_shot_score(
            known,
            asked,
            bank.rows,
            numbers=numbers,
            runs=self.options["runs"] or RUNS,
            seed=seed,
            progress=self.work.progress,
        )
        return None, transform, score

    def _semi(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.finetune import finetune_score, semi_preset
        from viewstore.train.eval.subsets import balanced_share, listed, subset_digest

        path, share = self.options["subset"], self.options["share"]
        seed = self.options["seed"] or 0
        few = listed(bank, path) if share is None else balanced_share(bank, share, seed=seed)
        share = len(few) / len(bank) if share is None else share
        preset = semi_preset(share)
        preset = replace(preset, test=self._transform(preset.test))
        training = self._training(preset.recipe)
        score = finetune_score(self.encoder, few, queries, preset, training, metric="semi")
        settings = {**score.settings, "share": share, "subset": subset_digest(few)}
        return None, preset.test, replace(score, settings=settings)

    def _finetune(self, bank: Images, queries: Images) -> tuple[str | None, EvalTransform, Score]:
        from viewstore.train.eval.finetune import FINETUNE_PRESETS, finetune_score
        from viewstore.train.eval.table import preset_of

        name = self.options["preset"] or "hexa-ft"
        preset = preset_of(FINETUNE_PRESETS, name, "finetune")
        preset = replace(preset, test=self._transform(preset.test))
        training = self._training(preset.recipe)
        return name, preset.test, finetune_score(self.encoder, bank, queries, preset, training)

    def _features(
        self, bank: Images, queries: Images, transform: EvalTransform, *, for_knn: bool = False
    ) -> Any:  # noqa: ANN401
        from viewstore.train.eval.features import features_of
        from viewstore.train.eval.samples import check_probed

        check_probed(bank.labels, queries.labels)
        policy = transform.policy(self.encoder.size)
        return [
            features_of(self.encoder, images, policy, self.work, for_knn=for_knn)
            for images in (bank, queries)
        ]

    def _transform(self, default: EvalTransform) -> EvalTransform:
        """Return the evaluation transform of a preset with what options change of it."""
        given = {"resize": self.options["eval_resize"], "filter": self.options["filter"]}
        return replace(default, **{name: each for name, each in given.items() if each is not None})

    def _training(self, recipe: Recipe) -> Training:
        """Return a training by the recipe of a preset with what options change of it."""
        from viewstore.train.eval.training import Training

        changed = recipe.changed(
            epochs=self.options["epochs"],
            lr=self.options["lr"],
            batch=self.options["batch_size"],
        )
        seed = self.options["seed"] or 0
        return Training(recipe=changed, seed=seed, work=self.work, curve=self._curve())

    def _curve(self) -> Curve | None:
        """Return what writes each row to the file of --curve, a line at a time."""
        path = self.options["curve"]
        if path is None:
            return None
        file = self.stack.enter_context(path.open("w"))

        def write(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(jsonable(row)) + "\n")
            file.flush()

        return write


def _shots(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of "2,4,8". Raises ConfigError."""
    if text is None:
        return None
    if not SHOTS.fullmatch(text.replace(" ", "")):
        raise ConfigError(f"--shots must be numbers like 2,4,8, got {shortened(text)!r}")
    return tuple(int(each) for each in text.split(","))


def _text(score: Score) -> str:
    """Return what was measured, with its standard error, and what stands beside it."""
    name, details = score.metric, score.details
    if name == "knn":
        name = f"knn of {counted(score.settings['neighbours'], 'neighbour')}"
    if name == "lowshot":
        name = f"lowshot of {score.settings['shots']} a class"
    lines = [
        f"{name}: {100 * score.accuracy:.2f} % of {score.n} right "
        f"(standard error {100 * score.standard_error:.2f}), learnt from {score.bank}"
    ]
    if "sd" in details:
        count = counted(len(details["by_seed"]), "probe seed")
        lines.append(f"mean of {count}, standard deviation {100 * details['sd']:.2f}")
    if "validation_accuracy" in details:
        lines.append(f"lr {score.settings['lr']:g} chosen on {details['validation']}")
    if "mean_per_class" in details:
        lines.append(f"mean per class {100 * details['mean_per_class']:.2f} %")
    if "top5" in details:
        lines.append(f"top-5 {100 * details['top5']:.2f} %")
    for k, found in details.get("by_shots", {}).items():
        spread = "" if found["sd"] is None else f" +- {100 * found['sd']:.2f}"
        lines.append(f"{k} a class: {100 * found['mean']:.2f}{spread} %")
    return "\n".join(lines)
