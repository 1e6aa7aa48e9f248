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
            if not isinstance(policy, Policy) or not policy.crop:
                continue
            assert [float(each) for each in area.split("-")] == list(policy.scale)
            if policy.colours:
                numbers = [float(each) for each in re.findall(r"[\d.]+", jitter)]
                assert numbers == [policy.jitter_probability, *policy.jitter]
            else:
                assert not jitter.strip()
            compared.add(policy.name)
    assert compared == set(POLICIES) - {"flip", "digits"}


def test_weak_crops_have_their_own_aspect_ratios() -> None:
    ratios = {name: pair[0].ratio for name, pair in POLICIES.items() if isinstance(pair[0], Policy)}
    weak = {name for name, ratio in ratios.items() if ratio == (0.9, 1.1)}
    assert weak == {"smallcrop", "medcrop", "largecrop"}
    assert {ratio for name, ratio in ratios.items() if name not in weak} == {(3 / 4, 4 / 3)}
