"""Batches of one shape for ever, for networks whose bits must not depend on who is beside whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
        stacked = np.stack([pixels(sample) for sample in batch])
        yield batch, np.concatenate([stacked, np.repeat(stacked[:1], slots - len(batch), axis=0)])
