"""Charts: these bytes, nothing a strict policy would block, tables that hold their numbers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from viewstore.inspect.charts import Mark, density, histogram, paired, ranges
from viewstore.inspect.distributions import (
    Bar,
    Density,
    Range,
    density_of,
    ks_distance,
    paired_bars,
)
from viewstore.inspect.figures import (
    Panel,
    density_panel,
    figure,
    histogram_panel,
    paired_panel,
    ranges_panel,
)

GRID = Density((0.0, 2.0), (0.0, 4.0), ((4, 0), (0, 1)))


def test_a_histogram_is_drawn_as_these_bytes() -> None:
    bars = [Bar(0, 1, 2), Bar(1, 2, 0), Bar(2, 3, 4)]
    assert histogram(bars, title="a < b", marks=[Mark(1.5, "eps1")], band=(1, 2)) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 130" width="300" height="130" '
        'role="img" aria-label="a &lt; b" font-size="10"><title>a &lt; b</title>'
        '<rect x="119.3" y="26.0" width="85.3" height="86.0" fill="#009E73" fill-opacity="0.18"/>'
        '<rect x="46.4" y="69.0" width="60.0" height="43.0" fill="#0072B2"/>'
        '<rect x="217.1" y="26.0" width="60.0" height="86.0" fill="#0072B2"/>'
        '<line x1="34.0" y1="112.0" x2="290.0" y2="112.0" stroke="#9A9A9A" stroke-width="1"/>'
        '<text x="30.0" y="33.0" text-anchor="end" fill="#444444">4</text>'
        '<text x="30.0" y="112.0" text-anchor="end" fill="#444444">0</text>'
        '<text x="34.0" y="125.0" text-anchor="start" fill="#444444">0</text>'
        '<text x="290.0" y="125.0" text-anchor="end" fill="#444444">3</text>'
        '<line x1="162.0" y1="1.0" x2="162.0" y2="112.0" stroke="#A32800" stroke-width="1" '
        'stroke-dasharray="3 2"/>'
        '<text x="165.0" y="9.0" text-anchor="start" fill="#A32800" stroke="#ffffff" '
        'stroke-width="3" paint-order="stroke">eps1</text></svg>'
    )


def labels_of(svg: str) -> list[tuple[float, str, str]]:
    """Return x, anchor and words of each text of a chart."""
    found = re.findall(r'<text x="([-\d.]+)" y="[-\d.]+" text-anchor="(\w+)"[^>]*>([^<]*)<', svg)
    return [(float(x), anchor, words) for x, anchor, words in found]


@pytest.mark.parametrize(
    "svg",
    [
        density(Density((0, 1), (-0.0184, 0.0193), ((1, 0), (0, 1))), title="a loss below 0"),
        ranges([Range("0", (-0.0123, -0.012, -0.011, -0.01, -0.009))], title="small ones"),
        histogram([Bar(0, 1, 12_345_678)], title="many"),
    ],
)
def test_the_labels_of_the_vertical_axis_lie_inside_the_chart(svg: str) -> None:
    """A character of 10 px is at most 6.4 px wide: a fixed margin of 34 px cut the minus off."""
    ends = [(x, words) for x, anchor, words in labels_of(svg) if anchor == "end" and x < 100]
    assert len(ends) >= 2
    assert [words for x, words in ends if x - 6.4 * len(words) < 0] == []


def test_labels_of_goals_stand_above_what_is_drawn() -> None:
    boxes = [Range(str(view), (0.28, 0.284, 0.29, 0.295, 0.3)) for view in range(8)]
    drawn = ranges(boxes, title="r", marks=[Mark(0.284, "eps1 0.284")])
    label = re.search(r'<text x="[\d.]+" y="([\d.]+)"[^>]*>eps1 0.284<', drawn)
    tops = [float(y) for y in re.findall(r'<rect x="[\d.]+" y="([\d.]+)"', drawn)]
    assert label is not None
    assert float(label[1]) < min(tops)


def test_charts_use_no_style_attribute_which_a_strict_policy_would_block() -> None:
    drawn = [
        histogram([], title="empty"),
        ranges([Range("0", (0, 1, 2, 3, 4))], title="r", band=(1, float("inf"))),
        ranges([], title="empty"),
        density(GRID, title="d", band=(1, float("inf")), marks=[Mark(0.3, "<eps2>")]),
        paired([Bar(0, 1, 2)], [Bar(0, 1, 0)], title="p"),
        paired([], [], title="empty"),
    ]
    for svg in drawn:
        assert "style" not in svg
        assert "nan" not in svg
        assert "inf" not in svg.replace("infinity", "")
    assert "&lt;eps2&gt;" in drawn[3]


def test_a_density_is_drawn_as_these_bytes() -> None:
    assert density(GRID, title="d", marks=[Mark(9, "beyond"), Mark(2, "eps2")]) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" width="480" height="300" '
        'role="img" aria-label="d" font-size="10"><title>d</title>'
        '<rect x="34.0" y="147.0" width="218.0" height="135.0" fill="#0072B2"/>'
        '<rect x="252.0" y="12.0" width="218.0" height="135.0" fill="#0072B2" '
        'fill-opacity="0.55"/>'
        '<line x1="34.0" y1="147.0" x2="470.0" y2="147.0" stroke="#A32800" stroke-width="1" '
        'stroke-dasharray="3 2"/>'
        '<text x="470.0" y="9.0" text-anchor="end" fill="#A32800">eps2</text>'
        '<line x1="34.0" y1="282.0" x2="470.0" y2="282.0" stroke="#9A9A9A" stroke-width="1"/>'
        '<text x="30.0" y="19.0" text-anchor="end" fill="#444444">4</text>'
        '<text x="30.0" y="282.0" text-anchor="end" fill="#444444">0</text>'
        '<text x="34.0" y="295.0" text-anchor="start" fill="#444444">0</text>'
        '<text x="470.0" y="295.0" text-anchor="end" fill="#444444">2</text></svg>'
    )


def test_paired_histograms_are_drawn_as_these_bytes() -> None:
    drawn = paired([Bar(0, 1, 3), Bar(1, 2, 1)], [Bar(0, 1, 0), Bar(1, 2, 50)], title="p")
    assert drawn == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 130" width="300" height="130" '
        'role="img" aria-label="p" font-size="10"><title>p</title>'
        '<rect x="34.0" y="47.5" width="128.0" height="64.5" fill="#0072B2" fill-opacity="0.55"/>'
        '<rect x="162.0" y="90.5" width="128.0" height="21.5" fill="#0072B2" '
        'fill-opacity="0.55"/>'
        '<path d="M34.0 112.0L162.0 112.0L162.0 26.0L290.0 26.0" stroke="#A32800" '
        'stroke-width="1.5" fill="none"/>'
        '<line x1="34.0" y1="112.0" x2="290.0" y2="112.0" stroke="#9A9A9A" stroke-width="1"/>'
        '<text x="30.0" y="33.0" text-anchor="end" fill="#444444">100%</text>'
        '<text x="30.0" y="112.0" text-anchor="end" fill="#444444">0</text>'
        '<text x="34.0" y="125.0" text-anchor="start" fill="#444444">0</text>'
        '<text x="290.0" y="125.0" text-anchor="end" fill="#444444">2</text></svg>'
    )


def test_labels_of_bars_do_not_overlap() -> None:
    bars = [Bar(value - 0.5, value + 0.5, 1, str(value)) for value in range(1000, 1030)]
    places = [
        float(x) for x in re.findall(r'<text x="([\d.]+)" y="125', histogram(bars, title="t"))
    ]
    assert min(np.diff(places)) >= 7 * len("1,000") - 7
    assert len(places) > 2


PANELS: list[Panel] = [
    histogram_panel("h", [Bar(0, 1, 2), Bar(1, 2, 0)], band=(0, float("inf"))),
    ranges_panel("r", [Range("0", (1, 2, 3, 4, 5))], marks=[Mark(2, "m")]),
    paired_panel("p", ("a", "b"), ([Bar(0, 1, 7)], [Bar(0, 1, 9)])),
    density_panel("d", ("a", "b"), GRID),
]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["kind"])
def test_the_figure_of_a_panel_is_the_same_after_json_and_its_table_holds_its_numbers(
    panel: Panel,
) -> None:
    again = json.loads(json.dumps(panel, allow_nan=False))
    assert figure(again) == figure(panel)
    texts = [entry.text for _, entries in figure(panel).rows for entry in entries if entry.text]
    wanted = {
        "histogram": ["2"],
        "ranges": ["1", "2", "3", "4", "5"],
        "paired": ["7", "9"],
        "density": ["1", "4"],
    }
    assert texts == wanted[panel["kind"]]


def test_a_density_counts_every_pair_of_numbers_once() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    across, up = rng.normal(size=(2, 70_000, 3)).astype(np.float32)
    across[0, 0], up[1, 1] = np.nan, np.nan
    grid = density_of(across, up)
    assert grid is not None
    counts = np.array(grid.counts)
    assert counts.shape == (40, 40)
    assert counts.sum() == across.size - 2
    known = np.isfinite(across) & np.isfinite(up)
    wanted, *_ = np.histogram2d(up[known], across[known], 40, (grid.up, grid.across))
    assert np.abs(counts - wanted).sum() <= 10  # numbers on an edge, by rounding


def test_a_column_of_the_sample_goes_with_each_of_its_views_and_whole_numbers_have_cells() -> None:
    steps = np.array([[3, 4], [5, 3], [np.nan, 4]])
    shift = np.array([[1.0], [2.0], [4.0]], np.float32)
    grid = density_of(steps, shift, whole=(True, False))
    assert grid is not None
    assert grid.across == (2.5, 5.5)
    assert grid.up == (1.0, 4.0)
    assert np.array(grid.counts).sum() == 5
    assert np.array(grid.counts).sum(axis=0).tolist() == [2, 2, 1]
    assert density_of(np.full((2, 2), np.nan), steps[:2]) is None
    assert density_of(np.empty((0, 2)), np.empty((0, 2))) is None
    whole = density_of(
        np.array([[1, 2]], np.int32), np.array([[0, 255]], np.uint8), whole=(True,) * 2
    )
    assert whole is not None
    assert (whole.across, whole.up) == ((0.5, 2.5), (0.0, 255.0))
    endless = density_of(np.array([[np.inf, 1.0, 2.0]]), np.array([[0.0, 1.0, -np.inf]]))
    assert endless is not None
    assert np.array(endless.counts).sum() == 1


def test_the_kolmogorov_smirnov_distance_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.Generator(np.random.Philox(2))
    for first, second in (
        (rng.normal(size=300), rng.normal(0.3, size=200)),
        (rng.integers(0, 4, 50), rng.integers(1, 5, 70)),
        (np.zeros(3), np.zeros(4)),
    ):
        assert ks_distance(first, second) == pytest.approx(stats.ks_2samp(first, second).statistic)


def test_paired_bars_have_the_same_bins_and_equal_values_have_one() -> None:
    first, second = paired_bars(np.array([0.0, 1, np.nan]), np.array([[2.0], [3.0]]))
    assert [(bar.low, bar.high) for bar in first] == [(bar.low, bar.high) for bar in second]
    assert (first[0].low, first[-1].high) == (0, 3)
    assert sum(bar.count for bar in first) == sum(bar.count for bar in second) == 2
    assert paired_bars(np.ones(3), np.ones(2)) == ([Bar(0.5, 1.5, 3)], [Bar(0.5, 1.5, 2)])
    assert paired_bars(np.ones(3), np.full(2, np.nan)) == ([], [])
