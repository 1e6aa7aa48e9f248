"""Batches of one shape for ever, for networks whose bits must not depend on who is beside whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from viewstore.generators.contract import Sample
from viewstore.images.colours import Pixels

Batch = tuple[list[Sample], Pixels]


def fixed_batches(
    samples: Iterable[Sample], slots: int, pixels: Callable[[Sample], Pixels]
) -> Iterator[Batch]:
    """Yield samples with their pixels stacked, uint8 [slots, V, H, W, 3], in their order.

    Networks see one shape for ever: company, order and shard size change no bit. The last batch
    is filled with its first sample, of which nobody asks.
    """
    pulled = iter(samples)
    while batch := list(islice(pulled, slots)):
        yield batch, filled([pixels(sample) for sample in batch], slots)


def filled(pixels: Sequence[Pixels], slots: int) -> Pixels:
    """Return pixels of `slots` samples, stacked: behind those that there are stands the first."""
    stacked = np.stack(pixels)
    return np.concatenate([stacked, np.repeat(stacked[:1], slots - len(pixels), axis=0)])
