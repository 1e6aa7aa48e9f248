"""The page on augmentation tells of every policy and param there is."""

from __future__ import annotations

import re
from pathlib import Path

from viewstore.images.operators.recorded import OPS_COLUMNS
from viewstore.images.operators.spaces import Choice, ra16, randaugment, uniform
from viewstore.images.operators.table import OPERATORS
from viewstore.images.policies import POLICIES, Digits, Operated, Policy

PAGE = (Path(__file__).parents[3] / "docs" / "augment.md").read_text()


def rows_below(title: str) -> list[list[str]]:
    """Return the cells of each row of the table below a title."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [row.split("|")[1:] for row in re.findall(r"^\|.*$", section, re.MULTILINE)]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)`", cell)


def test_every_policy_has_a_row() -> None:
    params = set(OPS_COLUMNS)
    for title, kinds in (("Policies", (Policy, Digits)), ("Policies with operators", Operated)):
        named = {name for row in rows_below(title) for name in names_in(row[0])} - params
        assert named == {name for name, each in POLICIES.items() if isinstance(each[0], kinds)}
    assert params <= {
        name for row in rows_below("Policies with operators") for name in names_in(row[0])
    }


def number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def test_the_table_of_operators_is_that_of_the_code() -> None:
    rows = [[cell.strip() for cell in row] for row in rows_below("Operators")][2:]
    assert [(int(row[0]), row[1]) for row in rows] == list(
        enumerate(operator.name for operator in OPERATORS)
    )
    for column, space in enumerate((ra16(), uniform(), randaugment()), 2):
        choices = {choice.name: choice for choice in space.choices}
        assert {row[1] for row in rows if row[column]} == set(choices)
        for row in rows:
            cell, name = row[column], row[1]
            if cell in ("", "any"):
                assert not cell or not OPERATORS[int(row[0])].has_value
                continue
            low, high = map(number, re.findall(r"[\d./]+", cell)[-2:])
            middle = 1 if cell.startswith("1") else 0
            assert choices[name] == Choice(name, low, high, "+-" in cell, middle)


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
    standard = {name for name, each in POLICIES.items() if isinstance(each[0], Policy)}
    assert compared == standard - {"flip", "source"}


def test_weak_crops_have_their_own_aspect_ratios() -> None:
    ratios = {name: pair[0].ratio for name, pair in POLICIES.items() if isinstance(pair[0], Policy)}
    weak = {name for name, ratio in ratios.items() if ratio == (0.9, 1.1)}
    assert weak == {"smallcrop", "medcrop", "largecrop"}
    assert {ratio for name, ratio in ratios.items() if name not in weak} == {(3 / 4, 4 / 3)}
