"""A generator that stores the params that a test hands it: stores with planted faults.

`plant` builds a view set of such params, or a columns set about one, into a store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.format.columns import Column
from viewstore.format.plan import SOURCE, Plan
from viewstore.generators import GENERATORS, Row
from viewstore.generators.contract import Context, Input, OfSource, Rendered, Sample
from viewstore.store.store import Store

MODULE = "viewstore.generators.planted"
ROWS, SHARD_ROWS, SIDE = 20, 8, 16
HOSTILE = ("a<img src=x onerror=alert(1)>.png", "b\"quote' &amp; %2F?.png", "c ‮rtl ümlaut.png")
VALUES: dict[str, NDArray[Any]] = {}  # of the view set that is being built


@dataclass(frozen=True, kw_only=True)
class Planted(OfSource):
    """Views of one colour, with the params of VALUES."""

    VERSION: ClassVar[int] = 1

    views: int = 2
    columns_of: str = "[]"  # names, dtypes and shapes, as text that a plan can hold
    policy: str | None = None
    eps: float | None = None
    norm: str | None = None
    units: str | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    height: int = SIDE
    width: int = SIDE

    def resolve(self, context: Context) -> ResolvedPlanted:
        """Return the settings as they are."""
        del context
        return ResolvedPlanted(**asdict(self))

    def reads_source(self) -> bool:
        """Return that no image is looked at."""
        return False


@dataclass(frozen=True, kw_only=True)
class ResolvedPlanted(Planted):
    """What `Planted` resolves to."""

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return ("expert",) * self.views

    def columns(self) -> tuple[Column, ...]:
        """Return the columns that the test handed over."""
        forms = json.loads(self.columns_of)
        found = (Column(**{**each, "shape": tuple(each["shape"])}) for each in forms)
        return tuple(sorted(found, key=lambda column: column.name))

    def make(self, context: Context) -> PlantedGenerator:
        """Return the generator."""
        del context
        return PlantedGenerator(dict(VALUES), self)


@dataclass(frozen=True, kw_only=True)
class PlantedColumns(Planted):
    """Columns about the views of `of`."""

    KIND: ClassVar[Any] = "columns"

    of: str = SOURCE
    height: int = 0
    width: int = 0

    def inputs(self) -> Mapping[str, Input]:
        """Return the view set that is described."""
        return {} if self.of == SOURCE else {"parent": Input(self.of)}

    def resolve(self, context: Context) -> ResolvedPlanted:
        """Return the settings as they are."""
        del context
        return ResolvedColumns(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class ResolvedColumns(PlantedColumns, ResolvedPlanted):
    """What `PlantedColumns` resolves to."""

    def roles(self) -> tuple[str, ...]:
        """Return the roles of the described views."""
        return (SOURCE,) if self.of == SOURCE else ("expert",) * self.views


class PlantedGenerator:
    """Yields the params of each row."""

    def __init__(self, values: Mapping[str, NDArray[Any]], settings: ResolvedPlanted) -> None:
        self._values, self._settings = values, settings

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the planted params of each sample."""
        form = (self._settings.views, SIDE, SIDE, 3)
        for sample in samples:
            grey = np.full(form, sample.index * 7 % 256, np.uint8)
            pixels = grey if self._settings.height else None
            yield Rendered(
                sample.index, pixels, {n: v[sample.index] for n, v in self._values.items()}
            )


@contextmanager
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, MODULE, sys.modules[__name__])
        patch.setitem(GENERATORS, "planted", Row("planted", "Planted", "what a test says"))
        columns = Row("planted", "PlantedColumns", "what a test says")
        patch.setitem(GENERATORS, "planted-columns", columns)
        yield


def pictures(folder: Path, rows: int = ROWS) -> Path:
    """Write a folder of pictures of three labels, the first of which have hostile names."""
    for row in range(rows):
        name = HOSTILE[row] if row < len(HOSTILE) else f"{row:03d}.png"
        label = folder / f"label{row % 3}"
        label.mkdir(parents=True, exist_ok=True)
        rng = np.random.Generator(np.random.Philox(row))
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(label / name)
    return folder


def plant(
    out: Path,
    name: str,
    values: Mapping[str, NDArray[Any]],
    *,
    source: Path | None = None,
    of: str | None = None,
    per: Mapping[str, str] | None = None,
    unpacked: tuple[str, ...] = (),
    after: Plan | None = None,
    **settings: Any,  # noqa: ANN401
) -> Store:
    """Build a view set with these columns [N, ...] into a store, and return the store.

    Args:
        out: The store.
        name: Of the view set.
        values: Its columns; "status" is 1 where it is not given.
        source: The images of a new store.
        of: What it describes, as a columns set; None: it has pictures.
        per: What columns are per, where that is not the view.
        unpacked: Columns in files of their own.
        after: The plan of the round before it.
        settings: Of the generator, for its plan.
    """
    rows = len(next(iter(values.values())))
    views = settings.pop("views", 2)
    given = {"status": np.ones((rows, views), np.uint8), **values}
    forms = [
        {
            "name": column,
            "dtype": each.dtype.str.lstrip("<|"),
            "shape": each.shape[1:],
            "per": (per or {}).get(column, "view"),
            "pack": column not in unpacked,
        }
        for column, each in given.items()
    ]
    settings |= {"views": views, "columns_of": json.dumps(forms)}
    if of is not None:
        settings["of"] = of
    VALUES.clear()
    VALUES.update(given)
    request: dict[str, Any] = {
        "generator": "planted" if of is None else "planted-columns",
        "view_set": name,
        "out": out,
        "source": None if source is None else str(source),
        "settings": settings,
        "after": after,
        "workers": 1,
    }
    if source is not None:
        request["shard_rows"] = SHARD_ROWS
    with _registered():
        build(BuildRequest(**request))
    return viewstore.open(out)
