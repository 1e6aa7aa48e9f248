"""Files of generators: any known format is read, our own is written (docs/gan.md)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from viewstore.errors import CheckpointError
from viewstore.files.tensors import (
    as_stored,
    is_tensor_file,
    read_json,
    read_tensors,
    write_tensors,
)
from viewstore.generators.checkpoints.read import read_checkpoint
from viewstore.generators.stylegan2.network import StyleGAN2

KIND = "viewstore_gan"
COMPARED = 4


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights of a generator come from.

    Attributes:
        family: "viewstore", "stylegan2-ada-pytorch", "stylegan2-tensorflow" or "rosinality".
        source_sha256: Of the file it was converted from.
        module_src_sha256: Of the source code in that file, which never ran.
        licence_note: One line for the user.
        provenance: How it was trained: commands, seed, versions, data, metrics.
    """

    family: str = "viewstore"
    source_sha256: str | None = None
    module_src_sha256: str | None = None
    licence_note: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredGenerator:
    """A generator as its file holds it.

    Attributes:
        network: Frozen, on the CPU.
        origin: Where its weights come from.
        notes: Lines for the user: what the file lacked.
    """

    network: StyleGAN2
    origin: Origin
    notes: tuple[str, ...] = ()


def read_generator(path: Path) -> StoredGenerator:
    """Return the frozen generator of a file and where it comes from.

    The format is recognised by content, never by suffix.

    Raises:
        CheckpointError: The file is not a StyleGAN2 network that we read.
    """
    try:
        if path.is_file() and is_tensor_file(path):
            return _read_own(path)
        return _read_foreign(path)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(
            f"cannot read {path} as a StyleGAN2 network: {error}. "
            "Nothing from the file was executed.",
            where=str(path),
            why=str(error),
            fix=error.fix,
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", where=str(path)) from error


def write_generator(path: Path, network: StyleGAN2, origin: Origin, *, half: bool) -> StyleGAN2:
    """Write our own file and return the network that it holds, rounded once if `half`.

    Raises:
        CheckpointError: A weight is too large for float16, or the file reads back differently.
    """
    written = rounded(network, half=half)
    tensors = as_stored(written.state_dict(), half=half)
    about = {
        KIND: "1",
        "kwargs": json.dumps(network.kwargs, sort_keys=True),
        "sigma_w": repr(written.sigma_w),
        "family": origin.family,
        "provenance": json.dumps(origin.provenance, sort_keys=True),
    }
    for name in ("source_sha256", "module_src_sha256", "licence_note"):
        value = getattr(origin, name)
        about |= {} if value is None else {name: value}
    write_tensors(path, tensors, about)
    _compare(path, written)
    return written


def rounded(network: StyleGAN2, *, half: bool) -> StyleGAN2:
    """Return the network that a file of `network` holds: rounded to float16 if `half`."""
    return StyleGAN2.from_tensors(as_stored(network.state_dict(), half=half), network.kwargs)


def compared_images(network: StyleGAN2) -> torch.Tensor:
    """Return images of four keyed z, float32 [4, C, H, W], by which two networks are compared."""
    labels = network.classes_in_turn(COMPARED)
    with torch.no_grad():
        images: torch.Tensor = network.synthesis(network.sample(COMPARED, 0, labels))
    return images


def _compare(path: Path, written: StyleGAN2) -> None:
    read = read_generator(path).network
    if not torch.equal(compared_images(read), compared_images(written)):
        raise CheckpointError(f"{path} reads back as another network", where=str(path))


def _read_own(path: Path) -> StoredGenerator:
    tensors, about = read_tensors(path, KIND)
    network = StyleGAN2.from_tensors(tensors, read_json(about, "kwargs"))
    network.sigma_w = _sigma(about.get("sigma_w", ""))
    origin = Origin(
        family=about.get("family", "viewstore"),
        source_sha256=about.get("source_sha256"),
        module_src_sha256=about.get("module_src_sha256"),
        licence_note=about.get("licence_note"),
        provenance=read_json(about, "provenance"),
    )
    return StoredGenerator(network=network, origin=origin)


def _sigma(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise CheckpointError(f"sigma_w must be a positive number, got {text!r}")
    return value


def _read_foreign(path: Path) -> StoredGenerator:
    found = read_checkpoint(path)
    origin = Origin(
        family=found.family,
        source_sha256=found.source_sha256,
        module_src_sha256=found.module_src_sha256,
        licence_note=found.licence_note,
    )
    network = StyleGAN2.from_tensors(found.tensors, found.kwargs)
    return StoredGenerator(network=network, origin=origin, notes=found.notes)
