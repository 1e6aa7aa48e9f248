"""The record beside an exported `.beton`, which says what is in it; sources check it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.files.local import LOCAL
from viewstore.format.records import SMALL_BYTES, unseal

KIND = "viewstore-beton"
FORM = {
    "store_id": str,
    "view_set": str,
    "rows": int,
    "label_names": [str],
    "selection": str,  # digest of what was chosen
    "page_bytes": int,
    "sha256": str,
}


def sidecar_of(path: Path) -> Path:
    """Return where the record of a `.beton` lies."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the record beside a `.beton`, None if it has none: then no export wrote it.

    Raises:
        FormatError: The record is damaged, or is not one of a `.beton`.
    """
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        return None
    return LOCAL.record(sidecar, SMALL_BYTES, partial(unseal, kind=KIND, form=FORM))


def check_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the record beside a `.beton`, its sha256 compared with the file; None without one.

    Raises:
        FormatError: The record is damaged, or the file is not the one it describes.
    """
    record = read_sidecar(path)
    if record is not None and disk.sha256_of(path) != record["sha256"]:
        raise FormatError(
            f"{path.name} does not match the sha256 in {sidecar_of(path).name}",
            where=str(path),
            why="it was changed after it was exported, or its export was stopped",
            fix="export it again",
        )
    return record
