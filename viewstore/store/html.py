"""How notebooks show a store or a view set: as HTML, which the room `inspect` above makes.

`viewstore/__init__.py`, which sees both rooms, says here who makes it.
"""

from __future__ import annotations

from collections.abc import Callable

make: Callable[[object], str] | None = None


def html_of(shown: object) -> str | None:
    """Return a store or view set as HTML; None where nobody makes it, and it is shown as text."""
    return None if make is None else make(shown)
