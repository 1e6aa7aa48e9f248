"""Batches of cached and online views, in an order keyed by seed and epoch alone."""

from viewstore.loaders.batch import Batch, View
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.views import Cached, Mix, Online

__all__ = ["Batch", "Cached", "Mix", "Online", "View", "ViewLoader"]
