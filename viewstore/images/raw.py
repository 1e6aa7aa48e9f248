"""The codec `raw`: the views of a sample are one array, which readers map or copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from viewstore.errors import ConfigError
from viewstore.images.colours import Pixels
from viewstore.images.header import Encoded


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Views as they are; what each method returns, `Codec` says."""

    name: ClassVar[str] = "raw"
    suffix: ClassVar[str] = "npy"
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
    def from_args(cls, args: Mapping[str, Any]) -> Raw:
        del args
        return cls()

    def members(self, views: int) -> tuple[str, ...]:
        del views
        return ("json", "views.npy")

    def encode(self, pixels: Pixels) -> bytes:
        return pixels.tobytes()

    def decode(self, data: Encoded, *, into: Pixels | None = None) -> NoReturn:
        raise ConfigError("raw views are read as an array, they are not decoded")

    def view_decoder(self, shape: tuple[int, int, int]) -> NoReturn:
        raise ConfigError("raw views are read as an array, they are not decoded")

    def roundtrip(self, views: Pixels) -> Pixels:
        return views
