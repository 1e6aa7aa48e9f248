"""Numbers of attacks and mixtures: against plain loops in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.inspect.planted import ROWS, pictures, plant
from viewstore.inspect.attacks import attack_numbers, mixture_numbers


def test_attacks_are_counted_against_their_budget(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    before = rng.normal(size=(ROWS, 2)).astype(np.float32)
    after = before + rng.normal(0.3, 1, size=before.shape).astype(np.float32)
    moved = np.ones((ROWS, 2), np.float32)
    moved[3, 1], moved[4, 0], before[5, 0] = 1.5, 1 + 1e-7, np.nan
    values = {"loss0": before, "loss": after, "delta_norm": moved}
    store = plant(
        tmp_path / "s", "p", values, source=pictures(tmp_path / "pictures"),
        eps=1.0, norm="linf", units="pixel255",
    )  # fmt: skip
    found = attack_numbers(store.view_sets["p"])
    pairs = [
        (a, b)
        for a, b in zip(before.reshape(-1).tolist(), after.reshape(-1).tolist(), strict=True)
        if math.isfinite(a)
    ]
    assert (found["views"], found["rose"]) == (len(pairs), sum(b > a for a, b in pairs))
    assert found["mean_after"] == pytest.approx(np.mean([b for _, b in pairs]))
    assert sum(found["before"]) == sum(found["after"]) == len(pairs)
    assert [each["over"] for each in found["by_view"]] == [0, 1]
    assert found["by_view"][1]["percentiles"][3] == 1.5
    assert found["budget"]["norm"] == "linf"


def test_mixtures_are_counted_by_their_exact_and_their_drawn_share(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    kept = rng.uniform(0.5, 1, size=(ROWS, 2)).astype(np.float32)
    kept[2, 0], kept[3, 0] = 1, np.nan
    values = {"mix_lambda": kept, "mix_lambda0": kept - 0.1}
    store = plant(tmp_path / "s", "p", values, source=pictures(tmp_path / "pictures"))
    found = mixture_numbers(store.view_sets["p"])
    known = kept[np.isfinite(kept)].astype(np.float64)
    assert (found["views"], found["whole"]) == (len(known), 1)
    assert found["mean"] == pytest.approx(known.mean())
    assert found["sd"] == pytest.approx(known.std())
    assert found["drawn_mean"] == pytest.approx(known.mean() - 0.1)
    assert sum(found["kept"]) == len(known)
