"""What a column is about: its views, the sample, or a choice of views."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import FormatError
from viewstore.format.columns import Column
from viewstore.format.plan import Plan
from viewstore.format.records import canonical, digest_of

CHOICE = Column(name="selected", dtype="u1", shape=(1, 2), per="choice")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("columns")
    return build_small(folder / "s", write_npz(folder / "images.npz")).plan


def with_column(plan: Plan, column: Column) -> Plan:
    columns = (*plan.columns, column)
    return replace(plan, columns=tuple(sorted(columns, key=lambda each: each.name)))


def test_a_plan_keeps_what_a_column_is_about(plan: Plan) -> None:
    """The loss of 2 candidate pairs beside 2 views: its shape says nothing."""
    loss = Column(name="pair_loss", dtype="f4", shape=(2,), per="sample")
    read = Plan.unpack(with_column(plan, loss).pack())
    assert read.column("pair_loss") == loss
    assert (read.per_view("pair_loss"), read.per_view("crop_box")) == (False, True)
    assert Plan.unpack(plan.pack()).pack() == plan.pack()


def test_a_column_per_view_has_an_entry_for_each(plan: Plan) -> None:
    with pytest.raises(FormatError, match=r"an entry for each of 2 views, got shape \(3,\)"):
        with_column(plan, Column(name="pair_loss", dtype="f4", shape=(3,)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per": "batch"}, r"must be per \('view', 'sample', 'choice'\), got 'batch'"),
        ({"per": "sample", "views": (0,)}, "views go with per view, not sample"),
        ({"per": "choice", "dtype": "f4"}, r"choices must be u1 \(G, m\)"),
        ({"per": "choice", "shape": (2,)}, r"choices must be u1 \(G, m\)"),
    ],
)
def test_what_no_column_can_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Column(**{"name": "selected", "dtype": "u1", "shape": (1, 2), **changes})


def test_views_choose_nothing(plan: Plan) -> None:
    with pytest.raises(FormatError, match="plan of views must not have a column of choices"):
        with_column(plan, CHOICE)


def as_before(plan: Plan) -> bytes:
    """Return the record of a plan as it was written before columns said what they are about."""
    value = json.loads(plan.pack())
    for key in ("set_kind", "recipe", "inputs", "reach", "digest"):
        del value[key]
    for column in value["columns"]:
        of_sample = column.pop("per") == "sample"
        column["views"] = [] if of_sample and column["name"] != "latent0" else column["views"]
    value["ops"] = []
    return canonical({**value, "digest": digest_of(value)})


def test_a_plan_that_was_stored_before_keeps_its_id_and_means_the_same(plan: Plan) -> None:
    of_sample = Column(name="latent0", dtype="f2", shape=(2, 8), per="sample")
    loss = Column(name="pair_loss", dtype="f4", shape=(2,), per="sample")
    now = with_column(with_column(plan, of_sample), loss)
    raw = as_before(now)
    before = Plan.unpack(raw)
    assert before == now
    assert before.id == json.loads(raw)["digest"] != now.id
    assert replace(before, seed=before.seed).id == now.id  # a plan that is made anew is a new one
