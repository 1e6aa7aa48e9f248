"""Generated sources: a folder of images, and the file of the latents that made them.

Latents are stored as float16, and the images are those of the stored latents, decoded one at a
time: an image depends on its latents alone, and an inversion of it has nothing left to find.
Source: Han et al., "Constructive Assimilation", appendix H; GenRep, arXiv:2106.05258.
"""

from __future__ import annotations

import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.files import disk
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.format.records import check_form
from viewstore.generators.latent.decode import to_pixels
from viewstore.generators.numerics import repeatable
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.images.png import Png

KIND = "latents"
LATENTS_FILE = "latents.safetensors"
FORM = {"generator": str, "psi": int | float, "seed": int | None, "keys": [str]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """The latents of N images, after truncation.

    Attributes:
        codes: float16 [N, L, D], or [N, 1, D] where all layers of an image have the same code.
        labels: int64 [N], the class of each image; -1 where none was given.
        crc32: int64 [N], of the bytes of each image file.
        keys: Of the images: their paths in the folder.
        generator: Fingerprint of the generator.
        psi: Truncation that the codes came out of.
        seed: That they were drawn by; None if they were given.
        digest: sha256 of their file, in hex.
    """

    codes: Tensor
    labels: Tensor
    crc32: Tensor
    keys: Sequence[str]
    generator: str
    psi: float
    seed: int | None
    digest: str = ""

    def of_rows(self, keys: Sequence[str], crc32: NDArray[np.uint32]) -> Latents:
        """Return the latents of the images `keys`, whose files have these CRC-32, in this order.

        Raises:
            ConfigError: An image is not among those that were made, or has other bytes.
        """
        numbers = {key: number for number, key in enumerate(self.keys)}
        for key in keys:
            if key not in numbers:
                raise ConfigError(f"image {key} is none of those that its latents made")
        rows = torch.tensor([numbers[key] for key in keys], dtype=torch.int64)
        changed = self.crc32[rows] != torch.from_numpy(crc32.astype(np.int64))
        if changed.any():
            key = keys[int(changed.nonzero()[0, 0])]
            raise ConfigError(f"image {key} is not the one that its latents made")
        taken = {name: getattr(self, name)[rows] for name in ("codes", "labels", "crc32")}
        return replace(self, keys=tuple(keys), **taken)


def write_source(
    folder: Path,
    network: StyleGAN2,
    codes: Tensor,
    *,
    labels: Tensor | None,
    psi: float,
    seed: int | None,
    made: Callable[[], object] = lambda: None,
) -> None:
    """Write the images of `codes` [N, L, D] and their latents into a new folder.

    Images are PNG. Those of a conditional network lie in class folders, one for each class that
    it has, so that the numbers of a source's labels are those of the network. A run that is cut
    short leaves no `folder`.

    Args:
        folder: Must not be there, or be empty.
        network: On the CPU.
        codes: Truncated already.
        labels: Class numbers [N], if they are known.
        psi: Truncation, which is recorded.
        seed: Of the draw, which is recorded.
        made: Called after each image.

    Raises:
        ConfigError: The folder has something in it, or a code is too large for float16.
    """
    check_new(folder)
    stored = codes.half()
    if not bool(stored.isfinite().all()):
        raise ConfigError("latents must be finite as float16, some are too large")
    parent = folder.absolute().parent
    disk.make_directory(parent)
    scratch = parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        keys = _make_folders(scratch, network, len(codes), labels)
        crcs = []
        for key, code in zip(keys, stored, strict=True):
            data = _image_file(network, code)
            (scratch / key).write_bytes(data)
            crcs.append(zlib.crc32(data))
            made()
        tensors = {
            "codes": stored[:, :1] if bool((stored == stored[:, :1]).all()) else stored,
            "labels": torch.full((len(codes),), -1) if labels is None else labels.long(),
            "crc32": torch.tensor(crcs, dtype=torch.int64),
        }
        tensors["checks"] = checks_of(tensors["codes"], tensors["crc32"])
        config = {"generator": network.fingerprint, "psi": psi, "seed": seed, "keys": keys}
        write_with_config(scratch / LATENTS_FILE, KIND, tensors, config)
        disk.rename(scratch, folder.absolute())
        disk.fsync_directory(parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def checks_of(codes: Tensor, crc32: Tensor) -> Tensor:
    """Return CRC-32 of each image's code behind the CRC-32 of its file, int64 [N].

    It binds the two: codes that were put in another order are found out.
    """
    pairs = zip(codes, crc32.tolist(), strict=True)
    found = [
        zlib.crc32(code.contiguous().numpy().tobytes(), crc & 0xFFFFFFFF) for code, crc in pairs
    ]
    return torch.tensor(found, dtype=torch.int64)


def _make_folders(folder: Path, network: StyleGAN2, count: int, labels: Tensor | None) -> list[str]:
    """Make the folders of `count` images, and return where in them each image goes."""
    digits = max(6, len(str(count - 1)))
    keys = [f"{number:0{digits}d}.png" for number in range(count)]
    if labels is None:
        folder.mkdir()
        return keys
    classes = class_folders(network.c_dim)
    for name in classes:
        (folder / name).mkdir(parents=True)
    return [f"{classes[int(c)]}/{key}" for c, key in zip(labels, keys, strict=True)]


def check_new(folder: Path) -> None:
    """Raise ConfigError if a folder cannot be that of a new source."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is there already, and stores may have been made of it",
            where=str(folder),
            fix="name a new folder with --out",
        )


def class_folders(classes: int) -> list[str]:
    """Return names whose alphabetical order is that of the numbers of the classes."""
    return [f"{number:0{len(str(classes - 1))}d}" for number in range(classes)]


@torch.no_grad()
def _image_file(network: StyleGAN2, code: Tensor) -> bytes:
    """Return the PNG of one code, float16 [L, D]; gray where the network is."""
    with repeatable("cpu", 1):
        pixels = to_pixels(network.synthesis(code.float()[None]))[0]
    return Png().encode(pixels[..., 0] if network.channels == 1 else pixels)


def read_latents(path: Path) -> Latents:
    """Return the latents of a generated source.

    Raises:
        CheckpointError: It is not such a file, or what it holds does not fit together.
    """
    found = read_with_config(path, KIND)
    try:
        check_form(found.config, FORM, "latents")
        _check(found.tensors, found.config["keys"])
    except FormatError as error:
        raise CheckpointError(f"latents of a source: {error}", where=str(path)) from error
    values: dict[str, Any] = {**found.tensors, **found.config}
    del values["checks"]
    return Latents(**values, digest=found.digest)


def _check(tensors: Mapping[str, Tensor], keys: list[Any]) -> None:
    """Raise FormatError unless there are finite codes, a label and a CRC for each key."""
    count = len(keys)
    wanted = {"codes": torch.float16, **dict.fromkeys(("labels", "crc32", "checks"), torch.int64)}
    if {name: value.dtype for name, value in tensors.items()} != wanted:
        raise FormatError(f"there must be {', '.join(wanted)}, got {', '.join(sorted(tensors))}")
    codes = tensors["codes"]
    if codes.ndim != 3 or 0 in codes.shape or codes.shape[0] != count:
        raise FormatError(f"codes must be [{count}, L, D], got {list(codes.shape)}")
    for name in ("labels", "crc32", "checks"):
        if tuple(tensors[name].shape) != (count,):
            raise FormatError(f"{name} must be [{count}], got {list(tensors[name].shape)}")
    if len(set(keys)) != count:
        raise FormatError("a key stands twice")
    if not bool(codes.isfinite().all()):
        raise FormatError("codes must be finite")
    wrong = (checks_of(codes, tensors["crc32"]) != tensors["checks"]).nonzero()
    if len(wrong):
        raise FormatError(
            f"the codes of image {keys[int(wrong[0, 0])]} are not those that it was made of"
        )
