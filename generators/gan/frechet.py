"""Fréchet distance between two sets of images, in the principal components of one of them.

Source: arXiv:1706.08500, equation 6, on pixels instead of Inception features.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 40
LEAST_REAL = 4  # images of which two halves have a covariance each

Rows = NDArray[np.float64]


class PixelFrechet:
    """Distance of images to a real set, between Gaussians in PCA of its pixels.

    It needs no pretrained network. Values are comparable only for the same real set, number of
    components and number of images: a small sample is biased upwards.

    Attributes:
        features: What the distance is measured in, in words.
        reference: Distance of the even to the odd real images: what a perfect generator has; NaN
            for fewer than four.
    """

    def __init__(self, real: NDArray[np.floating], components: int = COMPONENTS) -> None:
        """Measure distances to `real`, [N, ...], in that many principal components of it."""
        rows = _rows(real)
        self._centre = rows.mean(0)
        values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
        self._basis = vectors[:, np.argsort(values)[::-1][:components]]
        self._mean, self._covariance = self._moments(rows)
        self._root = _square_root(self._covariance)
        self.reference = math.nan
        if len(rows) >= LEAST_REAL:
            (mean, covariance), other = (self._moments(rows[half::2]) for half in (0, 1))
            self.reference = _distance(mean, covariance, _square_root(covariance), *other)
        self.features = f"{self._basis.shape[1]} principal components of pixels"

    def text(self, distance: float) -> str:
        """Return a distance with what it is measured in, and what real images have."""
        return (
            f"Fréchet distance {distance:.2f} in {self.features} "
            f"(real images, one half against the other: {self.reference:.2f}; lower is better)"
        )

    def __call__(self, images: NDArray[np.floating]) -> float:
        """Return the squared distance of `images`, [M, ...].

        It is |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of means m and covariances C.
        """
        moments = self._moments(_rows(images))
        return _distance(self._mean, self._covariance, self._root, *moments)

    def _moments(self, rows: Rows) -> tuple[Rows, Rows]:
        projected = (rows - self._centre) @ self._basis
        return projected.mean(0), np.cov(projected, rowvar=False)


def _rows(images: NDArray[np.floating]) -> Rows:
    return images.reshape(len(images), -1).astype(np.float64)


def _distance(mean: Rows, covariance: Rows, root: Rows, other_mean: Rows, other: Rows) -> float:
    """Return the distance of two Gaussians; `root` is that of the first one's covariance."""
    shared = np.linalg.eigvalsh(root @ other @ root)
    trace = np.trace(covariance) + np.trace(other)
    gap = float(((other_mean - mean) ** 2).sum())
    return gap + float(trace - 2 * np.sqrt(np.clip(shared, 0, None)).sum())


def _square_root(matrix: Rows) -> Rows:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
