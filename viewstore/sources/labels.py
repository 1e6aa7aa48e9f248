"""Labels as sources write them: numbers, or words, which are numbered in alphabetical order."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Label = int | str  # -1: there is none

TEXT_BYTES = 256
JSON_BYTES = 1 << 20
_NUMBER = re.compile(r"[+-]?(\d{1,19})(\.\d{0,19})?([eE]\+?\d{1,2})?")


class LabelReader:
    """Reads the labels of one source, and counts what it does not understand."""

    def __init__(self) -> None:
        self.unread = 0
        self.example = ""

    def text(self, raw: bytes) -> Label:
        """Return the label in a text such as b"7", b"7.0" or b"cat"; -1 if it is none."""
        try:
            text = raw[: TEXT_BYTES + 1].decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            return self._not_understood(repr(raw[:16]))
        if not text or len(text) > TEXT_BYTES or not text.isprintable():
            return self._not_understood(repr(text[:16]))
        if _NUMBER.fullmatch(text) or text.lower() in ("nan", "inf", "-inf"):
            return self.value(float(text) if not text.lstrip("+-").isdecimal() else int(text))
        return text

    def json(self, raw: bytes) -> Label:
        """Return the label in a JSON value, or under "label" or "cls" of an object."""
        try:
            value = json.loads(raw[: JSON_BYTES + 1])
        except (ValueError, RecursionError):
            return self._not_understood("a json that cannot be read")
        if isinstance(value, dict):
            if "label" not in value and "cls" not in value:
                return -1
            value = value.get("label", value.get("cls"))
        if value is None:
            return -1
        if isinstance(value, str):  # half a surrogate pair becomes what is no UTF-8
            return self.text(value.encode("utf-8", "surrogatepass"))
        return self.value(value)

    def value(self, value: object) -> Label:
        """Return a number as a label; -1 if it is none that a label can be."""
        if isinstance(value, float) and math.isfinite(value) and value == int(value):
            value = int(value)
        if type(value) is int and -1 <= value < 2**31:
            return value
        return self._not_understood(str(value)[:16])

    def note(self) -> str | None:
        """Return a sentence about the labels that were not understood, if there are any."""
        if not self.unread:
            return None
        noun = "label was" if self.unread == 1 else "labels were"
        return f"{self.unread} {noun} not understood and count as none (-1): {self.example}"

    def _not_understood(self, text: str) -> int:
        self.unread += 1
        self.example = self.example or text
        return -1


def number_labels(labels: Sequence[Label]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return labels as int32 [N], and the name of each number; without words there are no names.

    With words, numbers are names too: 3 is the class "3" beside "cat".
    """
    if not any(isinstance(label, str) for label in labels):
        return np.array(labels, np.int32), ()
    texts = [
        label if isinstance(label, str) else "" if label == -1 else str(label) for label in labels
    ]
    names = sorted(set(texts) - {""})
    numbers = {name: number for number, name in enumerate(names)} | {"": -1}
    return np.array([numbers[text] for text in texts], np.int32), tuple(names)
