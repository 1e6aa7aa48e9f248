"""Expert views: renderings of an augmentation policy, with the params drawn for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.format.plan import MAX_VIEWS
from viewstore.generators.contract import Context, OfSource, Rendered, Sample
from viewstore.images.colours import Pixels
from viewstore.images.policies import Drawn, ViewPolicy, output_size
from viewstore.images.policy_values import PolicySetting, policies_of, spelled_out
from viewstore.images.recipes import RecipeSpec, expert_recipe
from viewstore.images.resize import STORED_FILTERS, Filter, check_filter
from viewstore.randomness import Stream

SMALL_PIXELS = 64  # up to this side, views are as large as their source
LARGE_VIEW = 224
SAMPLES_AT_ONCE = 32  # drawing for many samples at a time costs as much as for one


@dataclass(frozen=True, kw_only=True)
class Expert(OfSource):
    """Views of one augmentation policy.

    Attributes:
        policy: Name of the policy that draws and renders the views; "byol" and "dino" alternate
            their two. Or a policy of one's own, as values: --policy FILE gives them.
        views: Number of views of each sample.
        height, width: Size of the views in pixels. Automatic is that of the source where all its
            images are alike and at most 64 pixels a side, else 224; local views take 96/224 of it.
        filter: How crops are resized: "area" or "linear" (OpenCV), or "pil" (antialiased).
    """

    VERSION: ClassVar[int] = 2

    policy: PolicySetting = "simclr"
    views: int = 2
    height: int | None = None
    width: int | None = None
    filter: str = "area"

    def __post_init__(self) -> None:
        policies_of(self.policy)
        check_filter(self.filter, STORED_FILTERS)
        if not 1 <= self.views <= MAX_VIEWS:
            raise ConfigError(f"expert.views must be in [1, {MAX_VIEWS}], got {self.views}")
        for side in (self.height, self.width):
            if side is not None and side < 1:
                raise ConfigError(f"expert.height and expert.width must be >= 1, got {side}")

    def resolve(self, context: Context) -> ResolvedExpert:
        """Fill in the size of the views."""
        height, width = context.source_height, context.source_width
        if height is None or width is None or max(height, width) > SMALL_PIXELS:
            height = width = LARGE_VIEW
        height, width = output_size(policies_of(self.policy), height, width)
        return ResolvedExpert(
            policy=spelled_out(self.policy),
            views=self.views,
            height=self.height or height,
            width=self.width or width,
            filter=check_filter(self.filter, STORED_FILTERS),
        )

    def recipe(self) -> RecipeSpec:
        """Return the recipe of its policies, which differ in what they draw alone."""
        return expert_recipe(self.policy, self.filter)


@dataclass(frozen=True, kw_only=True)
class ResolvedExpert:
    """What `Expert` resolves to; its attributes are those of `Expert`."""

    policy: PolicySetting
    views: int
    height: int
    width: int
    filter: Filter

    @property
    def policies(self) -> list[ViewPolicy]:
        """The policy of each view, before it is fitted to the size."""
        return list(itertools.islice(itertools.cycle(policies_of(self.policy)), self.views))

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view."""
        return tuple(policy.role for policy in self.policies)

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns, by name."""
        status = Column(name="status", dtype="u1", shape=())
        columns = sorted((*self.policies[0].columns, status), key=lambda column: column.name)
        return tuple(replace(column, shape=(self.views, *column.shape)) for column in columns)

    def make(self, context: Context) -> ExpertGenerator:
        """Return the generator."""
        return ExpertGenerator(self, context.stream, wants_pixels=context.wants_pixels)


class ExpertGenerator:
    """Draws params keyed by (seed, sample, view) and renders them, if their pixels are wanted."""

    def __init__(
        self, settings: ResolvedExpert, stream: Stream, *, wants_pixels: bool = True
    ) -> None:
        self.wants_pixels = wants_pixels
        self.size = settings.height, settings.width
        self.filter = settings.filter
        self.policies = [policy.for_size(*self.size) for policy in settings.policies]
        self.stream = stream

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield the views of each sample, in the order of the samples."""
        pulled = iter(samples)
        while batch := list(itertools.islice(pulled, SAMPLES_AT_ONCE)):
            yield from self._render(batch)

    def _render(self, batch: list[Sample]) -> Iterator[Rendered]:
        index = np.array([sample.index for sample in batch], np.int64)
        height, width = np.array([sample.size for sample in batch]).T
        drawn = [
            policy.draw(self.stream, index, view, height, width)
            for view, policy in enumerate(self.policies)
        ]
        params = {name: np.stack([each[name] for each in drawn], axis=1) for name in drawn[0]}
        for number, sample in enumerate(batch):
            of_sample = {name: column[number] for name, column in params.items()}
            pixels = self._pixels(sample, of_sample) if self.wants_pixels else None
            status = np.ones(len(self.policies), np.uint8)
            yield Rendered(sample.index, pixels, {**of_sample, "status": status})

    def _pixels(self, sample: Sample, params: Drawn) -> Pixels:
        """Return the views of these params, uint8 [V, H, W, 3]."""
        pixels = np.empty((len(self.policies), *self.size, 3), np.uint8)
        for view, policy in enumerate(self.policies):
            one = {name: column[view] for name, column in params.items()}
            policy.render(sample.image, one, self.size, self.filter, pixels[view])
        return pixels
