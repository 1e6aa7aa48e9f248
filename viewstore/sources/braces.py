"""Brace patterns, as shells and webdataset expand them: {a,b}, {000..042}, one inside another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from viewstore.errors import ConfigError

MOST_PATHS = 1_000_000
MOST_LETTERS = 256 << 20
MOST_BRACES = 100  # each takes a level of the stack
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(spec: str) -> list[str]:
    """Return the texts that a brace pattern stands for, in the order in which a shell gives them.

    Raises:
        ConfigError: A range does not ascend, there would be more than a million texts or more
            than 256 MiB of them, or there are over a hundred braces.
    """
    if spec.count("{") > MOST_BRACES:
        raise ConfigError(f"brace pattern {short(spec)} must have at most {MOST_BRACES} braces")
    count, letters = _measure(spec)
    if count > MOST_PATHS or letters > MOST_LETTERS:
        raise ConfigError(f"brace pattern {short(spec)} must stand for at most 10^6 files")
    return list(_expand(spec))


def brace_list(texts: Sequence[str]) -> str:
    """Return a pattern that stands for these texts, if none of them is a pattern itself."""
    return texts[0] if len(texts) == 1 else "{" + ",".join(texts) + "}"


def short(spec: str) -> str:
    """Return the beginning of a pattern, for messages."""
    return spec if len(spec) <= 100 else f"{spec[:100]}..."


def _measure(text: str) -> tuple[int, int]:
    """Return how many texts a pattern stands for, and their letters in all, without making them."""
    parts = _split(text)
    if parts is None:
        return 1, len(text)
    before, choices, after = parts
    middle = [_measure(choice) for choice in choices]
    count, letters = (sum(each) for each in zip(*middle, strict=True))
    ends, end_letters = _measure(after)
    texts = count * ends
    return texts, texts * len(before) + letters * ends + count * end_letters


def _expand(text: str) -> Iterator[str]:
    parts = _split(text)
    if parts is None:
        yield text
        return
    before, choices, after = parts
    if len(choices) == 1:
        yield from (before + rest for rest in _expand(choices[0] + after))
        return
    ends = list(_expand(after))  # once, and at most half of what is yielded
    for choice in choices:
        for middle in _expand(choice):
            for end in ends:
                yield before + middle + end


def _split(text: str) -> tuple[str, list[str], str] | None:
    """Return what is before the first pair of braces, their choices, and what is behind them."""
    begin = text.find("{")
    if begin < 0:
        return None
    depth, commas = 0, [begin]
    for index in range(begin, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 1 and text[index] == ",":
            commas.append(index)
        if depth == 0:
            bounds = zip(commas, [*commas[1:], index], strict=True)
            choices = [text[low + 1 : high] for low, high in bounds]
            if len(choices) == 1:
                choices = _numbers(choices[0])
            return text[:begin], choices, text[index + 1 :]
    return None  # a brace that is never closed is a letter like others


def _numbers(text: str) -> list[str]:
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        return [text]
    first, last = numbers[1], numbers[2]
    count = int(last) - int(first) + 1 if len(last) < 20 else 0
    if not 0 < count <= MOST_PATHS:
        raise ConfigError(f"brace range {{{short(text)}}} must ascend, over at most 10^6 numbers")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
