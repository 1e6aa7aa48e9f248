"""Runs the probe that the options of `viewstore eval` ask for, and says what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
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
    from viewstore.train.eval.logistic import Convention
    from viewstore.train.eval.neighbours import Weighting
    from viewstore.train.eval.recipe import Recipe
    from viewstore.train.eval.samples import Score
    from viewstore.train.eval.training import Curve, Training
    from viewstore.train.eval.transform import EvalTransform

    Answer = tuple[dict[str, Any], str]  # facts for JSON, and text

SHOTS = re.compile(r"[1-9]\d{0,5}(,[1-9]\d{0,5}){0,31}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A probe whose options were checked, before any image is read.

    Attributes:
        preset: Name of its preset; None where there is none.
        transform: Of the queries.
        run: Measures what is learnt from the first images by the second.
    """

    preset: str | None
    transform: EvalTransform
    run: Callable[[Images, Images], Score]


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

    def plan(self) -> Plan:
        """Return the classifier that was asked for. Raises ConfigError: it cannot be trained."""
        return {
            "knn": self._knn,
            "linear": self._linear,
            "logreg": self._logreg,
            "lowshot": self._lowshot,
            "semi": self._semi,
            "finetune": self._finetune,
        }[self.options["probe"]]()

    def classify(self, plan: Plan, bank: Images, queries: Images) -> Answer:
        """Return what a classifier that learns from `bank` says of `queries`."""
        score = plan.run(bank, queries)
        facts = {
            "probe": self.options["probe"],
            "preset": plan.preset,
            "metric": score.metric,
            "accuracy": score.accuracy,
            "standard_error": score.standard_error,
            "n": score.n,
            "bank": score.bank,
            "encoder": self.encoder.digest,
            "settings": {"size": self.encoder.size, **asdict(plan.transform), **score.settings},
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

    def _knn(self) -> Plan:
        from viewstore.train.eval.neighbours import KNN_PRESETS, knn_score

        name = self.options["knn"] or "monitor"
        weighting: Weighting = self.options["weighting"] or "exp"
        transform = self._transform(KNN_PRESETS[name].transform)

        def run(bank: Images, queries: Images) -> Score:
            known, asked = self._features(bank, queries, transform, for_knn=True)
            return knn_score(known, asked, name, weighting=weighting, progress=self.work.progress)

        return Plan(preset=name, transform=transform, run=run)

    def _linear(self) -> Plan:
        from viewstore.train.eval.linear import linear_score
        from viewstore.train.eval.linear_presets import LINEAR_PRESETS
        from viewstore.train.eval.table import preset_of

        name = self.options["preset"] or "frozen"
        found = preset_of(LINEAR_PRESETS, name, "linear")
        preset = replace(
            found, test=self._transform(found.test), train=self._transform(found.train)
        )
        training = self._training(preset.recipe)

        def run(bank: Images, queries: Images) -> Score:
            return linear_score(self.encoder, bank, queries, preset, training)

        return Plan(preset=name, transform=preset.test, run=run)

    def _logreg(self) -> Plan:
        from viewstore.train.eval.logistic import logistic_score
        from viewstore.train.eval.transform import OURS

        transform = self._transform(OURS)
        convention: Convention = self.options["convention"] or "sum"

        def run(bank: Images, queries: Images) -> Score:
            known, asked = self._features(bank, queries, transform)
            progress = self.work.progress
            return logistic_score(known, asked, convention=convention, progress=progress)

        return Plan(preset=None, transform=transform, run=run)

    def _lowshot(self) -> Plan:
        from viewstore.train.eval.lowshot import RUNS, SHOTS, low_shot_score
        from viewstore.train.eval.subsets import check_shots
        from viewstore.train.eval.transform import OURS

        numbers = _shots(self.options["shots"]) or SHOTS
        runs = self.options["runs"] or RUNS
        seed = self._seed()
        transform = self._transform(OURS)

        def run(bank: Images, queries: Images) -> Score:
            check_shots(bank.labels, max(numbers))
            known, asked = self._features(bank, queries, transform)
            return low_shot_score(
                known,
                asked,
                bank.rows,
                numbers=numbers,
                runs=runs,
                seed=seed,
                progress=self.work.progress,
            )

        return Plan(preset=None, transform=transform, run=run)

    def _semi(self) -> Plan:
        from viewstore.train.eval.finetune import SEMI, finetune_score, semi_recipe
        from viewstore.train.eval.subsets import balanced_share, check_share, listed, subset_digest

        path, share = self.options["subset"], self.options["share"]
        if share is not None:
            check_share(share)
        preset = replace(SEMI, test=self._transform(SEMI.test))
        seed = self._seed()
        training = self._training(preset.recipe)

        def run(bank: Images, queries: Images) -> Score:
            few = listed(bank, path) if path else balanced_share(bank, share, seed=seed)
            of = len(few) / len(bank) if path else share
            recipe = self._changed(semi_recipe(of))
            score = finetune_score(
                self.encoder, few, queries, preset, replace(training, recipe=recipe), metric="semi"
            )
            settings = {**score.settings, "share": of, "subset": subset_digest(few)}
            return replace(score, settings=settings)

        return Plan(preset=None, transform=preset.test, run=run)

    def _finetune(self) -> Plan:
        from viewstore.train.eval.finetune import FINETUNE_PRESETS, finetune_score
        from viewstore.train.eval.table import preset_of

        name = self.options["preset"] or "hexa-ft"
        found = preset_of(FINETUNE_PRESETS, name, "finetune")
        preset = replace(found, test=self._transform(found.test))
        training = self._training(preset.recipe)

        def run(bank: Images, queries: Images) -> Score:
            return finetune_score(self.encoder, bank, queries, preset, training)

        return Plan(preset=name, transform=preset.test, run=run)

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

        return Training(
            recipe=self._changed(recipe), seed=self._seed(), work=self.work, curve=self._curve()
        )

    def _changed(self, recipe: Recipe) -> Recipe:
        """Return a recipe with what options change of it."""
        return recipe.changed(
            epochs=self.options["epochs"],
            lr=self.options["lr"],
            batch=self.options["batch_size"],
        )

    def _seed(self) -> int:
        from viewstore.format.plan import checked_seed

        return checked_seed(self.options["seed"] or 0)

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
