"""Small real stores for tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from viewstore.build.garbage import collect_garbage
from viewstore.build.request import BuildRequest, Built
from viewstore.build.run import build
from viewstore.format.paths import StorePaths
from viewstore.format.plan import ROUND, Plan, round_name
from viewstore.store.committed import read_plan
from viewstore.store.store import open_store
from viewstore.store.verify import verify

ROWS = 20
SHARD_ROWS = 8


def write_npz(path: Path, *, rows: int = ROWS, side: int = 20) -> str:
    """Write a source of smooth random pictures."""
    rng = np.random.Generator(np.random.Philox(3))
    coarse = rng.integers(0, 256, (rows, side // 4, side // 4, 3), dtype=np.uint8)
    np.savez(path, images=coarse.repeat(4, axis=1).repeat(4, axis=2), labels=np.arange(rows) % 3)
    return str(path)


def write_photographs(folder: Path, count: int, *, cut: int) -> Path:
    """Write `count` photographs 0.jpg, 1.jpg, ...; of number `cut` only the header is whole."""
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(1))
    for number in range(count):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    path = folder / f"{cut}.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def round_before(out: Path, name: str) -> Plan | None:
    """Return the plan after which a view set is the next round; None: its name is no round's."""
    match = ROUND.fullmatch(name)
    if match is None:
        return None
    first, number = read_plan(StorePaths(out).view_set(match[1])), int(match[2]) - 1
    return replace(first, view_set=round_name(match[1], number), round=number)


def build_small(out: Path, source: str | None, **changes: Any) -> Built:  # noqa: ANN401
    """Build three shards of two simclr views of each sample."""
    request: dict[str, Any] = {
        "generator": "simclr",
        "out": out,
        "source": source,
        "settings": {"views": 2, "height": 16, "width": 16},
        "shard_rows": SHARD_ROWS,
        "workers": 1,
    }
    return build(BuildRequest(**(request | changes)))


def whole_id(out: Path) -> str:
    """Return the id of a store, which must be whole once its garbage was taken out."""
    collect_garbage(out, older_seconds=0, dry_run=False)
    assert list(verify(out, level="content")) == []
    return open_store(out).store_id
