"""What a training chose of the views of each image: an epoch of its selection log, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError
from viewstore.format.columns import Column, Status
from viewstore.format.plan import SOURCE
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.generators.scored.described import unwritten

ROLE = "selection"
MOST_PAIRS = 1 << 12


class Chosen(Protocol):
    """The log of an epoch (`train/selection_file.py`): R rows about P pairs of slots.

    Attributes:
        epoch: Number of the epoch.
        source: Digest of the images that were trained on.
        pairs: uint8 [P, 2].
        step, sample: int64 [R].
        losses: float32 [R, P].
        chosen: int64 [R], numbers of pairs.
        selected: uint8 [R, m], slots.
        iou: float32 [R, P], or None.
    """

    epoch: int
    source: str
    pairs: Any
    step: Any
    sample: Any
    losses: Any
    chosen: Any
    selected: Any
    iou: Any


@dataclass(frozen=True, kw_only=True)
class Selection(OfSource):
    """Which views of each image a training chose, read from `--selection FILE`.

    Attributes:
        pairs: The pairs of slots that were scored; recorded in the plan, never to be set.
        selected: Number of slots that were chosen; recorded in the plan, never to be set.
        overlaps: Whether the views have crop boxes; recorded in the plan, never to be set.
    """

    VERSION: ClassVar[int] = 1
    KIND: ClassVar[Literal["pixels", "columns"]] = "columns"
    NEEDS: ClassVar[tuple[str, ...]] = (ROLE,)

    pairs: tuple[tuple[int, int], ...] | None = None
    selected: int | None = None
    overlaps: bool | None = None

    @property
    def height(self) -> None:
        """Columns have no size."""
        return None

    def reads_source(self) -> bool:
        """Return that no source image is opened."""
        return False

    def resolve(self, context: Context) -> ResolvedSelection:
        """Take on the form of the log. Raises ConfigError: there is none, or of other images."""
        log: Chosen | None = context.models.get(ROLE)
        if log is None:
            raise ConfigError(
                "generator selection reads the log of a training, and no file is given",
                where="--selection",
                fix="give --selection RUN/selection/epoch-0000.safetensors, of the epoch you want",
            )
        if log.source != context.images_digest:
            raise ConfigError(
                "the log is of a training on other images than those of this store",
                code="VS103",
                where="--selection",
                fix="give --out the store that was trained on, or a new one with that --source",
            )
        if len(log.pairs) > MOST_PAIRS:
            raise ConfigError(f"a log has at most {MOST_PAIRS} pairs, got {len(log.pairs)}")
        return ResolvedSelection(
            pairs=tuple((first, second) for first, second in log.pairs.tolist()),
            selected=log.selected.shape[1],
            overlaps=log.iou is not None,
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedSelection:
    """What `Selection` resolves to; its attributes are those of `Selection`."""

    pairs: tuple[tuple[int, int], ...]
    selected: int
    overlaps: bool

    @property
    def views(self) -> int:
        """Return 1: images are described."""
        return 1

    @property
    def height(self) -> int:
        """Return 0: columns have no size."""
        return 0

    @property
    def width(self) -> int:
        """Return 0: columns have no size."""
        return 0

    def roles(self) -> tuple[str, ...]:
        """Return the role of the images."""
        return (SOURCE,)

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        forms: dict[str, tuple[str, tuple[int, ...]]] = {
            "x_epoch": ("i4", ()),
            "x_losses": ("f4", (len(self.pairs),)),
            "x_pair": ("u2", ()),
            "x_selected": ("u1", (self.selected,)),
            "x_step": ("i8", ()),
        }
        if self.overlaps:
            forms |= {
                "x_iou": ("f4", (len(self.pairs),)),
                "x_min_iou": ("u1", ()),
                "x_min_iou_ties": ("u1", ()),
                "x_pair_iou": ("f4", ()),
            }
        of_sample = [
            Column(name=name, dtype=dtype, shape=shape, per="sample")
            for name, (dtype, shape) in sorted(forms.items())
        ]
        return (Column(name="status", dtype="u1", shape=(1,)), *of_sample)

    def make(self, context: Context) -> SelectionGenerator:
        """Return the generator."""
        return SelectionGenerator(self, context.models[ROLE], context.num_samples)


class SelectionGenerator:
    """Looks up what was logged of each sample, the last time in the epoch."""

    def __init__(self, settings: ResolvedSelection, log: Chosen, num_samples: int) -> None:
        """Take the log of an epoch. Raises ConfigError: it has rows that the store has not."""
        self._settings = settings
        self._log = {
            name: np.asarray(getattr(log, name))
            for name in ("step", "losses", "chosen", "selected", "iou")
            if getattr(log, name) is not None
        }
        self._epoch = log.epoch
        samples = np.asarray(log.sample)
        if len(samples) and samples.max() >= num_samples:
            raise ConfigError(f"the log has row {samples.max()}, the store has {num_samples}")
        self._place = np.full(num_samples, -1, np.int64)
        self._place[samples] = np.arange(len(samples))

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the columns of each sample, in the order of the samples."""
        return (Rendered(each.index, None, self._params(each.index)) for each in samples)

    def _params(self, row: int) -> dict[str, NDArray[Any]]:
        """Return the columns of a row: all missing where it was not logged, or not with numbers.

        An image that no logged step had is as good as others: its status is 1.
        """
        params = unwritten(self._settings.columns())
        place = self._place[row]
        logged = {name: values[place] for name, values in self._log.items() if place >= 0}
        if not logged or not np.isfinite(logged["losses"]).all():
            status = Status.FAILED if logged else Status.OK
            return {**params, "status": np.array([status], np.uint8)}
        pair = int(logged["chosen"])
        found: dict[str, Any] = {
            "status": [Status.OK],
            "x_epoch": self._epoch,
            "x_losses": logged["losses"],
            "x_pair": pair,
            "x_selected": logged["selected"],
            "x_step": logged["step"],
        }
        if self._settings.overlaps:
            iou = logged["iou"]
            found |= {
                "x_iou": iou,
                "x_min_iou": iou.argmin() == pair,  # the first of equals
                "x_min_iou_ties": iou[pair] == iou.min(),
                "x_pair_iou": iou[pair],
            }
        return {name: np.asarray(found[name], value.dtype) for name, value in params.items()}
