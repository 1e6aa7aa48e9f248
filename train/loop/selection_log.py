"""The log of a chooser: a file for each epoch, `selection/epoch-0003.safetensors` of the run.

What it has when a checkpoint is written is in its files, and a run that goes on from a checkpoint
drops what was logged after it: the files are those of a run that was never interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewstore.files.disk import unlink
from viewstore.train.overlap import pairwise_iou
from viewstore.train.selection_file import Selections, load_selections, save_selections

FOLDER = "selection"
NAME = re.compile(r"epoch-(\d{4,})\.safetensors")
BOX = "crop_box"
# Draws of the views that analyses of choices read (docs/format.md 3.1).
LOGGED = (BOX, "flip", "jitter", "jitter_order", "gray", "blur", "solarize")


class SelectionLog:
    """Collects what a chooser saw and took, and writes it by epochs."""

    def __init__(self, folder: Path, *, source: str, step: int, scorer: str = "") -> None:
        """Open the log in the folder of a run that goes on after `step` steps.

        Args:
            folder: Of the run.
            source: `SourceTable.images_digest` of the images that are trained on.
            step: Of the checkpoint; what was logged of it and of later ones is dropped.
            scorer: sha256, in hex, of the file that scores, if it is not the model that trains.

        Raises:
            CheckpointError: A file of the log is damaged.
        """
        self._folder, self._source, self._scorer = folder / FOLDER, source, scorer
        self._rows: Selections | None = None  # of the newest epoch
        self._new: list[Selections] = []  # of it too, not yet joined
        for path in reversed(selection_files(folder)):
            rows = load_selections(path)
            kept = rows.before(step)
            if not len(kept):
                unlink(path)
                continue
            self._rows = kept
            if len(kept) < len(rows):
                save_selections(path, kept)
            return

    def add(
        self,
        *,
        epoch: int,
        step: int,
        sample: Tensor,
        pairs: Tensor,
        losses: Tensor,
        chosen: Tensor,
        selected: Tensor | None = None,
        params: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add a step.

        Args:
            epoch: Number of the epoch.
            step: Steps that were done before.
            sample: int64 [B], rows of the source.
            pairs: int64 [P, 2], the pairs of views that were scored; the same at every step.
            losses: float32 [P, B].
            chosen: int64 [B], numbers of pairs.
            selected: int64 [B, m], the views that are trained on; None: those of the pair.
            params: Recorded draws of each of the V views, [B, ...] by name; those of LOGGED are
                kept that all views have.
        """
        columns = logged_params(params)
        pairs = pairs.cpu()
        rows = Selections(
            epoch=epoch,
            source=self._source,
            scorer=self._scorer,
            pairs=pairs.to(torch.uint8),
            step=torch.full((len(sample),), step),
            sample=sample.cpu(),
            losses=losses.detach().float().T.contiguous().cpu(),
            chosen=chosen.cpu(),
            selected=(pairs[chosen.cpu()] if selected is None else selected.cpu()).to(torch.uint8),
            iou=pairwise_iou(columns[BOX], pairs) if BOX in columns else None,
            params=columns,
        )
        if self._newest not in (None, epoch):
            self.flush()
            self._rows = None
        self._new.append(rows)

    @property
    def _newest(self) -> int | None:
        """The epoch whose rows are held."""
        held = [*self._new, *([] if self._rows is None else [self._rows])]
        return held[0].epoch if held else None

    def flush(self) -> None:
        """Write the file of the newest epoch; before each checkpoint, and at the end of a run."""
        if not self._new:
            return
        for rows in self._new:
            self._rows = rows if self._rows is None else self._rows.followed_by(rows)
        self._new.clear()
        assert self._rows is not None
        path = self._folder / f"epoch-{self._rows.epoch:04d}.safetensors"
        save_selections(path, self._rows)


def selection_files(folder: Path) -> list[Path]:
    """Return the files of the selection log in the folder of a run, by epoch."""
    found = [path for path in (folder / FOLDER).glob("*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("epoch-")))


def logged_params(params: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the columns of LOGGED that all views have, [B, V, ...], on the CPU.

    Numbers are float32, integers of more than 8 bits int64.
    """
    found = {}
    for name in LOGGED:
        if params and all(name in each for each in params):
            column = torch.stack([torch.as_tensor(each[name]).cpu() for each in params], dim=1)
            small = torch.uint8 if column.dtype in (torch.bool, torch.uint8) else torch.int64
            found[name] = column.float() if column.is_floating_point() else column.to(small)
    return found
