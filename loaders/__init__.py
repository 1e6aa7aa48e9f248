"""Batches of cached and online views, in an order keyed by seed and epoch alone."""
