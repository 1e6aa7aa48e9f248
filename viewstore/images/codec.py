"""What a codec of stored views is, the table of their names, and the two ways to make one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from viewstore.errors import ConfigError, FormatError
from viewstore.plugins import Plugin, Table, missing

if TYPE_CHECKING:
    from viewstore.images.colours import Pixels
    from viewstore.images.header import Encoded
    from viewstore.images.image_codec import ViewDecoder


class Codec(Protocol):
    """How the views of a view set are stored: a frozen dataclass, and a row of `CODECS`.

    The same pixels give the same bytes as long as `encoder` is the same.

    Class attributes:
        name: In the table, in plans and on the command line.
        suffix: Of the members that hold pixels, without a dot.
        encoded: Whether each view is a file of its own, which `decode` turns into pixels; if
            not, the views of a sample are read as one array.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    encoded: ClassVar[bool]

    @property
    def lossless(self) -> bool:
        """Whether views read back as they were stored, bit for bit."""

    @property
    def encoder(self) -> str | None:
        """Library and version that decide the bytes of a file; None if nothing is encoded."""

    def args(self, width: int) -> dict[str, Any]:
        """Return what a plan says of this codec for views `width` pixels wide; JSON-able."""

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Return the codec whose `args` these are; what it does not know is passed over."""

    def members(self, views: int) -> tuple[str, ...]:
        """Return the extensions of the members of a sample with `views` views, in byte order."""

    def encode(self, pixels: Pixels) -> bytes:
        """Return the file of one view, uint8 [H, W, 3]."""

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> Pixels:
        """Return the view in a file that `encode` made, uint8 [H, W, 3].

        `into` is memory to decode into, as for the function `decode` of `images.decode`.

        Raises:
            FormatError: Corrupt, over a limit, or of another format.
            ConfigError: `into` is too small, or the codec stores no files.
        """

    def view_decoder(self, shape: tuple[int, int, int]) -> ViewDecoder:
        """Return what decodes one view after the other, all of `shape` [H, W, 3]."""

    def roundtrip(self, views: Pixels) -> Pixels:
        """Return what `views`, uint8 [V, H, W, 3], will read as once they are stored."""


class Row(NamedTuple):
    """What the name of a codec stands for.

    Attributes:
        module: Of this package; it is imported no sooner than the name is used.
        codec: The class there.
        plugin: The entry point that stands for it, of an installed package; None: it is ours.
    """

    module: str
    codec: str
    plugin: Plugin | None = None

    def load(self) -> type[Codec]:
        """Import and return the class. Raises UnavailableError: that fails."""
        kind: type[Codec]
        if self.plugin is None:
            kind = getattr(importlib.import_module(f"viewstore.images.{self.module}"), self.codec)
        else:
            kind = self.plugin.load_settings(called=lambda codec: getattr(codec, "name", None))
        return kind


def _of_plugin(plugin: Plugin) -> Row:
    module, _, codec = plugin.target.partition(":")
    return Row(module, codec, plugin)


PARAMS_ALONE = "params"  # the codec of views that are stored as no pixels
CODECS: Table[Row] = Table(
    "codec",
    {
        "raw": Row("raw", "Raw"),
        "jpg": Row("jpg", "Jpg"),
        "png": Row("png", "Png"),
        "webp": Row("webp", "Webp"),
        PARAMS_ALONE: Row("params", "ParamsAlone"),
    },
    _of_plugin,
)
PACKAGE = "x_package"  # among the args of a plan's codec: the package that it is of


def make_codec(name: str) -> Codec:
    """Return the codec `name` with its defaults. Raises ConfigError: there is no such codec."""
    return _codec_class(name)()


def codec_from_plan(field: Mapping[str, Any] | None) -> Codec:
    """Return the codec of a plan's field {"name", "args", "encoder"}; None means params alone.

    Raises:
        FormatError: It is an unknown codec, or one with args that it cannot have.
        UnavailableError: It is of a package that is not installed, or cannot be used.
    """
    if field is None:
        return make_codec(PARAMS_ALONE)
    try:
        if field["name"] == PARAMS_ALONE:
            raise ConfigError(f"{field['name']} is no codec of pixels")
        args = dict(field.get("args", {}))
        package = args.pop(PACKAGE, None)
        if package is not None and field["name"] not in CODECS:
            raise missing("codec", field["name"], package)
        return _codec_class(field["name"]).from_args(args)
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"plan has a codec that cannot be read: {error}") from error


def codec_to_plan(codec: Codec, width: int) -> dict[str, Any] | None:
    """Return the plan's field {"name", "args", "encoder"} for views `width` pixels wide."""
    if codec.name == PARAMS_ALONE:
        return None
    args = codec.args(width)
    plugin = CODECS.plugin(codec.name)
    if plugin is not None:
        args = {**args, PACKAGE: plugin.package}
    return {"name": codec.name, "args": args, "encoder": codec.encoder}


def _codec_class(name: str) -> type[Codec]:
    if name not in CODECS:
        raise ConfigError(f"codec must be one of {', '.join(CODECS)}, got {name!r}")
    return CODECS[name].load()
