"""The page on augmentation tells of every policy and param there is."""

from __future__ import annotations

import re
from pathlib import Path

from viewstore.images.policies import POLICIES, Policy

PAGE = (Path(__file__).parents[3] / "docs" / "augment.md").read_text()


def rows_below(title: str) -> list[list[str]]:
    """Return the cells of each row of the table below a title."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [row.split("|")[1:] for row in re.findall(r"^\|.*$", section, re.MULTILINE)]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)`", cell)


def test_every_policy_has_a_row() -> None:
    assert {name for row in rows_below("Policies") for name in names_in(row[0])} == set(POLICIES)


def test_every_param_of_a_policy_has_a_row() -> None:
    named = {name for row in rows_below("Order and params") for name in names_in(row[0])}
    assert named == {column.name for column in Policy(name="any").columns}


def test_the_numbers_of_the_table_are_those_of_the_code() -> None:
    compared = set()
    for names, area, jitter, *_ in rows_below("Policies"):
        for policy in [policy for name in names_in(names) for policy in POLICIES[name]]:
            if isinstance(policy, Policy) and policy.colours:
                assert [float(each) for each in area.split("-")] == list(policy.scale)
                numbers = [float(each) for each in re.findall(r"[\d.]+", jitter)]
                assert numbers == [policy.jitter_probability, *policy.jitter]
                compared.add(policy.name)
    assert len(compared) == 7
