"""The controls of HVP: other choices among the same candidates, at the same number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from viewstore.train.methods.base import Method
from viewstore.train.strategies.candidates import BOX, CandidateChooser, candidate_iou
from viewstore.train.strategies.combinations import Candidates, random_numbers
from viewstore.train.strategies.hvp import HVP
from viewstore.train.strategies.selection import Choice, first_greatest
from viewstore.train.views import Views


@dataclass(frozen=True, kw_only=True)
class Cooperative(HVP):
    """Chooses the combination with the least loss. In the paper it ends in collapse."""

    NAME: ClassVar[str] = "cooperative"
    USE: ClassVar[str] = "trains on the pair of its views that has the least loss, as a control"
    SIGN: ClassVar[int] = -1


@dataclass(frozen=True, kw_only=True)
class Random(CandidateChooser):
    """Chooses a pair by chance, keyed by seed, epoch and sample; of local crops the first ones."""

    NAME: ClassVar[str] = "random"
    USE: ClassVar[str] = "trains on a random pair of its views, as a control"

    def choose(self, views: Views, method: Method, candidates: Candidates) -> Choice:
        """Return a pair of each sample, all with one probability."""
        pair = random_numbers(len(candidates.pairs), views.sample, views.at)
        return _with_first_crops(candidates, pair)


@dataclass(frozen=True, kw_only=True)
class MinIoU(CandidateChooser):
    """Chooses the pair whose crops overlap least, without a forward; of local crops the first.

    The overlap is intersection over union; ties go to the first pair.
    """

    NAME: ClassVar[str] = "min_iou"
    USE: ClassVar[str] = "trains on the pair of its views that overlaps least, as a control"

    @property
    def columns(self) -> tuple[str, ...]:
        """The boxes of the crops."""
        return (BOX,)

    def choose(self, views: Views, method: Method, candidates: Candidates) -> Choice:
        """Return the pair with the least intersection over union of each sample."""
        return _with_first_crops(candidates, first_greatest(-candidate_iou(views, candidates))[1])


def _with_first_crops(candidates: Candidates, pair: Tensor) -> Choice:
    """Return the combinations of these pairs [B] with the first local crops."""
    numbers = np.arange(len(candidates.pairs)) * candidates.subsets
    return Choice(candidates.at(numbers).to(pair.device)[pair], pair)
