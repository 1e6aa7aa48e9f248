"""What an inversion came to: quantiles, the share off goal, the worst keys."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import invoke, run
from viewstore.inspect.inversion import WORST, inversion_report
from viewstore.inspect.ranking import is_inversion
from viewstore.store.store import Store, open_store
from viewstore.store.view_set import ViewSet


def test_figures_are_those_of_the_columns(searched: Path) -> None:
    store = open_store(searched)
    recon = store.view_set("recon")
    report = inversion_report(store, recon)
    mse, shift = recon.params["x_invert_mse"], recon.params["anchor_shift"]
    assert report.samples == len(recon)
    assert report.shift is not None
    assert report.mse is not None
    for found, values in ((report.mse, mse), (report.shift, shift)):
        below = np.sort(values.astype(np.float64))
        assert below[len(below) // 2 - 1] <= found.p50 <= below[len(below) // 2]
        assert below[0] <= found.p50 <= found.p95 <= below[-1]
    off = (recon.params["status"] == 2).mean()
    assert report.off_goal == pytest.approx(off)
    assert [each.row for each in report.worst] == np.argsort(-shift, kind="stable")[:WORST].tolist()
    for each in report.worst:
        assert each.key == store.keys[each.row]
        assert (each.mse, each.shift) == (mse[each.row], shift[each.row])
        assert each.met == (recon.params["status"][each.row, 0] == 1)
    assert not is_inversion(store.view_set("w-search"))


class Inverted(SimpleNamespace):
    """What an inversion has that its report reads."""

    def __len__(self) -> int:
        return len(self.params["status"])


def inverted(status: list[int], mse: list[float], shift: list[float] | None) -> ViewSet:
    params = {"status": np.array(status, np.uint8)[:, None], "x_invert_mse": np.float32(mse)}
    if shift is not None:
        params["anchor_shift"] = np.float32(shift)
    stats = {"status": SimpleNamespace(fill=0, min=min(status), max=max(status))}
    plan = SimpleNamespace(parent=None, generator={"args": {}})
    return cast(ViewSet, Inverted(params=params, plan=plan, stats=stats))


def keyed(count: int) -> Store:
    return cast(Store, SimpleNamespace(keys=[f"k{row}" for row in range(count)]))


def test_failed_ones_are_the_worst_and_unread_ones_are_none() -> None:
    nan = float("nan")
    view_set = inverted(
        [1, 2, 3, 4, 1, 0], [0.1, 0.5, nan, nan, 0.2, nan], [1, 3, nan, nan, 2, nan]
    )
    report = inversion_report(keyed(6), view_set)
    assert (report.samples, report.off_goal) == (3, pytest.approx(1 / 3))
    assert [(each.key, each.met) for each in report.worst] == [
        ("k2", False),
        ("k1", False),
        ("k4", True),
        ("k0", True),
    ]
    told: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    assert told["shift"] == {"p50": 2.0, "p95": pytest.approx(2.9)}
    assert told["worst"][0] == {"key": "k2", "row": 2, "mse": None, "shift": None, "met": False}
    assert report.lines() == [
        "  pixel error (mse): p50 0.2, p95 0.47",
        "  feature shift: p50 2, p95 2.9",
        "  off goal: 33.3 % of 3 samples",
        "  worst: k2 (-), k1 (3), k4 (2), k0 (1)",
    ]


def test_without_an_encoder_the_pixel_error_counts() -> None:
    view_set = inverted([1, 2, 2], [0.1, 0.3, 0.2], None)
    report = inversion_report(keyed(3), view_set)
    assert report.shift is None
    assert [each.key for each in report.worst] == ["k1", "k2", "k0"]


def test_where_nothing_was_made_there_is_nothing_to_report() -> None:
    report = inversion_report(keyed(1), inverted([4], [float("nan")], None))
    assert (report.samples, report.mse, report.off_goal, report.worst) == (0, None, 0.0, ())
    assert report.lines() == ["  off goal: 0.0 % of 0 samples"]


def test_the_worst_are_shown_beside_their_originals(searched: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "worst.png"
    arguments = ["inspect", searched, "--worst", "--view-set", "recon", "--sheet", sheet]
    assert "3 samples" in invoke(*arguments, "-n", 3).output
    with Image.open(sheet) as picture:
        three = picture.size
    invoke(*arguments, "-n", 1)
    with Image.open(sheet) as picture:
        assert picture.size[1] < three[1]


@pytest.mark.parametrize(
    ("arguments", "message", "fix"),
    [
        (["--worst"], "--worst is about one view set", "name it with --view-set: recon, w-search"),
        (["--worst", "--view-set", "recon", "--random"], "--worst chooses the samples", None),
        (["7", "--worst", "--view-set", "recon"], "--worst chooses the samples", None),
    ],
)
def test_worst_samples_of_what_must_be_said(
    capsys: pytest.CaptureFixture[str],
    searched: Path,
    arguments: list[str],
    message: str,
    fix: str | None,
) -> None:
    code, _, err = run(capsys, "inspect", searched, *arguments)
    assert code == 2
    assert message in err
    assert fix is None or fix in err
