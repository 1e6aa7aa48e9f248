"""Methods on small networks, and views for them: those of `viewstore conformance`."""

from viewstore.train.conformance.world import (
    COLUMNS,
    PREPARE,
    ROWS,
    SAMPLES,
    SIDE,
    at,
    make_method,
    make_views,
    same,
    slots_of,
    snapshot,
    train_step,
    with_made,
)

__all__ = [
    "COLUMNS",
    "PREPARE",
    "ROWS",
    "SAMPLES",
    "SIDE",
    "at",
    "make_method",
    "make_views",
    "same",
    "slots_of",
    "snapshot",
    "train_step",
    "with_made",
]
