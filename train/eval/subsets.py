"""Keyed subsets of a bank: k samples of each class for low shot, lists of keys for few labels.

Draws are keyed by (seed, run, row of the source): all arms have the same subsets, and those of
fewer samples lie within those of more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, nearest
from viewstore.files.disk import read_limited
from viewstore.randomness import Stream
from viewstore.train.eval.features import Images
from viewstore.train.eval.samples import Labels, Rows

DOMAIN = b"viewstore/eval/1"
LIST_BYTES = 1 << 28  # of a file of keys


def ranks_in_class(labels: Labels, rows: Rows, *, seed: int, run: int = 0) -> NDArray[np.int64]:
    """Return at which place of its class each sample was drawn, from 0, int64 [N].

    Args:
        labels: Label of each sample, [N].
        rows: Its row of the source, [N].
        seed: Of the draws.
        run: Other runs draw other orders.
    """
    drawn = Stream(seed, run, DOMAIN).seed_word(rows, 0)
    order = np.lexsort((rows, drawn, labels))
    sorted_labels = labels[order]
    first = np.searchsorted(sorted_labels, sorted_labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


def check_shots(labels: Labels, k: int) -> None:
    """Raise ConfigError if a class has fewer than k samples."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < k:
        raise ConfigError(
            f"every class must have at least {k} samples to learn from, "
            f"class {classes[counts.argmin()]} has {counts.min()}",
            fix="give fewer --shots, or a larger --limit",
        )


def check_share(share: float) -> None:
    """Raise ConfigError unless a share of the labels is in (0, 1]."""
    if not 0 < share <= 1:
        raise ConfigError(f"share must be above 0 and at most 1, got {share}")


def balanced_share(images: Images, share: float, *, seed: int) -> Images:
    """Return a share of the images, of each class as many; all of a class that has fewer.

    Raises:
        ConfigError: The share is not in (0, 1].
    """
    check_share(share)
    if share == 1:
        return images
    labels = images.labels
    k = max(1, round(share * len(labels) / len(np.unique(labels))))
    return images.take(np.flatnonzero(ranks_in_class(labels, images.rows, seed=seed) < k))


def listed(images: Images, path: Path) -> Images:
    """Return the images whose keys a text file lists, one a line.

    Where a line is no key, it may be the last part of one: lists of ImageNet name files without
    their folders.

    Raises:
        ConfigError: A line names no image of the bank, or several.
        FormatError: The file is too large.
    """
    try:
        lines = read_limited(path, LIST_BYTES).decode().splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no list of keys at {path}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be a text of keys in UTF-8", where=str(path)) from error
    wanted = [line.strip() for line in lines if line.strip()]
    keys = [images.table.keys[row] for row in images.rows.tolist()]
    by_key = {key: number for number, key in enumerate(keys)}
    by_name: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        by_name.setdefault(key.rpartition("/")[2], []).append(number)
    chosen = set()
    for line in wanted:
        found = [by_key[line]] if line in by_key else by_name.get(line, [])
        if len(found) != 1:
            what = "names no image" if not found else f"names {len(found)} images"
            raise ConfigError(
                f"key {line[:80]!r} {what} of the bank",
                where=str(path),
                why=nearest(line[:80], keys[:1000]) if not found else None,
                fix="list keys of --source, one a line; those of --holdout are not in the bank",
            )
        chosen.add(found[0])
    if not chosen:
        raise ConfigError(f"{path} must list a key, it is empty", where=str(path))
    return images.take(np.array(sorted(chosen)))


def subset_digest(images: Images) -> str:
    """Return the sha256 of the sorted keys of images, each with a line end, in hex."""
    keys = sorted(images.table.keys[row].encode() for row in images.rows.tolist())
    return hashlib.sha256(b"".join(key + b"\n" for key in keys)).hexdigest()
