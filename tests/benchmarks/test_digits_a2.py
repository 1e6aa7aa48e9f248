"""The comparison on the digits differs in views and strategy alone, and never flips a digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.digits_a2 import ARMS, RECIPE
from viewstore.images.policies import POLICIES, Digits

REPO = Path(__file__).parents[2]


def test_every_arm_sees_the_same_policy_and_negatives() -> None:
    experts = [arm[arm.index("--views") + 1].split(",") for arm in ARMS.values()]
    policies = {name for names in experts for name in names if name in POLICIES}
    assert policies == {"digits"}
    assert isinstance(POLICIES["digits"][0], Digits)
    assert RECIPE[RECIPE.index("--negatives") + 1] == "other"
    assert not any("--negatives" in arm for arm in ARMS.values())


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_what_is_shown_trains_digits_without_flips(name: str) -> None:
    text = (REPO / name).read_text()
    assert "--views digits,digits,w-search" in text
    assert "--views simclr,simclr" not in text
