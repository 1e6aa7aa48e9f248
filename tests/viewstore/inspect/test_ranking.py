"""The worst samples of a view set: which they are, in which order, and by what number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.viewstore.commands import invoke, run
from viewstore.inspect.pages.site import Site
from viewstore.inspect.ranking import OFF_BY, Ranking, ranking_of
from viewstore.store.constraints import Constraints
from viewstore.store.store import open_store
from viewstore.store.view_set import ViewSet

MET = "all meet their goal; the nearest misses are:"


class Searched:
    """What a view set has that a ranking reads."""

    def __init__(self, status: list[list[int]], distance: list[list[float]]) -> None:
        self.params = {
            "status": np.array(status, np.uint8),
            "distance": np.array(distance, np.float32),
        }
        self.stats = {"status": type("Stats", (), {"fill": 1, "min": 0, "max": 4})}

    def __len__(self) -> int:
        return len(self.params["status"])


def wanted(*, hinge: bool = False) -> Constraints:
    return Constraints(eps1=0.3, eps2=None, tolerance=0.02, hinge=hinge, bound=None)


def test_failed_come_first_then_off_goal_then_the_nearest_misses() -> None:
    nan = float("nan")
    status = [[1, 1], [2, 1], [3, 3], [0, 0], [1, 1], [2, 2], [4, 4], [1, 2]]
    distance = [[0.3, 0.31], [0.35, 0.3], [nan, nan], [nan, nan], [0.282, 0.3], [0.2, 0.3]]
    distance += [[nan, nan], [0.3, 0.3]]  # the last missed something else, such as eps2
    views: ViewSet = Searched(status, distance)  # type: ignore[assignment]
    ranking = Ranking(views, "|distance - eps1|", "distance", wanted())
    assert ranking.order().tolist() == [2, 6, 5, 1, 7, 4, 0]
    assert ranking.order(np.array([0, 1, 3, 4])).tolist() == [1, 4, 0]
    off = ranking.off(slice(None))
    assert off[[0, 1, 4, 5, 7]] == pytest.approx([0.01, 0.05, 0.018, 0.1, 0], abs=1e-6)
    assert np.isnan(off[[2, 3, 6]]).all()
    assert MET in ranking.words(4)
    assert MET not in ranking.words(2) + ranking.words(None)


def test_of_a_hinge_only_what_is_too_near_counts() -> None:
    views: ViewSet = Searched([[1, 1], [1, 1]], [[0.9, 0.31], [0.29, 0.5]])  # type: ignore[assignment]
    ranking = Ranking(views, "", "distance", wanted(hinge=True))
    assert ranking.off(slice(None)) == pytest.approx([0, 0.01], abs=1e-6)
    assert ranking.order().tolist() == [1, 0]


def test_every_form_shows_all_built_samples_and_what_they_are_off_by(searched: Path) -> None:
    store = open_store(searched)
    views = store.view_set("w-search")
    status, distance = views.params["status"].max(1), views.params["distance"].astype(np.float64)
    off = np.abs(distance - 0.3).max(axis=1)
    rows = sorted(range(len(views)), key=lambda row: (-int(status[row]), -off[row]))
    site = Site({"s": lambda: store})
    page = json.loads(site.get("s", "browse", "view_set=w-search&sort=worst&format=json").body)
    assert page["count"] == len(views)
    assert [each["row"] for each in page["rows"]] == rows
    assert [each["values"][OFF_BY] for each in page["rows"]] == pytest.approx(off[rows].tolist())
    table = site.get("s", "browse", "view_set=w-search&sort=worst&format=csv").body.decode()
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [float(line["off by"]) for line in lines] == pytest.approx(off[rows].tolist())
    html = site.get("s", "browse", "view_set=w-search&sort=worst").body.decode()
    assert html.count('<p class="values">off by ') == len(views)
    told = invoke("inspect", searched, "--view-set", "w-search", "--worst", "-n", 2).output
    assert told.splitlines()[1].split() == ["key", "row", "label", "off", "by"]
    assert told.splitlines()[-1] == f"2 of {len(views)} samples, the store has {len(views)}"


def test_reconstructions_are_ranked_by_the_feature_shift(searched: Path) -> None:
    recon = open_store(searched).view_set("recon")
    ranking = ranking_of(recon)
    assert ranking is not None
    shift = recon.params["anchor_shift"].astype(np.float64)
    rows = sorted(range(6), key=lambda row: (-int(recon.params["status"][row, 0]), -shift[row]))
    assert ranking.order().tolist() == rows
    assert ranking.off(np.array(rows)).tolist() == shift[rows].tolist()


def test_a_view_set_without_a_goal_does_not_offer_the_order(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site({"s": lambda: open_store(digits)})
    assert "worst" not in site.get("s", "browse", "").body.decode()
    page = site.get("s", "browse", "sort=worst")
    assert page.status == 400
    assert "any(status &gt;= 3)" in page.body.decode()
    code, _, error = run(capsys, "inspect", digits, "--worst", "--view-set", "simclr")
    assert (code, "simclr has no goal" in error) == (2, True), error
