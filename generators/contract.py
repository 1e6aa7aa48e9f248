"""The contract of a generator: the user's settings, what they resolve to, and what renders views.

A generator is a pure function of (seed, sample, view, resolved settings, weights): the same pixels
and params whoever computes them, and whatever else is computed beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from viewstore.errors import ConfigError
from viewstore.format.columns import Column
from viewstore.images.codec import Codec
from viewstore.images.colours import Pixels
from viewstore.images.recipes import RecipeSpec
from viewstore.randomness import Stream
from viewstore.shards.unit import Rendered, Sample, SampleViews
from viewstore.store.view_set import ViewSet

__all__ = [
    "Context",
    "Generator",
    "Input",
    "OfSource",
    "Rendered",
    "Resolved",
    "Sample",
    "SampleViews",
    "Settings",
]

PARENT = "parent"  # the role of the view set that views start from, among `Settings.inputs`
Reach = Literal["sample", "set"]


SourceImages = tuple[int, Callable[[int], Pixels]]  # how many, and what decodes that of a row


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a generator is given besides its settings.

    Attributes:
        seed, view_set, round: Of the plan; they key the `stream` that all draws come from.
        num_samples: Rows of the store.
        images_digest: Which images these rows are (`SourceTable.images_digest`).
        source_height, source_width: Size that all source images share, or None where they differ.
        source_image: Decodes the source image of a row: uint8 [H, W, 3].
        codec: What the views will be stored in; acceptance is judged on its roundtrip.
        device: Torch device, "cpu" or "cuda:0".
        models: Frozen networks by role ("gan", "encoder", "inverter"), as the settings' NEEDS ask.
        parent: The finished view set that the views start from, if there is one; each Sample has
            its own views of it.
        wants_pixels: Whether views are to be rendered; if not, their params alone are drawn.
        inputs: The other finished view sets that the settings name, by role.
        packaged: Roles whose network is the one for the digits that the package ships, because
            the user named none.
        known_latents: Reads the latents that the images of a generated source were made from, in
            the order of the store's rows (latent/generated_source.py); None: it is no such source.
        whole_source: Opens the source as it is without a limit: how many samples it has, and what
            decodes the image of a row. None means that the store's rows are all there are.
        warn, note: Take a message for the user; called by `resolve`, in the main process.
    """

    seed: int
    view_set: str
    num_samples: int
    source_height: int | None
    source_width: int | None
    source_image: Callable[[int], Pixels]
    codec: Codec
    device: str = "cpu"
    models: Mapping[str, Any] = field(default_factory=dict)
    parent: ViewSet | None = None
    inputs: Mapping[str, ViewSet] = field(default_factory=dict)
    wants_pixels: bool = True
    round: int = 1
    packaged: frozenset[str] = frozenset()
    images_digest: str = ""
    known_latents: Callable[[], Any] = lambda: None
    whole_source: Callable[[], SourceImages] | None = None
    warn: Callable[[str], None] = lambda message: None
    note: Callable[[str], None] = lambda message: None

    @property
    def stream(self) -> Stream:
        """The stream of all draws of the view set, keyed further by sample and view."""
        return Stream.of_view_set(self.seed, self.view_set, self.round)


class Generator(Protocol):
    """Renders the views of samples."""

    def render(self, samples: Iterable[Sample]) -> Iterator[Rendered]:
        """Yield one Rendered for each sample, in any order, pulling samples as there is room."""


class Resolved(Protocol):
    """Settings in which nothing is automatic: a frozen dataclass that the plan stores as JSON.

    Its fields are those of the settings that it came from, which read it back: settings made of
    these values resolve to an equal `Resolved`.
    """

    @property
    def views(self) -> int:
        """Views per sample."""

    @property
    def height(self) -> int:
        """Of every view, in pixels."""

    @property
    def width(self) -> int:
        """Of every view, in pixels."""

    def roles(self) -> tuple[str, ...]:
        """Return the role of each view: "expert", "generated", "global", "local", ..."""

    def columns(self) -> tuple[Column, ...]:
        """Return the params columns that `render` gives; "status" is one of them."""

    def make(self, context: Context) -> Generator:
        """Return the generator.

        Raises:
            ConfigError: The context lacks the parent view set, or it does not fit.
        """


class Input(NamedTuple):
    """A view set that a generator reads.

    Attributes:
        view_set: Its name.
        settings: It is built first with these, by the generator of its name, where the store
            lacks it; None means that it must be there.
        parent_as: Role in which its own parent is an input too; None: it is none.
    """

    view_set: str
    settings: Mapping[str, Any] | None = None
    parent_as: str | None = None


class Settings(Protocol):
    """The user's settings of one kind of generator: a frozen dataclass, named by the table.

    A setting that is None is automatic. `OfSource` answers for most generators of views that are
    made of the source image of their own sample.

    Class attributes:
        VERSION: Raised when the same settings would give other pixels or params.
        KIND: "pixels", or "columns" where they say something about the views of another set.
        NEEDS: Roles of the networks that `resolve` and `make` want in Context.models.
        LATER: Settings that were added under this VERSION, with the values that they have in
            plans of before, which lack them.
    """

    VERSION: ClassVar[int]
    KIND: ClassVar[Literal["pixels", "columns"]]
    NEEDS: ClassVar[tuple[str, ...]]
    LATER: ClassVar[Mapping[str, Any]]

    @property
    def height(self) -> int | None:
        """Of every view, in pixels."""

    def resolve(self, context: Context) -> Resolved:
        """Return what these settings come to for this source, these networks and this parent.

        Raises:
            ConfigError: They do not fit the context.
        """

    def inputs(self) -> Mapping[str, Input]:
        """Return the view sets that it reads, by role; the one that views start from is PARENT."""

    def reach(self) -> Reach:
        """Return which rows of its inputs a sample is made from: its own, or any of the set."""

    def recipe(self) -> RecipeSpec | None:
        """Return how its views are made again from their params; None: they cannot be."""

    def reads_source(self) -> bool:
        """Whether it looks at source images; where it does not, none is opened."""

    def refreshed(self) -> Mapping[str, Any]:
        """Return the settings of the next round, of those that a round resolved to.

        What `resolve` took from the networks is left out: it is taken from the new ones.
        """


class OfSource:
    """What `Settings` say whose views are made of the source image of their own sample.

    It has no recipe, unless a subclass says one.
    """

    KIND: ClassVar[Literal["pixels", "columns"]] = "pixels"
    NEEDS: ClassVar[tuple[str, ...]] = ()
    LATER: ClassVar[Mapping[str, Any]] = {}

    def inputs(self) -> Mapping[str, Input]:
        """Return nothing: no other view set is read."""
        return {}

    def reach(self) -> Reach:
        """Return "sample": no other row is read."""
        return "sample"

    def recipe(self) -> RecipeSpec | None:
        """Return None: there is no recipe."""
        return None

    def reads_source(self) -> bool:
        """Return that source images are read."""
        return True

    def refreshed(self) -> Mapping[str, Any]:
        """Return all settings: none was taken from a network."""
        return settings_but(self)


MOST = {"threads": 1 << 10, "slots": 1 << 14, "bank": 1 << 20}
MOST_COUNT = 1 << 31


def check_counts(kind: str, settings: object, names: Iterable[str]) -> None:
    """Raise ConfigError unless settings that are given are whole numbers from 1 to a limit.

    `kind`: Name of the generator; `names`: of the settings.
    """
    for name in names:
        value, most = getattr(settings, name), MOST.get(name, MOST_COUNT)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ConfigError(
                f"{kind}.{name} must be a whole number from 1 to {most}, got {value!r}"
            )


def check_form_of(kind: str, settings: object, parent: ViewSet) -> None:
    """Raise ConfigError unless number and size of views, where given, are those of the parent.

    `kind`: Name of the generator, whose views are those of `parent`, number for number.
    """
    wanted = {"views": parent.num_views, "height": parent.height, "width": parent.width}
    for name, value in wanted.items():
        if getattr(settings, name) not in (None, value):
            raise ConfigError(
                f"{kind}.{name} must be that of {parent.name}, {value}, "
                f"got {getattr(settings, name)}",
                fix="leave it out",
            )


def settings_but(settings: Any, *dropped: str) -> dict[str, Any]:  # noqa: ANN401
    """Return the settings of a dataclass by name, without some of them."""
    names = (field.name for field in fields(settings))
    return {name: getattr(settings, name) for name in names if name not in dropped}
