"""Values of settings against the types of their fields, for every generator."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.generators import GENERATORS, make_settings, settings_class
from viewstore.generators.value_types import check_types

if TYPE_CHECKING:
    from somewhere import Unknown

INF = float("inf")
NUMBERS = (0, 1, -1, 7, 2**63, 10**400, -(10**400), 0.0, 0.5, 2.0, 1e308, INF, -INF, float("nan"))
WORDS = ("", "none", "NaN", "simclr", "simclr+byol", "source", "\x00", "\ud800")
PLAIN = (None, True, False, *NUMBERS, *WORDS)
NESTED = ([], [[]], [1, 2], [[0, 1]], ["topk", 1], {}, {"name": "simclr"}, {"second": {}}, [{}])
INNER = st.lists(st.sampled_from(PLAIN), max_size=3) | st.dictionaries(
    st.sampled_from(WORDS), st.sampled_from(PLAIN), max_size=3
)


def is_taken_or_refused(generator: str, values: dict[str, Any]) -> bool:
    """Whether values end in settings or in an error in the user's words, not in Python's."""
    try:
        return isinstance(make_settings(generator, values), settings_class(generator))
    except ConfigError as error:
        return not isinstance(error.__cause__, TypeError)


@pytest.mark.parametrize("generator", sorted(GENERATORS.own))
def test_any_value_of_any_setting_is_taken_or_refused(generator: str) -> None:
    for field in fields(settings_class(generator)):  # type: ignore[arg-type]
        for value in (*PLAIN, *NESTED):
            assert is_taken_or_refused(generator, {field.name: value}), (field.name, value)


@pytest.mark.parametrize("generator", sorted(GENERATORS.own))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_values_of_some_settings_are_taken_or_refused(
    generator: str, data: st.DataObject
) -> None:
    names = [field.name for field in fields(settings_class(generator))]  # type: ignore[arg-type]
    values = st.sampled_from((*PLAIN, *NESTED)) | INNER
    given_values = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    assert is_taken_or_refused(generator, given_values)


@pytest.mark.parametrize(
    ("generator", "values", "message"),
    [
        ("simclr", {"views": 2.0}, "views must be a whole number, got 2.0"),
        ("simclr", {"views": True}, "views must be a whole number, got True"),
        ("simclr", {"views": "NaN"}, "views must be a whole number, got 'NaN'"),
        ("simclr", {"height": 8.0}, "height must be a whole number, got 8.0"),
        ("simclr", {"filter": 3}, "filter must be text, got 3"),
        ("simclr", {"policy": 3}, "policy must be text or a table, got 3"),
        ("heavy", {"m": INF}, "m must be a finite number, got inf"),
        ("heavy", {"m": "strong"}, "m must be a finite number, got 'strong'"),
        ("heavy", {"derive": 1}, "derive must be from_view or from_sample, got 1"),
        ("embed", {"normalise": "no"}, "normalise must be true or false, got 'no'"),
        ("embed", {"outputs": "topk"}, "outputs must be a list, got 'topk'"),
        ("selection", {"pairs": [[0, 1.5]]}, r"pairs must be a list, got \(\(0, 1.5\),\)"),
        ("w-search", {"tol": 10**400}, "tol must be a finite number"),
        ("w-search", {"code_shape": [4]}, r"code_shape must be a list, got \(4,\)"),
        ("recon", {"calibration": {"a": "b"}}, "calibration must be a table"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(
    generator: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_settings(generator, values)
    assert caught.value.where == f"a setting of generator {generator}"
    assert "--help-settings" in (caught.value.fix or "")


def test_a_whole_number_is_a_number_and_a_list_a_tuple() -> None:
    made: Any = make_settings("w-search", {"tol": 1, "code_shape": [4, 16], "eps1": None})
    assert (made.tol, type(made.tol)) == (1, int)
    assert made.code_shape == (4, 16)


@dataclass(frozen=True)
class Loose:
    """Fields of types that are not known, or that the default is not of."""

    blob: bytes = b""
    names: list[str] = ()  # type: ignore[assignment]
    size: int = None  # type: ignore[assignment]
    either: int | bytes = 0
    table: dict = None  # type: ignore[assignment,type-arg]
    word: Literal["a", 1] = "a"
    pair: tuple = ()  # type: ignore[type-arg]


@dataclass(frozen=True)
class ForTypeCheckers:
    """A field whose type is not there when the program runs."""

    found: Unknown = None  # type: ignore[assignment]
    views: int = 2


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", (1, "two"), {"a": 1}])
def test_what_a_type_means_that_is_not_known_is_left_to_its_class(value: object) -> None:
    for name in ("blob", "names", "size", "either", "table"):
        check_types("loose", Loose, {name: value})
    check_types("late", ForTypeCheckers, {"found": value, "views": value})


def test_what_is_known_of_a_loose_type_is_checked() -> None:
    check_types("loose", Loose, {"word": 2, "pair": (1, "two")})
    with pytest.raises(ConfigError, match=r"word must be a or 1, got 1\.5"):
        check_types("loose", Loose, {"word": 1.5})
    with pytest.raises(ConfigError, match="pair must be a list, got 1"):
        check_types("loose", Loose, {"pair": 1})
