"""Batches of cached and online views, in an order keyed by seed and epoch alone."""

from viewstore.loaders.batch import Batch, View
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.torch_data import ViewDataset, ViewIterableDataset, keep_batch, tuple_of
from viewstore.loaders.views import Cached, Mix, Online

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
