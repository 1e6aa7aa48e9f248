"""What a page is made from, what comes back, and what each tab has to say of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from viewstore.errors import ConfigError, ViewStoreError
from viewstore.inspect.pages.memory import Memory
from viewstore.store.store import Store
from viewstore.store.view_set import ViewSet

Facts = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A page, a picture or a file, as it is sent.

    Attributes:
        status: 200, or what an HTTP server says of an error.
        media_type: Of the body: "text/html".
        body: Its bytes.
        immutable: Whether its address never gives anything else.
        download: Name of the file as which it is kept; None: it is shown.
    """

    status: int
    media_type: str
    body: bytes
    immutable: bool = False
    download: str | None = None

    @property
    def cache_control(self) -> str:
        """How long others may keep it."""
        return "private, max-age=31536000, immutable" if self.immutable else "no-cache"


def error_facts(error: ViewStoreError) -> Facts:
    """Return an error in its four lines, as JSON values."""
    lines = {"where": error.where, "why": error.why, "fix": error.fix}
    return {"code": error.code, "message": str(error), **lines}


class PageError(Exception):
    """A page that cannot be shown: the status that says so, and the error in our words."""

    def __init__(self, status: int, error: ViewStoreError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """What a page is asked for.

    Attributes:
        site: What the pages keep in memory.
        name: Of the store, in addresses.
        store: The store, open.
        view_set: The view set that was picked, or that stands first; None: there is none.
        rest: What follows the name of the tab in the address, decoded: a key.
        query: The fields of the address.
        root: Relative address of the store's Overview: "./" or "../".
        address: At which others read the stores, a slash at its end: that of the server as the
            reader's browser has it; None: code on the reader's machine opens folders.
    """

    site: Memory
    name: str
    store: Store
    view_set: ViewSet | None
    rest: str
    query: Mapping[str, str]
    root: str
    address: str | None = None

    @property
    def place(self) -> str:
        """The absolute path or URL at which code of the reader opens the store."""
        if self.address is not None:
            return f"{self.address}v1/stores/{quote(self.name, safe='')}"
        return self.store.location if self.store.remote else str(self.store.root.resolve())

    @property
    def shown(self) -> ViewSet:
        """The view set that was picked. Raises PageError: the store has none."""
        if self.view_set is None:
            raise PageError(404, ConfigError("this store has no view set to show"))
        return self.view_set

    def link(self, path: str, **changed: object) -> str:
        """Return the relative address of a page of this store, with these fields in its query.

        The view set that was picked stays picked. A field that is None or "" is left out.
        """
        kept = {"view_set": self.query.get("view_set"), **changed}
        fields = {name: str(value) for name, value in kept.items() if value not in (None, "")}
        return f"{self.root}{path}" + (f"?{urlencode(fields)}" if fields else "")

    def again(self, **changed: object) -> str:
        """Return the address of this page with some fields of its query changed."""
        fields = {
            name: str(value)
            for name, value in {**self.query, **changed}.items()
            if value not in (None, "")
        }
        return "?" + urlencode(fields)

    def sample(self, key: str, **changed: object) -> str:
        """Return the address of the page of a sample."""
        return self.link(f"sample/{quote(key, safe='')}", **changed)

    def picture(
        self, key: str, view: int | None, side: int, view_set: ViewSet | None = None
    ) -> str:
        """Return the address of a picture: view `view` of a sample, or its original (None).

        It names what is in the picture (root of the view set, or the id of the sources; view;
        key), never its place in a result, and so it never gives another picture.
        """
        chosen = view_set or self.shown
        root = chosen.index.root if view is not None else self.store.manifest.sources_id
        number = "original" if view is None else str(view)
        place = f"picture/{root[:16]}/{chosen.name}/{number}/{quote(key, safe='')}"
        return f"{self.root.removeprefix('./')}{place}?side={side}"


Csv = tuple[Sequence[str], Iterable[Sequence[object]]]


def _nothing(request: PageRequest, facts: Facts) -> Facts:
    return {}


def opening(request: PageRequest) -> str:
    """Return Python that opens the store, and the view set that was picked."""
    lines = ["import viewstore", "", f"store = viewstore.open({request.place!r})"]
    if request.view_set is not None:
        lines.append(f"views = store.view_sets[{request.view_set.name!r}]")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Tab:
    """A kind of page: a row of `tabs.py`.

    Attributes:
        name: In addresses, and of its template: "browse" is templates/browse.html.
        title: What people read on the tab.
        facts: What the page shows, as JSON values: `format=json` gives just these.
        has_data: Whether there is something to show; the tab is absent where not.
        drawn: What the template needs beside the facts: charts, addresses. Never a number.
        csv: Header and rows of `format=csv`; None: the page has no rows.
        status: What an HTTP server says of the page: of one that shows an error beside a form.
        code: Python that opens this store and selects what the page shows.
        whole: Makes the answer itself, where it is no page: a picture. None: it is a page.
        is_tab: Whether it stands in the row of tabs; a sample does not.
    """

    name: str
    title: str
    facts: Callable[[PageRequest], Facts]
    has_data: Callable[[PageRequest], bool] = lambda request: True
    drawn: Callable[[PageRequest, Facts], Facts] = _nothing
    csv: Callable[[PageRequest, Facts], Csv] | None = None
    status: Callable[[Facts], int] = lambda facts: 200
    code: Callable[[PageRequest], str] = opening
    whole: Callable[[PageRequest], Page] | None = None
    is_tab: bool = True
