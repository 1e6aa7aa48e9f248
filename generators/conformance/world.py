"""The small world of `checks`: images of several sizes, and views that others start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.generators.contract import PARENT, Context, Sample, Settings
from viewstore.generators.pixels.expert import Expert
from viewstore.images.raw import Raw
from viewstore.store.sample_views import StoredViews

NUM = 5  # samples of the world
SEED = 3
Image = Callable[[int], Any]  # of a row, uint8 [H, W, 3]


class World(Protocol):
    """What a generator works on."""

    @property
    def context(self) -> Context:
        """What it is given."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples, by row."""


@dataclass(frozen=True)
class SmallWorld:
    """A few images, and views of them where a generator starts from such."""

    context: Context
    samples: tuple[Sample, ...]


class Columns(dict[str, NDArray[Any]]):
    """Params of all rows by name."""

    def take(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self[name][rows]
        return found


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
    kind: str = "pixels"
    of: str | None = None

    @property
    def num_views(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[3])

    @property
    def roles(self) -> tuple[str, ...]:
        return ("expert",) * int(self.pixels.shape[1])

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self.pixels[row]
        return found


def picture(row: int) -> NDArray[np.uint8]:
    """Return a source image whose size depends on its row."""
    height, width = 40 + row, 50 - row
    rows, columns = np.mgrid[:height, :width]
    levels = np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256
    found: NDArray[np.uint8] = levels.astype(np.uint8)
    return found


def context_of(image: Image, count: int, **changes: Any) -> Context:  # noqa: ANN401
    """Return the context of generators for the images of rows 0 .. count - 1."""
    settings: dict[str, Any] = {
        "seed": SEED,
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
    """Return the views of policy `name` as a view set in memory, [N, V, ...]."""
    context = context_of(image, count, view_set=name)
    resolved = Expert(**{"policy": name, "height": 32, "width": 32, **settings}).resolve(context)
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


def small_world(settings: Settings, models: Mapping[str, Any]) -> SmallWorld:
    """Return five images of several sizes, with views to start from where `settings` ask for them.

    `models` are the networks that they ask for, by role.
    """
    parent = standard_views(picture, NUM, views=3) if PARENT in settings.inputs() else None
    context = context_of(picture, NUM, models=models, parent=parent)
    return SmallWorld(context, samples_on(picture, parent, NUM))
