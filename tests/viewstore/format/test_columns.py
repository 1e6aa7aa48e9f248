"""What a column is about: its views, or the sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.viewstore.small_stores import build_small, write_npz
from viewstore.format.columns import OF_SAMPLE, Column
from viewstore.format.plan import Plan


def test_a_generator_says_that_a_column_is_about_the_sample() -> None:
    """The loss of 3 candidate pairs beside 3 views: its shape says nothing."""
    guessed = Column(name="pair_loss", dtype="f4", shape=(3,))
    said = replace(guessed, views=OF_SAMPLE)
    assert (guessed.per_view(3), said.per_view(3)) == (True, False)
    assert guessed.per_view(2) is False
    assert Column(name="latent0", dtype="f2", shape=(3, 8)).per_view(3) is False


def test_a_plan_keeps_what_a_column_is_about(tmp_path: Path) -> None:
    plan = build_small(tmp_path / "s", write_npz(tmp_path / "images.npz")).plan
    loss = Column(name="pair_loss", dtype="f4", shape=(2,), views=OF_SAMPLE)
    columns = tuple(sorted((*plan.columns, loss), key=lambda column: column.name))
    read = Plan.unpack(replace(plan, columns=columns).pack())
    assert read.column("pair_loss") == loss
    assert (read.per_view("pair_loss"), read.per_view("crop_box")) == (False, True)
    assert Plan.unpack(plan.pack()).pack() == plan.pack()
