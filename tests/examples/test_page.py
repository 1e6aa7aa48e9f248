"""The page about other loops shows what stands in the examples, and all of them."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests.examples.conftest import COMMAND, EXAMPLES

PAGE = (Path(__file__).parents[2] / "docs" / "other-loops.md").read_text()
SECTIONS = PAGE.split("\n## ")[1:]
BLOCK = r"```{}\n(.*?)```"


def command_of(section: str) -> str:
    (command,) = re.findall(BLOCK.format("sh"), section, re.DOTALL)
    return str(command)


def example_of(section: str) -> Path:
    """Return the example that a section runs."""
    (name,) = re.findall(r"examples/(\w+\.py)", command_of(section))
    return EXAMPLES / name


def stands_in(block: str, text: str) -> bool:
    """Whether lines that follow each other in a text are those of a block, but for their indent."""
    lines, count = text.splitlines(), len(block.splitlines())
    windows = (lines[start : start + count] for start in range(len(lines) - count + 1))
    return any(dedent("\n".join(window)).strip("\n") == block.strip("\n") for window in windows)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_section_shows_its_example(section: str) -> None:
    text = example_of(section).read_text()
    (block,) = re.findall(BLOCK.format("python"), section, re.DOTALL)
    assert stands_in(block, text)
    usage = text.split('"""')[1].strip().splitlines()[-2:]
    assert usage == [COMMAND, command_of(section).strip()]


def test_the_page_shows_every_loop() -> None:
    others = ("read_with_", "autoencoder")
    loops = {path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith(others)}
    assert {example_of(section).name for section in SECTIONS} == loops
    assert set(re.findall(r"\(\.\./examples/(\w+\.py)\)", PAGE)) == loops
    assert f"```sh\n{COMMAND}\n```" in PAGE.partition("\n## ")[0]


def test_another_block_does_not_stand_in_an_example() -> None:
    assert stands_in("b\n  c\n", "a\n  b\n    c\n")
    assert not stands_in("b\nc\n", "a\n  b\n    c\n")
    assert not stands_in("a\nc\n", "a\nb\nc\n")
