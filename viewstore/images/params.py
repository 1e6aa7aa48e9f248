"""The codec `params`: no pixels are stored, they are rendered from recorded params when read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NoReturn

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.images.raw import Raw


@dataclass(frozen=True, kw_only=True)
class ParamsAlone(Raw):
    """Views of which a store has the params alone: like raw ones without a loss, with no file."""

    name: ClassVar[str] = "params"
    suffix: ClassVar[str] = ""

    @classmethod
    def from_args(cls, args: object) -> ParamsAlone:
        del args
        return cls()

    def members(self, views: int) -> tuple[str, ...]:
        del views
        return ()

    def encode(self, pixels: Pixels) -> NoReturn:
        raise ConfigError("of these views no pixels are stored")
