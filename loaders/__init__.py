"""Batches of cached and online views, in an order keyed by seed and epoch alone."""

import importlib
from typing import TYPE_CHECKING, Any

from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.views import Cached, Mix, Online

if TYPE_CHECKING:
    from viewstore.loaders.batch import Batch, View
    from viewstore.loaders.torch_data import (
        ViewDataset,
        ViewIterableDataset,
        keep_batch,
        tuple_of,
    )

__all__ = [
    "Batch",
    "Cached",
    "Mix",
    "Online",
    "View",
    "ViewDataset",
    "ViewIterableDataset",
    "ViewLoader",
    "keep_batch",
    "tuple_of",
]

# Their modules need torch, which a ViewLoader imports beside its first batch.
_HOMES = {
    "Batch": "batch",
    "View": "batch",
    "ViewDataset": "torch_data",
    "ViewIterableDataset": "torch_data",
    "keep_batch": "torch_data",
    "tuple_of": "torch_data",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'viewstore.loaders' has no attribute {name!r}")
    return getattr(importlib.import_module(f"viewstore.loaders.{_HOMES[name]}"), name)
