"""How HTML is made: the templates of report, notebook and pages, everything in them escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup


@cache
def environment() -> jinja2.Environment:
    """Return what renders the templates of this room; a name that is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("viewstore.inspect", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def compile_templates() -> None:
    """Compile every template now: a server does it before the first page is asked for."""
    made = environment()
    for name in made.list_templates():
        made.get_template(name)


def style(*names: str) -> Markup:
    """Return style sheets of ours, for a page that holds them itself."""
    folder = files("viewstore.inspect").joinpath("static")
    return Markup("".join(folder.joinpath(name).read_text("utf-8") for name in names))
