"""The experiments of docs/results.md: the page says what its files say; each trial runs small."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, spearmanr

from tests.benchmarks.test_loaders import module
from tests.train.selections import PAIRS, log_steps, step_of
from viewstore.errors import ConfigError
from viewstore.images.operators.table import OPERATORS
from viewstore.store.store import Store
from viewstore.train.encoder_file import Encoder, EncoderSettings
from viewstore.train.nets.network import seeded_network
from viewstore.train.overlap import pairwise_iou
from viewstore.train.selection_file import load_selections

experiments = module("experiments")
ages, arms_of, choices, cost, crop_search, graded, hexa = (
    module(f"trials.{name}")
    for name in ("ages", "arms", "choices", "cost", "crop_search", "graded", "hexa")
)
loop_share, operators, record, turns, world = (
    module(f"trials.{name}") for name in ("loop_share", "operators", "record", "turns", "world")
)
attacks = module("trials.attacks")
RESULTS = sorted(experiments.RESULTS.glob("*.json"))


@pytest.fixture(autouse=True)
def one_thread() -> Any:  # noqa: ANN401
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """64 digits with four cached views each, and a choice of two of them."""
    out = tmp_path_factory.mktemp("trials") / "store"
    return arms_of.choose(world.store_of(out, "digits", 64, views=4))


def encoder(**settings: Any) -> Encoder:  # noqa: ANN401
    values = {"backbone": "conv3", "projector": (16, 8), "size": 16, "policy": ""}
    made = EncoderSettings(**{**values, **settings}, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Encoder(made, seeded_network(made.network(), 0)).eval()


def test_the_page_says_what_the_files_say() -> None:
    page = experiments.PAGE.read_text()
    assert RESULTS
    assert experiments.page_of(page, experiments.RESULTS) == page


def test_the_picture_shows_what_the_file_says() -> None:
    picture = experiments.PAGE.with_name(experiments.PLOT)
    assert picture.read_text() == experiments.plot_of(experiments.RESULTS)
    assert f"]({picture.name})" in experiments.PAGE.read_text()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_file_says_how_it_was_measured(path: Path) -> None:
    text = path.read_text()
    found = json.loads(text)
    assert not re.search(r'"[^"]*/(work|tmp|home|root)/', text)
    assert tuple(found["command"][:2]) == record.SCRIPT
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert found["threads"] == world.THREADS
    assert min(found["load_before"], found["load_after"], found["seconds"]) > 0
    for line in found["lines"]:
        assert set(line) == set(record.Line.__dataclass_fields__)
        assert line["verdict"] in ("yes", "no", "inconclusive", "-")


def test_a_command_keeps_no_folder() -> None:
    found = record.Record(["--source", "/a/b/train.tar", "--out=/c/d.json"]).to_json()["command"]
    assert found == [*record.SCRIPT, "--source", "train.tar", "--out=d.json"]


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.5, 0.6), "yes"), ((0.4, 0.6), "inconclusive"), ((0.1, 0.4), "no"), ((0.9, 1), "no")],
)
def test_a_verdict_is_that_of_the_whole_interval(interval: Any, said: str) -> None:  # noqa: ANN401
    assert record.verdict(interval, 0.45, 0.8) == said


def test_trainings_take_turns_and_each_is_timed() -> None:
    order: list[str] = []

    def training(name: str) -> Any:  # noqa: ANN401
        def run(stepped: Any) -> None:  # noqa: ANN401
            while True:
                order.append(name)
                if stepped():
                    return

        return run

    found = turns.take_turns({name: training(name) for name in "abc"}, steps=2, rounds=3)
    assert "".join(order) == "aabbcc" + "ccbbaa" + "aabbcc" + "ccbbaa"
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(turn.seconds > 0 for each in found.values() for turn in each)


def test_a_training_that_fails_ends_the_others() -> None:
    def fails(stepped: Any) -> None:  # noqa: ANN401
        stepped()
        raise ValueError("broken")

    def endless(stepped: Any) -> None:  # noqa: ANN401
        while not stepped():
            pass

    with pytest.raises(ValueError, match="broken"):
        turns.take_turns({"a": endless, "b": fails}, steps=1, rounds=5)


@pytest.mark.parametrize("count", [6, 7, 12, 20])
def test_the_interval_of_a_median_covers_95_percent(count: int) -> None:
    low, high = cost.interval_of_median([float(place) for place in range(count)])
    left_out = int(low)
    assert high == count - 1 - left_out
    assert 1 - 2 * binom.cdf(left_out, count, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(left_out + 1, count, 0.5) < 0.95


def test_steps_of_strategies_are_counted_and_timed(store: Store) -> None:
    names = ("plain", "hvp every 1", "hvp every 2", "plain of cached views", "hvp-cached")
    arms = {name: arms_of.GROUPS["hvp"][name] for name in names}
    found = cost.measure(store, arms, backbone="conv3", batch_size=8, steps=2, rounds=2)
    counted = {name: cost.units(found[name], arms[name]) / 6 for name in names}
    assert counted == pytest.approx(dict(zip(names, (1, 10 / 6, 8 / 6, 1, 1), strict=True)))
    assert all(len(each["cpu_seconds_per_step"]) == 2 for each in found.values())
    ratios = cost.ratios(found, "hvp every 1", "plain", "cpu_seconds_per_step")
    assert all(ratio > 0 for ratio in ratios)


def test_arms_compare_with_an_arm_of_their_group() -> None:
    for arms in arms_of.GROUPS.values():
        assert arms["plain"].over == "plain"
        assert all(arm.over in arms for arm in arms.values())
        for arm in arms.values():
            arm.config("conv3", 8)  # its names and settings are known


def test_the_parts_of_the_loop_are_its_whole(store: Store) -> None:
    found = loop_share.measure(store, backbone="conv3", batch_size=8, steps=3)
    parts = found["seconds_per_step"]
    assert set(loop_share.WORK) < set(parts)
    assert all(seconds > 0 for seconds in parts.values())
    outside = sum(spent for name, spent in parts.items() if name not in loop_share.WORK)
    assert found["share"] == pytest.approx(outside / sum(parts.values()))
    assert 0 <= found["wait_share"] < 1


def test_an_attack_raises_losses_and_random_signs_move_one_level(store: Store) -> None:
    config = world.config_of(*(hexa.POLICY,) * 2, backbone="conv3", steps=1)
    method = hexa.method_of(seeded_network(config.network, 0), config)
    first, views = hexa.batches_of(store, 32)
    assert set(first.sample.tolist()).isdisjoint(views.sample.tolist())
    plan, clean, attacked = hexa.compared(method, views)
    assert (attacked > clean).float().mean() > 0.9
    signs = hexa.with_random_signs(plan, views)
    for place in plan.views.of("adversarial"):
        levels = views.pixels[plan.views.parent[place]].float()
        moved = (signs.views.pixels[place] - levels).abs()
        inside = (levels > 0) & (levels < 255)
        assert moved.max() == 1
        assert (moved[inside] == 1).all()
    found = hexa.raised(method, [views, first])
    assert found["attack"]["n"] == 64
    one = hexa.raised(method, [views])
    assert one["attack"]["share"] == pytest.approx(float((attacked > clean).double().mean()))
    assert one["losses"]["clean"] == pytest.approx(float(clean.mean()))


def test_attacks_that_are_one_end_in_the_same_weights(store: Store, tmp_path: Path) -> None:
    found = hexa.equal_attacks(store, tmp_path, 2, "conv3")
    assert [each["equal"] for each in found.values()] == [True, True, True, False]


def test_both_ways_to_choose_crops_agree() -> None:
    kept = record.Record([])
    options = {"source": "digits", "samples": 4, "repeats": 1, "backbone": "conv3"}
    crop_search.report(kept, options)
    assert kept.facts["same_choice"]
    assert kept.facts["combinations"] == 51_480
    assert kept.facts["scores"] == {"table": 72, "anew": 128 * 18}


@pytest.mark.slow
def test_distances_of_generated_digits_are_read_from_their_sets() -> None:
    kept = record.Record([])
    module("trials.digits_gan").report(kept, {"samples": 4, "fewer": 2})
    search, perturb = (kept.facts["distances"][name] for name in ("w-search", "w-perturb"))
    assert search["sd"] < perturb["sd"]
    assert search["mean"] == pytest.approx(0.3, abs=0.02)
    assert all(each["max"] < 0.5 for each in kept.facts["mean_pairs"].values())


def test_each_operator_is_asked_alone() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(12)]
    found = operators.farther(encoder(), images, seed=0)
    assert len(found) == 17
    assert all(each.shape == (12,) for each in found.values())
    apart = operators.overall({"a": np.array([True, True]), "b": np.array([True, False])})
    assert apart["share"] == 0.75  # images of 1 and 1/2: a standard error of 1/4
    assert apart["interval"] == pytest.approx((0.75 - 1.96 / 4, 0.75 + 1.96 / 4), abs=1e-4)
    space = operators.spaces(operators.MAGNITUDE)["Invert"]
    heavy = operators.heavier(images, space, 0)
    assert all((255 - a == b).all() for a, b in zip(images, heavy, strict=True))
    names = {operator.name for operator in OPERATORS}
    assert set(found) - {operators.BOTH} <= names
    assert set(operators.CLAIMS) - {operators.ANY} <= set(found)


def test_choices_of_checkpoints_are_compared_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AGES", (0, 1)), ("BATCH", 8), ("BANK", 10)):
        monkeypatch.setattr(ages, name, value)
    kept = record.Record([])
    options = {"source": "digits", "rows": 24, "epochs": 2, "batch_size": 8, "backbone": "conv3"}
    ages.report(kept, options)
    facts = kept.facts
    assert facts["brute_force"]["n"] == 24
    assert facts["brute_force"]["largest_difference"] < 1e-6
    now, before = facts["ages"]
    assert (now["age"], before["age"], now["present"]) == (0, 1, 2)
    assert now[ages.OFFLINE]["same"] == 24
    assert now[ages.TRAINING]["n"] == 24
    assert before[ages.OFFLINE]["same"] <= 24
    assert len(kept.lines) == 1 + 1 + 4
    assert ages.plot(facts["ages"]).count("<line") > 8


def test_epochs_of_a_selection_log_are_those_of_a_loop(tmp_path: Path) -> None:
    log_steps(tmp_path, after=0, until=3, checkpoints=(3,))
    (epoch,) = choices.epochs_of(tmp_path)
    least, overlaps, firsts = [], [], []
    for step in range(3):
        logged = step_of(step)
        boxes = torch.stack([each["crop_box"] for each in logged["params"]], dim=1)
        for iou, chosen in zip(pairwise_iou(boxes, PAIRS), logged["chosen"], strict=True):
            least.append(int(iou.argmin()) == int(chosen))
            overlaps.append(float(iou[chosen]))
            firsts.append(float(iou[0]))
    assert (epoch["n"], epoch["steps"]) == (len(least), 3)
    assert epoch["share"] == pytest.approx(np.mean(least))
    assert epoch["iou"]["mean"] == pytest.approx(np.mean(overlaps))
    apart = np.array(overlaps) - np.array(firsts)
    assert epoch["difference"]["se"] == pytest.approx(apart.std(ddof=1) / math.sqrt(len(apart)))
    low, high = epoch["wilson"]
    assert low < epoch["share"] < high or epoch["share"] in (0, 1)
    assert f"{epoch['share']:.3f}" in choices.printed([epoch])


def test_a_run_without_choices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no log of choices"):
        choices.epochs_of(tmp_path)
    log_steps(tmp_path, after=0, until=1, checkpoints=(1,))
    (path,) = choices.selection_files(tmp_path)
    rows = load_selections(path)
    object.__setattr__(rows, "iou", None)
    with pytest.raises(ConfigError, match="no crop boxes"):
        choices.epoch_of(rows)


def test_crops_are_correlated_by_rank_over_images() -> None:
    made = encoder()
    image, overlap, cosine = graded.pairs_of(made, "digits", 6, (0.08, 1.0))
    assert set(image) <= set(range(6))
    assert (overlap < graded.LAMBDA).all()
    assert (np.abs(cosine) <= 1 + 1e-6).all()
    found = graded.measure(made, "digits", 6, (0.08, 1.0))
    assert found["spearman"] == pytest.approx(spearmanr(overlap, cosine).statistic)
    low, high = found["interval"]
    assert low < found["spearman"] < high
    assert found == graded.measure(made, "digits", 6, (0.08, 1.0))


def test_the_interval_of_a_correlation_counts_images_not_pairs() -> None:
    rng = np.random.default_rng(3)
    centre = rng.normal(size=40)
    image = np.repeat(np.arange(40), 30)
    first = centre[image] + 0.01 * rng.normal(size=len(image))
    second = rng.normal(size=40)[image] + 0.01 * rng.normal(size=len(image))
    low, high = graded.interval(image, first, second)
    assert high - low > 0.3  # of 1,200 pairs that were independent it would be 0.11


def test_commands_of_runs_write_what_they_found(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a training that logs its choices, to lines in JSON and on the terminal."""
    given = {"log_every": 1}
    config = world.config_of(
        *("online:simclr",) * 4,
        strategy="hvp",
        given=given,
        backbone="conv3",
        batch_size=16,
        epochs=2,
    )
    world.train(store, config, tmp_path / "run")
    encoder_file = tmp_path / "run" / "encoder.safetensors"
    for words in (
        ["selection", tmp_path / "run"],
        ["graded-correlation", encoder_file, "--source", "digits", "--images", 8],
    ):
        out = tmp_path / "found.json"
        experiments.main([*map(str, words), "--out", str(out)], standalone_mode=False)
        found = json.loads(out.read_text())
        assert [line["steps"] for line in found["lines"]] == [8] * len(found["lines"])
        assert all(line["ours"] in capsys.readouterr().out for line in found["lines"][:1])


def test_stored_attacks_and_mixes_are_told_against_their_controls(tmp_path: Path) -> None:
    store = world.store_of(tmp_path / "store", "digits", 48, views=2)
    views = f"cached:{attacks.VIEWS}"
    config = world.config_of(
        views, views, method="simsiam", backbone="conv3", batch_size=24, steps=2
    )
    world.train(store, config, tmp_path / "run")
    found = attacks.method_found(store, tmp_path / "run", "simsiam")
    assert found["largest_change"] == 1
    assert found["attack"]["share"] > 0.9 > 0.75 > found["random signs"]["share"] > 0.25
    assert [line.steps for line in attacks.lines_of("simsiam", found, "here", 2)] == [2, 2]
    mixed = attacks.mixed_found(store)
    assert mixed["equal_to_counted"] == mixed["n"] == 96
