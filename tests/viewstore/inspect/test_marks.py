"""Marks: rows in the address of Browse."""

from __future__ import annotations

import pytest

from viewstore.errors import ConfigError
from viewstore.inspect.pages.marks import MOST_MARKS, filter_of, marked_rows, with_mark
from viewstore.inspect.pages.site import Site
from viewstore.store.store import Store


def test_a_mark_is_put_and_taken_away() -> None:
    assert with_mark([], 5) == "5"
    assert with_mark([5, 9], 7) == "5,7,9"
    assert with_mark([5, 7, 9], 7) == "5,9"
    assert marked_rows("9,5,9", 10) == [5, 9]
    assert marked_rows("", 10) == []


@pytest.mark.parametrize(
    "text", ["a", "1,", "-1", "10", "1;2", "9" * 400, ",".join(map(str, range(101)))]
)
def test_other_marks_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^marks must be"):
        marked_rows(text, 10 if "," not in text else MOST_MARKS + 1)


def test_marked_rows_are_found_by_their_filter(raw_store: Store) -> None:
    site = Site({"s": lambda: raw_store})
    page = site.get("s", "browse", "marks=3,17").body.decode()
    assert "2 marked" in page
    assert page.count('class="marked"') == 2
    assert 'href="?marks=3%2C17&amp;where=index+in+%5B3%2C+17%5D"' in page
    assert site.get("s", "browse", "marks=x").status == 400
    assert filter_of([3, 17]) == "index in [3, 17]"
