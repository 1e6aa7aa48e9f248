"""Row filters in words, such as "any(w-search.distance < 0.35) and label in ['cat', 'dog']".

    expr = term {("and" | "or") term}
    term = ["not"] ( "(" expr ")" | ("any" | "all") "(" expr ")" | column test )
    test = ("<" | "<=" | "=" | "!=" | ">=" | ">") value | "in" "[" value {"," value} "]"
         | "is" ["not"] "missing"
    column = [view_set "."] name         value = number | 'text' | true | false

"and" binds before "or". A column that has a value for each view means any(..) of them unless it
stands in any(..) or all(..). A value that was never written is neither true nor false in a test:
only "is missing" finds it. Nothing is executed: the text is parsed by this module alone.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError

MAX_BYTES = 2048
MAX_TERMS = 64
MAX_DEPTH = 8

Value = bool | int | float | str
Span = Literal["any", "all"]

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.-]))"
    r"|(?P<word>(?:[a-z0-9][a-z0-9_-]*\.)?[A-Za-z_][A-Za-z0-9_]*(?![\w.-]))"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<sign><=|>=|!=|==|[<>=()\[\],])"
    r")"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
_KEYWORDS = ("and", "or", "not", "any", "all", "in", "is", "missing", "true", "false")


@dataclass(frozen=True)
class Test:
    """A column and what is asked of it: a comparison, "in" or "missing"."""

    column: str
    sign: str
    values: tuple[Value, ...]
    place: int  # in the text, for messages

    def __str__(self) -> str:
        if self.sign == "missing":
            return f"{self.column} is missing"
        shown = [_shown(value) for value in self.values]
        if self.sign == "in":
            return f"{self.column} in [{', '.join(shown)}]"
        return f"{self.column} {self.sign} {shown[0]}"


@dataclass(frozen=True)
class Not:
    """What is not so."""

    expr: Expr

    def __str__(self) -> str:
        return f"not {_grouped(self.expr)}"


@dataclass(frozen=True)
class Joined:
    """Several expressions of which all ("and") or one ("or") must be so."""

    word: Literal["and", "or"]
    parts: tuple[Expr, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(_grouped(part) for part in self.parts)


@dataclass(frozen=True)
class Over:
    """An expression that must be so for any, or for all, views of a row."""

    span: Span
    expr: Expr
    place: int

    def __str__(self) -> str:
        return f"{self.span}({self.expr})"


Expr = Test | Not | Joined | Over


def parse(text: str) -> Expr:
    """Return the expression that `text` stands for.

    Raises:
        ConfigError: It is none, or too large; the place in the text is named.
    """
    if len(text.encode()) > MAX_BYTES:
        raise ConfigError(f"where must have at most {MAX_BYTES} bytes, got {len(text.encode())}")
    return _Parser(text).whole()


def tests_of(expr: Expr) -> Iterator[Test]:
    """Yield the tests of an expression from left to right."""
    if isinstance(expr, Test):
        yield expr
    elif isinstance(expr, Joined):
        for part in expr.parts:
            yield from tests_of(part)
    else:
        yield from tests_of(expr.expr)


def misplaced(message: str, text: str, place: int, *, code: str | None = None) -> ConfigError:
    """Return an error about a place of a text; its `where` marks the place."""
    return ConfigError(
        f"where {message}, at character {place + 1}",
        code=code,
        where=f"{text[:place]} >>> {text[place:]}".strip(),
    )


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._terms = 0

    def whole(self) -> Expr:
        expr = self._expr(1)
        if self._next < len(self._tokens):
            raise self._error("must end here, or go on with 'and' or 'or'")
        return expr

    def _expr(self, depth: int) -> Expr:
        return self._joined("or", lambda: self._joined("and", lambda: self._term(depth)))

    def _joined(self, word: Literal["and", "or"], read: Callable[[], Expr]) -> Expr:
        parts = [read()]
        while self._take(word):
            parts.append(read())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _term(self, depth: int) -> Expr:
        self._terms += 1
        if self._terms > MAX_TERMS or depth > MAX_DEPTH:
            raise self._error(f"must have at most {MAX_TERMS} terms, {MAX_DEPTH} deep")
        if self._take("not"):
            return Not(self._term(depth + 1))
        place = self._place
        for span in ("any", "all"):
            if self._take(span):
                self._expect("(")
                return Over(span, self._closed(depth), place)
        if self._take("("):
            return self._closed(depth)
        return self._test()

    def _closed(self, depth: int) -> Expr:
        expr = self._expr(depth + 1)
        self._expect(")")
        return expr

    def _test(self) -> Expr:
        place = self._place
        kind, column = self._peek
        if kind != "word" or column in _KEYWORDS:
            raise self._error("must have a column here")
        self._next += 1
        if self._take("is"):
            inverted = self._take("not")
            self._expect("missing")
            test = Test(column, "missing", (), place)
            return Not(test) if inverted else test
        if self._take("in"):
            self._expect("[")
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._expect("]")
            return Test(column, "in", tuple(values), place)
        _, sign = self._peek
        sign = "=" if sign == "==" else sign
        if sign not in _COMPARE:
            raise self._error(f"must say what is asked of {column}: < <= = != >= > in is")
        self._next += 1
        return Test(column, sign, (self._value(),), place)

    def _value(self) -> Value:
        kind, token = self._peek
        if kind == "number":
            self._next += 1
            return int(token) if re.fullmatch(r"[-+]?\d+", token) else float(token)
        if kind == "text":
            self._next += 1
            return token[1:-1]
        if token in ("true", "false"):
            self._next += 1
            return token == "true"
        raise self._error("must have a number, a 'text', true or false here")

    @property
    def _peek(self) -> tuple[str, str]:
        if self._next < len(self._tokens):
            kind, token, _ = self._tokens[self._next]
            return kind, token
        return "end", ""

    @property
    def _place(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _take(self, token: str) -> bool:
        found = self._peek[0] in ("word", "sign") and self._peek[1] == token
        self._next += found
        return found

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(f"must have {token!r} here")

    def _error(self, message: str) -> ConfigError:
        return misplaced(message, self._text, self._place)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, token and place."""
    place = 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise misplaced(f"cannot be understood from {text[start:][:12]!r} on", text, start)
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        place = match.end()


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}'" if isinstance(value, str) else str(value)


def _grouped(expr: Expr) -> str:
    return f"({expr})" if isinstance(expr, Joined) else str(expr)


@dataclass(frozen=True)
class Truth:
    """For each row and view, [B, 1 or V], what is so and what is not; missing values: neither."""

    so: NDArray[np.bool_]
    not_so: NDArray[np.bool_]

    def over(self, span: Span) -> Truth:
        """Return the truth for any or all views, [B, 1]."""
        first, second = (self.so, self.not_so) if span == "any" else (self.not_so, self.so)
        some = np.asarray(first.any(axis=1, keepdims=True))
        every = np.asarray(second.all(axis=1, keepdims=True))
        return Truth(some, every) if span == "any" else Truth(every, some)


def compare(
    test: Test, values: NDArray[Any], missing: NDArray[np.bool_], wanted: Sequence[Any]
) -> Truth:
    """Return the truth of a test of `values` against what it asks for, as their numbers."""
    if test.sign == "missing":
        return Truth(missing, ~missing)
    if values.dtype == np.float16:  # else a large number would overflow
        values = values.astype(np.float32)
    known = ~missing
    if test.sign == "in":
        so = np.zeros(values.shape, np.bool_)
        for value in wanted:
            so |= values == value
    else:
        so = _COMPARE[test.sign](values, wanted[0])
    return Truth(so & known, ~so & known)


def join(word: str, parts: Sequence[Truth]) -> Truth:
    """Return the truth of all ("and") or of one ("or") of `parts`."""
    so, not_so = parts[0].so, parts[0].not_so
    for part in parts[1:]:
        if word == "and":
            so, not_so = so & part.so, not_so | part.not_so
        else:
            so, not_so = so | part.so, not_so & part.not_so
    return Truth(so, not_so)
