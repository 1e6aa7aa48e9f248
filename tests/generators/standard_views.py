"""Standard views in memory, that other views are made from: those of `viewstore conformance`."""

from viewstore.generators.conformance.world import (
    Columns,
    Image,
    StandardViews,
    context_of,
    samples_on,
    standard_views,
)

__all__ = [
    "Columns",
    "Image",
    "StandardViews",
    "context_of",
    "samples_on",
    "standard_views",
]
