"""Pay for a hard view once; train on it for ever. See docs/architecture.md."""

import importlib
from typing import TYPE_CHECKING, Any

from viewstore.store import html

if TYPE_CHECKING:
    from viewstore.errors import ConfigError, FormatError, RemoteError, ViewStoreError
    from viewstore.store.store import Store
    from viewstore.store.store import open_store as open
    from viewstore.store.view_set import ViewSet

__all__ = [
    "ConfigError",
    "FormatError",
    "RemoteError",
    "Store",
    "ViewSet",
    "ViewStoreError",
    "open",
]

_HOMES = {
    "ConfigError": ("errors", "ConfigError"),
    "FormatError": ("errors", "FormatError"),
    "RemoteError": ("errors", "RemoteError"),
    "ViewStoreError": ("errors", "ViewStoreError"),
    "Store": ("store.store", "Store"),
    "ViewSet": ("store.view_set", "ViewSet"),
    "open": ("store.store", "open_store"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a public name on first use (PEP 562), so that the command line starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'viewstore' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"viewstore.{module}"), attribute)


def _html(shown: Any) -> str:  # noqa: ANN401
    """Return a store or view set as a notebook shows it; what draws it is loaded only then."""
    from viewstore.inspect.notebook import notebook_html

    return notebook_html(shown)


html.make = _html
del html
