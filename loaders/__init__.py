"""Batches of cached and online views, in an order keyed by seed and epoch alone.

Users make a `ViewLoader`; `adapters` make one for other loops. Each room imports only those before
it: pipeline, plan, read, render, batches; then settings, assemble, loader, adapters.
"""

import importlib
from typing import TYPE_CHECKING, Any

from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Cached, Mix, Online
from viewstore.loaders.plan.slots import Slot
from viewstore.loaders.settings import LoaderSettings

if TYPE_CHECKING:
    from viewstore.loaders.adapters.torch_data import (
        ViewDataset,
        ViewIterableDataset,
        keep_batch,
        tuple_of,
    )
    from viewstore.loaders.batches.batch import Batch, View

__all__ = [
    "Batch",
    "Cached",
    "LoaderSettings",
    "Mix",
    "Online",
    "Slot",
    "View",
    "ViewDataset",
    "ViewIterableDataset",
    "ViewLoader",
    "keep_batch",
    "tuple_of",
]

# Their modules need torch, which is imported while threads fill a loader's first batch.
_HOMES = {
    "Batch": "batches.batch",
    "View": "batches.batch",
    "ViewDataset": "adapters.torch_data",
    "ViewIterableDataset": "adapters.torch_data",
    "keep_batch": "adapters.torch_data",
    "tuple_of": "adapters.torch_data",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'viewstore.loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"viewstore.loaders.{_HOMES[name]}"), name)
