"""The codec `params`: no pixels are stored, they are rendered from recorded params when read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.images.header import Encoded


@dataclass(frozen=True, kw_only=True)
class ParamsAlone:
    """Views of which a store has the params alone; what each method returns, `Codec` says."""

    name: ClassVar[str] = "params"
    suffix: ClassVar[str] = ""
    encoded: ClassVar[bool] = False

    @property
    def lossless(self) -> bool:
        return True

    @property
    def encoder(self) -> None:
        return None

    def args(self, width: int) -> dict[str, Any]:
        del width
        return {}

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> ParamsAlone:
        del args
        return cls()

    def members(self, views: int) -> tuple[str, ...]:
        del views
        return ()

    def encode(self, pixels: Pixels) -> NoReturn:
        raise ConfigError("of these views no pixels are stored")

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> NoReturn:
        raise ConfigError("of these views no pixels are stored")

    def view_decoder(self, shape: tuple[int, int, int]) -> NoReturn:
        raise ConfigError("of these views no pixels are stored")

    def roundtrip(self, views: Pixels) -> Pixels:
        return views
