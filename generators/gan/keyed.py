"""The rows that a training step reads and its random numbers: functions of seed and step alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keyed_word(purpose: str, *key: int) -> int:
    """Return 63 bits that depend on these arguments alone."""
    text = " ".join(["viewstore/gan/1", purpose, *map(str, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def keyed_generator(purpose: str, *key: int) -> torch.Generator:
    """Return a CPU generator that depends on these arguments alone."""
    return torch.Generator().manual_seed(keyed_word(purpose, *key))


def epoch_rows(num: int, batch: int, seed: int, step: int) -> Tensor:
    """Return the rows of a step, int64 [batch].

    Batches are cut from keyed permutations of all `num` rows, end to end.
    """
    first = step * batch
    epochs = range(first // num, (first + batch - 1) // num + 1)
    orders = [torch.randperm(num, generator=keyed_generator("epoch", seed, e)) for e in epochs]
    return torch.cat(orders)[first - epochs[0] * num :][:batch]
