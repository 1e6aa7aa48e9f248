"""How likely augmentation is: as much as keeps a discriminator from knowing the real images.

Source: arXiv:2006.06676, section 3. Overfitting is measured as r_t = E[sign(D(real))]: near 0 a
discriminator cannot tell the real images it sees from generated ones, at 1 it knows each.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

EVERY = 4  # batches from one change of the probability to the next


@dataclass(kw_only=True)
class Controller:
    """Moves the probability p of augmentation towards r_t = `target`, at a fixed speed.

    Attributes:
        target: That share; None keeps p as it is.
        images: Real images in which p can go from 0 to 1.
        p: The probability, in [0, 1].
        signs, seen: Sum of the signs since the last change, and the images that they are of.
        overfit: r_t at the last change; 0 before.
    """

    target: float | None
    images: float
    p: float = 0.0
    signs: float = 0.0
    seen: int = 0
    overfit: float = 0.0

    def observe(self, scores: Tensor, step: int) -> None:
        """Count the scores [N] of the real images of a step; change p at every fourth."""
        if self.target is None:
            return
        self.signs += float(scores.detach().sign().sum())
        self.seen += len(scores)
        if (step + 1) % EVERY:
            return
        self.overfit = self.signs / self.seen
        direction = (self.overfit > self.target) - (self.overfit < self.target)
        self.p = min(max(self.p + direction * self.seen / self.images, 0.0), 1.0)
        self.signs, self.seen = 0.0, 0

    def state(self) -> dict[str, float]:
        """Return what the next change depends on."""
        return {"p": self.p, "signs": self.signs, "seen": self.seen, "overfit": self.overfit}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave. Raises KeyError, TypeError, ValueError: it is none."""
        p, signs, overfit = (float(state[name]) for name in ("p", "signs", "overfit"))
        seen = int(state["seen"])
        if not 0 <= p <= 1 or seen < 0:
            raise ValueError(f"p must be in [0, 1] and seen at least 0, got {p} and {seen}")
        self.p, self.signs, self.seen, self.overfit = p, signs, seen, overfit
