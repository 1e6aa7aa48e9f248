"""Standard views in memory, as a view set that other views are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.generators import make_settings
from viewstore.generators.contract import Context, Sample
from viewstore.images.raw import Raw
from viewstore.store.sample_views import StoredViews

Image = Callable[[int], Any]  # of a row, uint8 [H, W, 3]


class Columns(dict[str, NDArray[Any]]):
    """Params of all rows by name."""

    def take(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        return self[name][rows]


@dataclass(frozen=True)
class StandardViews:
    """As much of a ViewSet as generators read of what they start from.

    Attributes:
        pixels: uint8 [N, V, H, W, 3].
    """

    name: str
    plan: Any
    params: Columns
    pixels: NDArray[np.uint8]

    @property
    def height(self) -> int:
        return self.pixels.shape[2]

    @property
    def width(self) -> int:
        return self.pixels.shape[3]

    @property
    def num_views(self) -> int:
        return self.pixels.shape[1]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return self.pixels[row]


def context_of(image: Image, count: int, **changes: Any) -> Context:  # noqa: ANN401
    """Return the context of generators for the images of rows 0 .. count - 1."""
    settings: dict[str, Any] = {
        "seed": 3,
        "view_set": "views",
        "num_samples": count,
        "source_height": None,
        "source_width": None,
        "source_image": image,
        "codec": Raw(),
    }
    return Context(**{**settings, **changes})


def standard_views(
    image: Image,
    count: int,
    name: str = "simclr",
    **settings: Any,  # noqa: ANN401
) -> StandardViews:
    """Return the views of expert generator `name`, [N, V, ...]."""
    context = context_of(image, count, view_set=name)
    resolved = make_settings(name, {"height": 32, "width": 32, **settings}).resolve(context)
    samples = [Sample.of(row, image(row)) for row in range(count)]
    rendered = list(resolved.make(context).render(samples))
    columns = resolved.columns()
    params = {each.name: np.stack([one.params[each.name] for one in rendered]) for each in columns}
    return StandardViews(
        name=name,
        plan=SimpleNamespace(parent=None, columns=columns),
        params=Columns(params),
        pixels=np.stack([one.pixels for one in rendered if one.pixels is not None]),
    )


def samples_on(image: Image, parent: StandardViews | None, count: int) -> tuple[Sample, ...]:
    """Return samples that start from the views of `parent`, if there is one."""
    if parent is None:
        return tuple(Sample.of(row, image(row)) for row in range(count))
    stored = [StoredViews(parent, row) for row in range(count)]  # type: ignore[arg-type]
    return tuple(Sample.of(row, image(row), stored[row]) for row in range(count))
