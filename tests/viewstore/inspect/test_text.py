"""Text for a terminal: made from the facts of `--json`, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.viewstore.commands import invoke
from viewstore.inspect.chosen_rows import choose_view_sets
from viewstore.inspect.numbers import axis_number, brief, brief_param, number, percent
from viewstore.inspect.summary import sample_facts, store_facts
from viewstore.inspect.text import histogram_lines, sample_text, stats_table, store_text
from viewstore.store.store import open_store

COLUMN = {
    "count": 4,
    "fill": 1,
    "min": 0.0,
    "max": 0.5,
    "mean": 0.25,
    "std": 0.125,
    "percentiles": (0.0, 0.0, 0.1, 0.25, 0.3, 0.5, 0.5),
    "histogram": (2, 0, 1, 1),
    "left_out": None,
}
EMPTY = COLUMN | dict.fromkeys(("min", "max", "mean", "std")) | {"count": 0, "percentiles": ()}
CONSTRAINTS = {
    "eps1": 0.3,
    "eps2": 0.9,
    "tolerance": 0.02,
    "hinge": True,
    "bound": 0.5,
    "unreachable": True,
    "share_within": 0.75,
    "too_close": 1,
    "too_far": 0,
    "samples": 2,
    "below_eps2": 1,
    "share_converged": 0.5,
}
FACTS: dict[str, Any] = {
    "samples": 2,
    "labels": {str(label): 1 for label in range(14)},
    "store_id": "abc",
    "view_sets": {
        "w-search": {
            "views": 3,
            "roles": {"generated": 2, "expert": 1},
            "height": 16,
            "width": 8,
            "channels": 3,
            "kind": "pixels",
            "of": None,
            "form": "raw",
            "shards": 1,
            "shards_planned": 2,
            "bytes": 3 << 19,
            "generator": {"name": "w-search", "version": 1, "args": {"eps1": 0.3, "size": [16, 8]}},
            "weights": [{"role": "gan", "name": "g.pt", "bytes": 9, "sha256": "0123456789abcdef"}],
            "model_step": 700,
            "round": 1,
            "newest": "w-search-r3",
            "made_from": ["recon", "hard"],
            "stale": 2,
            "columns": {"distance": COLUMN, "steps": EMPTY},
            "constraints": CONSTRAINTS,
        }
    },
}
TEXT = """\
samples   2
labels    14, of 1 sample each: 0, 1, 2, 3, 4, ...
store id  abc

view set w-search
  views      3 (2 generated, 1 expert), 16 x 8 x 3 px
  stored     raw, 1 of 2 shards, 1.5 MiB
  generator  w-search 1: eps1 0.3, size 16,8
  origin     by the gan g.pt 0123456789ab
             of training step 700
             round 1, the newest is w-search-r3
             2 shards are stale, made from other bytes of recon and hard
  distance   75.0 % of views within 0.300 or more, -0.02 (1 too close, 0 too far)
  converged  50.0 % of samples
  pairs      mean below eps2 0.900 in 50.0 % of samples; geometry allows 0.500, so it is unreachable
  column    values  missing  min  p5   p50  p95  max  mean    std
  distance       4        1    0   0  0.25  0.5  0.5  0.25  0.125  █ ▄▄
  steps          0        1    -   -     -    -    -     -      -"""


def test_a_store_is_described_in_these_lines() -> None:
    assert store_text(FACTS) == TEXT


@pytest.mark.parametrize("name", ["digits", "searched"])
def test_the_text_is_made_from_facts_alone(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    store = open_store(path)
    sets = choose_view_sets(store, None)
    facts = json.loads(json.dumps(store_facts(store, sets)))
    assert store_text(facts) + "\n" == invoke("inspect", path).output
    facts = json.loads(json.dumps(sample_facts(store, 3, sets)))
    roles = {each.name: each.roles for each in sets}
    assert sample_text(facts, roles) + "\n" == invoke("inspect", path, store.keys[3]).output


def test_numbers_are_short() -> None:
    found = [number(value) for value in (None, 3.0, 1234.0, 1e10, 0.123456)]
    assert found == ["-", "3", "1234", "1e+10", "0.1235"]
    assert [axis_number(value) for value in (1, 1234.0, 0.12345)] == ["1", "1,234", "0.123"]
    assert [percent(share) for share in (None, 0.5)] == ["no", "50.0 %"]
    assert brief({"a": [1.0, float("nan")], "b": "c"}) == "{a 1,-, b c}"
    assert brief(list(range(15))) == "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14"
    assert brief([0.5] * 16) == "0.5,0.5,0.5,... (16)"


def test_long_lines_of_a_store_are_wrapped_and_many_labels_are_summed_up() -> None:
    args = {f"setting_{number}": number / 7 for number in range(40)}
    view_set = FACTS["view_sets"]["w-search"]
    view_set = view_set | {"generator": {"name": "x", "version": 1, "args": args}, "columns": {}}
    labels = {f"class {number}": 1 + number % 3 for number in range(200)}
    text = store_text(FACTS | {"labels": labels, "view_sets": {"a": view_set}})
    assert max(map(len, text.splitlines())) <= 100
    assert "labels    200, of 1 to 3 samples each: class 0, class 1," in text
    assert all(f"setting_{number} " in text for number in range(40))


def test_a_list_about_the_sample_is_no_column_of_the_table_of_views() -> None:
    facts = {"key": "a", "row": 0, "label": -1, "label_name": None, "height": 4, "width": 4}
    facts["view_sets"] = {"hard": {"pair_loss": [0.25, 0.5, 0.75], "loss": [1.0, 2.0]}}
    roles = {"hard": ("expert", "expert")}
    lines = sample_text(facts, roles, {"hard": ["pair_loss"]}).splitlines()
    (head,) = [line for line in lines if line.split()[:2] == ["view", "role"]]
    assert head.split() == ["view", "role", "loss"]
    (told,) = [line for line in lines if "pair_loss" in line]
    assert "0.75" in told


def test_what_was_not_applied_is_off_and_no_number() -> None:
    """255 is no order and 256 no threshold: their mean would say nothing."""
    assert brief_param("jitter_order", [255] * 4) == "off"
    assert brief_param("jitter_order", [3, 255, 0, 255]) == "3,off,0,off"
    assert (brief_param("solarize", 256), brief_param("solarize", 128)) == ("off", "128")
    assert brief_param("height", 256) == "256"
    assert brief_param("latent", [0.5] * 192) == "0.5,0.5,0.5,... (192)"
    column = COLUMN | {"left_out": {"word": "off", "value": 255, "count": 7}}
    line = stats_table({"jitter_order": column})[1]
    assert line.endswith(" 7 off left out")
    assert histogram_lines("jitter_order", column)[-1].split()[:2] == ["off", "7"]
    assert "off" not in "".join(histogram_lines("jitter_order", COLUMN))
    alone = COLUMN | {"min": 255.0, "max": 255.0, "percentiles": (255.0,) * 7, "mean": 255.0}
    row = stats_table({"jitter_order": alone})[1].split()
    assert row[3:10] == ["off"] * 5 + ["-"] * 2
    assert [line.split()[0] for line in histogram_lines("jitter_order", alone)] == ["off"]
