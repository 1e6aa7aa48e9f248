"""Fréchet distance between two sets of images, in features that have a name.

Source: arXiv:1706.08500, equation 6: the squared distance of the Gaussians with the means m, m' and
the covariances C, C' of the features, |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError

COMPONENTS = 40
PIXELS_SIDE = 32  # larger images are made as small before the principal components are taken
RANK_TOLERANCE = 1e-12  # share of the widest direction below which one is rounding
LEAST_REAL = 4  # images of which two halves have a covariance each

Rows = NDArray[np.float64]
Images = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Features:
    """What images are compared in.

    Attributes:
        name: In words, such as "40 principal components of pixels".
        rows: Returns features [N, D] of images [N, ...].
    """

    name: str
    rows: Callable[[Images], Rows]


class Frechet:
    """Distance of images to a real set.

    Values are comparable only for the same features, real set and number of images: of a small
    sample the covariance is too narrow, which makes the distance too large.

    Attributes:
        features: The name of what the distance is measured in.
        dimensions: Their number.
        reference: Distance of the even to the odd real images, what a perfect generator would have
            of as many images; NaN for fewer than four.
        reference_images: How many images the smaller half has.
    """

    def __init__(self, real: Images, features: Features) -> None:
        """Measure distances to `real`, [N, ...].

        Raises:
            ConfigError: There are fewer than two images, or a feature is not finite.
        """
        self._features = features
        rows = self._rows(real)
        self._moments = _Moments.of(rows)
        self.features, self.dimensions = features.name, rows.shape[1]
        self.reference, self.reference_images = math.nan, len(rows) // 2
        if len(rows) >= LEAST_REAL:
            even, odd = (_Moments.of(rows[half::2]) for half in (0, 1))
            self.reference = even.distance(odd)

    def __call__(self, images: Images) -> float:
        """Return the distance of `images`, [M, ...]. Raises ConfigError as `__init__` does."""
        return self._moments.distance(_Moments.of(self._rows(images)))

    def text(self, distance: float) -> str:
        """Return a distance with what it is measured in, and what real images have."""
        return (
            f"Fréchet distance {distance:.2f} in {self.features} "
            f"(real images, one half against the other: {self.reference:.2f}; lower is better)"
        )

    def _rows(self, images: Images) -> Rows:
        rows = self._features.rows(images)
        if not np.isfinite(rows).all():
            raise ConfigError(f"{self._features.name} of an image are not finite")
        return rows


class PixelFrechet(Frechet):
    """Distance in the principal components of the pixels of a real set.

    It needs no other network. Images of more than 32 pixels a side, a multiple of it, are made as
    small by area first: it sees no finer detail.
    """

    def __init__(self, real: Images, components: int = COMPONENTS) -> None:
        """Measure distances to `real`, [N, C, S, S], in that many principal components of it."""
        super().__init__(real, principal_components(real, components))


def principal_components(real: Images, components: int = COMPONENTS) -> Features:
    """Return the projections on the principal components of the pixels of `real`, [N, C, S, S]."""
    rows = _pixels(real)
    if len(rows) < 2:
        raise too_few(len(rows))
    centre = rows.mean(0)
    basis = _basis(rows - centre)[:, :components]
    if not basis.shape[1]:
        raise ConfigError("a Fréchet distance to images that are all the same says nothing")
    small = real.ndim == 4 and real.shape[-1] > PIXELS_SIDE
    where = f" at {PIXELS_SIDE} x {PIXELS_SIDE}" if small else ""
    return Features(
        name=f"{basis.shape[1]} principal components of pixels{where}",
        rows=lambda images: (_pixels(images) - centre) @ basis,
    )


def too_few(count: int) -> ConfigError:
    """Return the error of a distance to or of fewer images than have a covariance."""
    return ConfigError(f"a Fréchet distance needs at least 2 images on either side, got {count}")


@dataclass(frozen=True, kw_only=True)
class _Moments:
    mean: Rows
    covariance: Rows

    @classmethod
    def of(cls, rows: Rows) -> _Moments:
        if len(rows) < 2:
            raise too_few(len(rows))
        covariance = np.atleast_2d(np.cov(rows, rowvar=False))
        return cls(mean=rows.mean(0), covariance=covariance)

    def distance(self, other: _Moments) -> float:
        """Return the distance of two Gaussians, by eigenvalues: (C C')^(1/2) has their roots."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        shared = np.linalg.eigvalsh(root @ other.covariance @ root)
        trace = np.trace(self.covariance) + np.trace(other.covariance)
        gap = ((self.mean - other.mean) ** 2).sum()
        return float(gap + trace - 2 * np.sqrt(shared.clip(0)).sum())


def _basis(centred: Rows) -> Rows:
    """Return the principal directions of rows [N, D] as columns, the widest first."""
    count, width = centred.shape
    if count > width:
        return np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    # The other product has the same ones, and not the square of the number of pixels.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    some = np.flatnonzero(values > values[-1] * RANK_TOLERANCE)[::-1]
    return np.asarray((centred.T @ vectors[:, some]) / np.sqrt(values[some]))


def _pixels(images: Images) -> Rows:
    side = images.shape[-1]
    if images.ndim == 4 and side > PIXELS_SIDE and side % PIXELS_SIDE == 0:
        count, channels = images.shape[:2]
        cell = side // PIXELS_SIDE
        cells = (count, channels, PIXELS_SIDE, cell, PIXELS_SIDE, cell)
        images = images.reshape(cells).mean((3, 5), dtype=np.float64)
    return images.reshape(len(images), -1).astype(np.float64)
