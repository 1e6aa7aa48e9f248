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

import functools
import math
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
MAX_NUMBER = 32  # characters of a number

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
    """A comparison of a column with values, or "in", or "missing"; `position` is for messages."""

    column: str
    sign: str
    values: tuple[Value, ...]
    position: int

    def __str__(self) -> str:
        if self.sign == "missing":
            return f"{self.column} is missing"
        values = [_literal(value) for value in self.values]
        if self.sign == "in":
            return f"{self.column} in [{', '.join(values)}]"
        return f"{self.column} {self.sign} {values[0]}"


@dataclass(frozen=True)
class Not:
    """True where an expression is false."""

    expr: Expr

    def __str__(self) -> str:
        return f"not {_grouped(self.expr)}"


@dataclass(frozen=True)
class Joined:
    """Several expressions of which all ("and") or one ("or") must be true."""

    word: Literal["and", "or"]
    parts: tuple[Expr, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(_grouped(part) for part in self.parts)


@dataclass(frozen=True)
class Over:
    """An expression that must be true for any, or for all, views of a row."""

    span: Span
    expr: Expr
    position: int

    def __str__(self) -> str:
        return f"{self.span}({self.expr})"


Expr = Test | Not | Joined | Over


def parse(text: str) -> Expr:
    """Return the expression that `text` stands for.

    Raises:
        ConfigError: It is none, or too large; the position in the text is named.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:  # a terminal of another encoding
        raise error_at("must be UTF-8", text.encode(errors="replace").decode(), 0) from error
    if size > MAX_BYTES:
        raise ConfigError(f"where must have at most {MAX_BYTES} bytes, got {size}")
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


def spelled(expr: Expr, is_per_view: Callable[[Test], bool]) -> Expr:
    """Return an expression that means the same, in which any(..) stands wherever it is meant.

    `is_per_view` says of a test whether its column has a value for each view.
    """
    if isinstance(expr, Test):
        return Over("any", expr, expr.position) if is_per_view(expr) else expr
    if isinstance(expr, Not):
        return Not(spelled(expr.expr, is_per_view))
    if isinstance(expr, Joined):
        return Joined(expr.word, tuple(spelled(part, is_per_view) for part in expr.parts))
    return expr


def error_at(
    message: str, text: str, position: int, *, code: str | None = None, what: str = "where"
) -> ConfigError:
    """Return an error about a position in a text, `what`, which its `where` marks."""
    return ConfigError(
        f"{what} {message}, at character {position + 1}",
        code=code,
        where=f"{text[:position]} >>> {text[position:]}".strip(),
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
        position = self._position
        for span in ("any", "all"):
            if self._take(span):
                self._expect("(")
                return Over(span, self._closed(depth), position)
        if self._take("("):
            return self._closed(depth)
        return self._test()

    def _closed(self, depth: int) -> Expr:
        expr = self._expr(depth + 1)
        self._expect(")")
        return expr

    def _test(self) -> Expr:
        position = self._position
        kind, column = self._peek
        if kind != "word" or column in _KEYWORDS:
            raise self._error("must have a column here")
        self._next += 1
        if self._take("is"):
            inverted = self._take("not")
            self._expect("missing")
            test = Test(column, "missing", (), position)
            return Not(test) if inverted else test
        if self._take("in"):
            self._expect("[")
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._expect("]")
            return Test(column, "in", tuple(values), position)
        _, sign = self._peek
        sign = "=" if sign == "==" else sign
        if sign not in _COMPARE:
            raise self._error(f"must say what is asked of {column}: < <= = != >= > in is")
        self._next += 1
        return Test(column, sign, (self._value(),), position)

    def _value(self) -> Value:
        kind, token = self._peek
        if kind == "number":
            number = self._number(token)
            self._next += 1
            return number
        if kind == "text":
            self._next += 1
            return token[1:-1]
        if token in ("true", "false"):
            self._next += 1
            return token == "true"
        raise self._error("must have a number, a 'text', true or false here")

    def _number(self, token: str) -> int | float:
        if len(token) > MAX_NUMBER:
            raise self._error(f"must have numbers of at most {MAX_NUMBER} characters")
        if re.fullmatch(r"[-+]?\d{1,20}", token):  # all numbers of 64 bits
            return int(token)
        if not math.isfinite(float(token)):
            raise self._error("must have a number that is not beyond 1e308 here")
        return float(token)

    @property
    def _peek(self) -> tuple[str, str]:
        if self._next < len(self._tokens):
            kind, token, _ = self._tokens[self._next]
            return kind, token
        return "end", ""

    @property
    def _position(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _take(self, token: str) -> bool:
        found = self._peek[0] in ("word", "sign") and self._peek[1] == token
        self._next += found
        return found

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(f"must have {token!r} here")

    def _error(self, message: str) -> ConfigError:
        return error_at(message, self._text, self._position)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, token and position."""
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise error_at(f"cannot be understood from {text[start:][:12]!r} on", text, start)
        yield match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        position = match.end()


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}'" if isinstance(value, str) else str(value)


def _grouped(expr: Expr) -> str:
    return f"({expr})" if isinstance(expr, Joined) else str(expr)


@dataclass(frozen=True)
class Truth:
    """Where a test is true and where false, bool [B, 1 or V] each; neither for missing values."""

    is_true: NDArray[np.bool_]
    is_false: NDArray[np.bool_]

    def over(self, span: Span) -> Truth:
        """Return where any or all views are true or false, [B, 1]."""
        first, second = self.is_true, self.is_false
        if span == "all":
            first, second = second, first
        # Views are few: one after the other takes a third of the time of a reduction of rows.
        some = functools.reduce(operator.or_, first.T)[:, None]
        every = functools.reduce(operator.and_, second.T)[:, None]
        return Truth(some, every) if span == "any" else Truth(every, some)


def compare(
    test: Test, values: NDArray[Any], missing: NDArray[np.bool_], wanted: Sequence[Any]
) -> Truth:
    """Return where a test of `values` [B, 1 or V] against the `wanted` numbers is true or false."""
    if test.sign == "missing":
        return Truth(missing, ~missing)
    if values.dtype == np.float16:  # else a large number would overflow
        values = values.astype(np.float32)
    known = ~missing
    if test.sign == "in":
        is_true = np.zeros(values.shape, np.bool_)
        for value in wanted:
            is_true |= values == value
    else:
        is_true = _COMPARE[test.sign](values, wanted[0])
    return Truth(is_true & known, ~is_true & known)


def join(word: str, parts: Sequence[Truth]) -> Truth:
    """Return where all ("and") or one ("or") of `parts` is true or false."""
    is_true, is_false = parts[0].is_true, parts[0].is_false
    for part in parts[1:]:
        if word == "and":
            is_true, is_false = is_true & part.is_true, is_false | part.is_false
        else:
            is_true, is_false = is_true | part.is_true, is_false & part.is_false
    return Truth(is_true, is_false)
