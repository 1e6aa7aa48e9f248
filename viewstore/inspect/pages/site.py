"""The pages of one or several stores: the address of a page in, the page out.

`viewstore serve` and `inspect --web` show them over HTTP, `inspect --get` prints one.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from viewstore.errors import ConfigError, RemoteError, ViewStoreError, bug, nearest
from viewstore.format.paths import StorePaths
from viewstore.format.records import jsonable
from viewstore.inspect.chosen_rows import first_shown
from viewstore.inspect.pages.building import building_facts, progress_drawn
from viewstore.inspect.pages.memory import Memory, OpenStore, ReplaysOf, no_replays
from viewstore.inspect.pages.page import Page, PageError, PageRequest, Tab, error_facts
from viewstore.inspect.pages.tabs import TABS
from viewstore.inspect.template import environment
from viewstore.store.committed import is_store, unfinished_view_set
from viewstore.store.store import Store, chosen_view_set
from viewstore.store.view_set import ViewSet

LOG = logging.getLogger("viewstore.inspect")
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript"}
MAX_QUERY = 8192  # bytes of the fields of an address
REPORT = "report the traceback, which stands in the log of the server"


class Site(Memory):
    """The pages of some stores, and what they keep in memory; threads may share it."""

    def __init__(
        self,
        stores: Mapping[str, OpenStore],
        folders: Mapping[str, Path] | None = None,
        *,
        replays: ReplaysOf = no_replays,
    ) -> None:
        """Show `stores`: what gives the newest generation of each, open, by name.

        Of those in `folders` the Overview shows the build too, before there is a generation.
        `replays` gives what draws the params of a view set anew.
        """
        super().__init__(stores, replays)
        self.folders = {} if folders is None else folders

    def get(self, name: str, path: str, query: str = "", *, address: str | None = None) -> Page:
        """Return the page of a store at `path`, percent-encoded, below its Overview.

        Errors are pages too: what went wrong, in four lines. `address` is that of the server, at
        which code of the reader opens the stores (`PageRequest.address`).
        """
        root = "../" * path.count("/") or "./"
        fields: Mapping[str, str] = {}
        try:
            fields = _fields(query)
            if path.startswith("static/"):
                return _static(path.removeprefix("static/"))
            return self._page(name, path, fields, root, address)
        except PageError as failure:
            status, error = failure.status, failure.error
        except ViewStoreError as failure:
            status, error = _status_of(failure), failure
        except Exception as failure:  # the one place where a bug of ours becomes a page
            LOG.exception("the page %r of store %s cannot be made", path[:200], name[:200])
            status, error = 500, bug(failure, REPORT)
        return self._error(status, error, root, as_json=fields.get("format") == "json")

    def _page(
        self, name: str, path: str, fields: Mapping[str, str], root: str, address: str | None
    ) -> Page:
        tab_name, _, rest = path.partition("/")
        tab = next((each for each in TABS if each.name == (tab_name or "overview")), None)
        if name not in self.stores:
            there = nearest(name, list(self.stores))
            raise _unknown(f"there is no store {name[:80]!r} here; {there}")
        if tab is None:
            raise _unknown(f"there is no page {path[:200]!r} here")
        try:
            store = self.stores[name]()
        except ConfigError as error:
            return self._unfinished(name, tab, fields, root, error)
        store.keep_columns(self.columns)
        fields = _without_unfinished(store, tab, fields)
        request = PageRequest(
            site=self,
            name=name,
            store=store,
            view_set=_picked(store, fields.get("view_set")),
            rest=unquote(rest),
            query=fields,
            root=root,
            address=address,
        )
        return self._shown(tab, request)

    def _shown(self, tab: Tab, request: PageRequest) -> Page:
        if tab.whole is not None:
            return tab.whole(request)
        form = request.query.get("format", "html")
        if form not in ("html", "json", "csv") or (form == "csv" and tab.csv is None):
            raise PageError(400, ConfigError(f"this page has no form {form[:80]!r}"))
        if not tab.has_data(request):
            raise _unknown(f"{tab.title} has nothing to show here")
        facts = tab.facts(request)
        status = tab.status(facts)
        if form == "json":
            body = json.dumps(jsonable(facts)).encode() + b"\n"
            return Page(status, "application/json", body)
        if form == "csv" and tab.csv is not None:
            header, rows = tab.csv(request, facts)
            text = io.StringIO()
            csv.writer(text).writerows([header, *rows])
            body = text.getvalue().encode()
            return Page(status, "text/csv", body, download=f"{tab.name}.csv")
        html = (
            environment()
            .get_template(f"{tab.name}.html")
            .render(
                request=request,
                tab=tab,
                tabs=[each for each in TABS if each.is_tab and each.has_data(request)],
                menu=_menu(tab, request),
                facts=facts,
                code=tab.code(request),
                **tab.drawn(request, facts),
            )
        )
        return Page(status, "text/html", html.encode())

    def _unfinished(
        self, name: str, tab: Tab, fields: Mapping[str, str], root: str, error: ConfigError
    ) -> Page:
        """Return the Overview of a store without a manifest. Raises PageError: it has no other."""
        folder = self.folders.get(name)
        if folder is None or tab.name != "overview" or not is_store(StorePaths(folder)):
            raise PageError(404, error) from error
        facts = {"building": building_facts(StorePaths(folder))}
        if fields.get("format") == "json":
            return Page(200, "application/json", json.dumps(jsonable(facts)).encode() + b"\n")
        html = (
            environment()
            .get_template("building.html")
            .render(
                name=name,
                root=root,
                facts=facts,
                drawn=progress_drawn(facts["building"]),
                error={"message": str(error), "why": error.why, "fix": error.fix},
            )
        )
        return Page(200, "text/html", html.encode())

    def _error(self, status: int, error: ViewStoreError, root: str, *, as_json: bool) -> Page:
        facts = error_facts(error)
        if as_json:
            return Page(status, "application/json", json.dumps({"error": facts}).encode() + b"\n")
        html = (
            environment().get_template("error.html").render(status=status, error=facts, root=root)
        )
        return Page(status, "text/html", html.encode())


def _status_of(error: ViewStoreError) -> int:
    """Return what HTTP says of an error: whose it is, the asker's, an origin's or the store's."""
    if isinstance(error, ConfigError):
        return 404 if error.code == "VS202" else 400
    return 502 if isinstance(error, RemoteError) else 500


def _unknown(message: str) -> PageError:
    return PageError(404, ConfigError(message, code="VS102"))


def _fields(query: str) -> dict[str, str]:
    """Return the fields of a query. Raises ConfigError: they are too many, or not UTF-8."""
    if len(query) > MAX_QUERY:
        raise ConfigError(f"the fields of an address must have at most {MAX_QUERY} bytes")
    try:
        return dict(parse_qsl(query, max_num_fields=64, errors="strict"))
    except ValueError as error:
        raise ConfigError(f"the fields of this address cannot be understood: {error}") from error


def _without_unfinished(store: Store, tab: Tab, fields: Mapping[str, str]) -> Mapping[str, str]:
    """Return the fields of an address without a view set that is being built, which Overview shows.

    Raises:
        PageError: The page is another one, and has nothing of it to show.
    """
    name = fields.get("view_set", "")
    unfinished = store.unfinished if name else {}
    if name not in unfinished:
        return fields
    if tab.name != "overview":
        raise PageError(404, unfinished_view_set(name, unfinished[name], store.location))
    return {field: value for field, value in fields.items() if field != "view_set"}


def _picked(store: Store, name: str | None) -> ViewSet | None:
    """Return view set `name`; without one, the first of those that no others start from."""
    if name is not None:
        return chosen_view_set(store, name, purpose="show")
    return first_shown(store)


def _menu(tab: Tab, request: PageRequest) -> list[str]:
    """Return the view sets that can be picked on a page: those of which it has something to show.

    Where no page is that of a tab, picking leads to the Overview, which has all.
    """
    view_sets = request.store.view_sets
    if not tab.is_tab:
        return list(view_sets)
    return [n for n, each in view_sets.items() if tab.has_data(replace(request, view_set=each))]


def _static(name: str) -> Page:
    """Return a style sheet or script of ours. Raises PageError: there is none of this name."""
    folder = files("viewstore.inspect").joinpath("static")
    found = {each.name: each for each in folder.iterdir()}.get(name)
    suffix = "." + name.rpartition(".")[2]
    if found is None or suffix not in STATIC_TYPES:
        raise _unknown(f"there is no file {name[:80]!r} here")
    return Page(200, STATIC_TYPES[suffix], found.read_bytes())
