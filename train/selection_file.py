"""The file of what a chooser saw and took of the samples of one epoch: `selection/epoch-0003`.

Training writes it (`loop.selection_log`); analyses read it, and `viewstore build --generator
selection` makes a columns set of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewstore.errors import CheckpointError, FormatError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.format.records import check_form

KIND = "selection"
FORM: Mapping[str, Any] = {"epoch": int, "source": str, "scorer": str}
PARAMS = "params."  # what the names of the tensors of params begin with


@dataclass(frozen=True, kw_only=True, eq=False)
class Selections:
    """What a chooser saw and took, a row for each sample of each logged step: R rows.

    Attributes:
        epoch: Number of the epoch, from 0.
        source: `SourceTable.images_digest` of the images that were trained on.
        scorer: sha256 of the file that scored, in hex; "" if it was the model that trained, as
            it was before its step.
        pairs: uint8 [P, 2]: the pairs of views that were scored, by slot.
        step: int64 [R], steps that were done before.
        sample: int64 [R], row in the source.
        losses: float32 [R, P], score of each pair.
        chosen: int64 [R], number of the chosen pair.
        selected: uint8 [R, m], the slots that were trained on: the pair, or more than it.
        iou: float32 [R, P], of the crops of each pair; None where they have no boxes.
        params: Recorded draws of all V views by name, [R, V, ...].

    Raises:
        FormatError: Shapes, types or numbers contradict each other.
    """

    epoch: int
    source: str
    scorer: str = ""
    pairs: Tensor
    step: Tensor
    sample: Tensor
    losses: Tensor
    chosen: Tensor
    selected: Tensor
    iou: Tensor | None = None
    params: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, pairs = len(self.step), len(self.pairs)
        self._check("pairs", torch.uint8, (pairs, 2))
        self._check("step", torch.int64, (rows,))
        self._check("sample", torch.int64, (rows,))
        self._check("losses", torch.float32, (rows, pairs))
        self._check("chosen", torch.int64, (rows,))
        self._check("selected", torch.uint8, (rows, self.selected.shape[-1]))
        if self.iou is not None:
            self._check("iou", torch.float32, (rows, pairs))
        for name, value in self.params.items():
            if value.ndim < 2 or len(value) != rows:
                raise FormatError(f"params {name} of a selection must be [{rows}, V, ..]")
        for name in ("step", "sample", "chosen"):
            if rows and int(getattr(self, name).min()) < 0:
                raise FormatError(f"{name} of a selection must not be negative")
        if rows and int(self.chosen.max()) >= pairs:
            raise FormatError(f"a selection chose pair {int(self.chosen.max())} of {pairs}")

    def _check(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value.dtype != dtype or value.shape != shape:
            raise FormatError(
                f"{name} of a selection must be {dtype} {list(shape)}, "
                f"got {value.dtype} {list(value.shape)}"
            )

    def __len__(self) -> int:
        return len(self.step)

    def before(self, step: int) -> Selections:
        """Return the rows of the steps before `step`."""
        kept = self.step < step
        return replace(
            self,
            **{name: value[kept] for name, value in _by_row(self).items()},
            params={name: value[kept] for name, value in self.params.items()},
        )

    def followed_by(self, other: Selections) -> Selections:
        """Return these rows and then those of `other`. Raises FormatError: it differs in form."""
        mine, others = _by_row(self), _by_row(other)
        same = mine.keys() == others.keys() and self.params.keys() == other.params.keys()
        if not same or not self.pairs.equal(other.pairs):
            raise FormatError("the logged steps of an epoch must have the same pairs and params")
        joined: dict[str, Any] = {
            name: torch.cat([value, others[name]]) for name, value in mine.items()
        }
        return replace(
            self,
            **joined,
            params={name: torch.cat([v, other.params[name]]) for name, v in self.params.items()},
        )


def _by_row(rows: Selections) -> dict[str, Any]:
    """Return the tensors that have an entry for each row, without params."""
    names = (each.name for each in fields(rows))
    values = {name: getattr(rows, name) for name in names if name != "pairs"}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def save_selections(path: Path, rows: Selections) -> None:
    """Replace the file `path`, atomically; equal rows give equal bytes."""
    tensors = {"pairs": rows.pairs, **_by_row(rows)}
    tensors |= {f"{PARAMS}{name}": value for name, value in rows.params.items()}
    write_with_config(path, KIND, tensors, {name: getattr(rows, name) for name in FORM})


def load_selections(path: Path) -> Selections:
    """Return what is in the file `path`. Raises CheckpointError: it is damaged, or another kind."""
    file = read_with_config(path, KIND)
    own: dict[str, Any] = {
        name: value for name, value in file.tensors.items() if not name.startswith(PARAMS)
    }
    params = {
        name.removeprefix(PARAMS): value
        for name, value in file.tensors.items()
        if name.startswith(PARAMS)
    }
    try:
        check_form(file.config, FORM, KIND)
        return Selections(**file.config, **own, params=params)
    except (FormatError, TypeError) as error:  # TypeError: a tensor is missing, or unknown
        raise CheckpointError(
            f"selection file is damaged: {error}", where=str(path), fix="copy it again"
        ) from error
