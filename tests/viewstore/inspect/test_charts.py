"""Charts: these bytes, and nothing that a strict policy would block."""

from __future__ import annotations

from viewstore.inspect.charts import Mark, histogram, ranges, scatter
from viewstore.inspect.distributions import Bar, Range


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


def test_charts_use_no_style_attribute_which_a_strict_policy_would_block() -> None:
    drawn = [
        histogram([], title="empty"),
        ranges([Range("0", (0, 1, 2, 3, 4))], title="r", band=(1, float("inf"))),
        ranges([], title="empty"),
        scatter([(0.1, 0.2), (float("nan"), 1)], title="s", level=Mark(0.3, "<eps2>")),
    ]
    for svg in drawn:
        assert "style" not in svg
        assert "nan" not in svg
        assert "inf" not in svg.replace("infinity", "")
    assert "&lt;eps2&gt;" in drawn[3]


def test_a_point_without_a_number_is_not_drawn() -> None:
    svg = scatter([(0.1, 0.2), (float("nan"), 1), (0.3, 0.4)], title="s")
    assert svg.count("h0") == 2
