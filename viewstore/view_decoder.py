"""Decodes the views of one view set, which one encoder wrote: their files begin alike."""

from __future__ import annotations

import simplejpeg

from viewstore.errors import ConfigError
from viewstore.image import Codec, Pixels
from viewstore.image_header import Encoded, jpeg_head, unreadable


class ViewDecoder:
    """Decodes one view after the other, checking a header that it has not met before.

    What limits and formats are checked for lies in a JPEG's header: a file that begins with one
    that passed, byte for byte, passes too. Safe to call from several threads.
    """

    def __init__(self, codec: Codec, shape: tuple[int, int, int]) -> None:
        """Decode views of a codec, all of `shape` [H, W, C]."""
        self._codec = codec
        self._shape = shape
        self._colours = "GRAY" if shape[2] == 1 else "RGB"
        self._head = b""

    def decode(self, data: Encoded, into: Pixels) -> None:
        """Fill `into`, uint8 [H, W, C] and C-contiguous.

        Raises:
            FormatError: Corrupt, over a limit, of another format or size.
        """
        head = self._head
        if head and bytes(data[: len(head)]) == head:
            try:
                simplejpeg.decode_jpeg(data, colorspace=self._colours, strict=True, buffer=into)
            except ValueError as error:
                raise unreadable(f"jpg does not decode: {error}") from error
            return
        try:
            found = self._codec.decode(data, into=into).shape
        except ConfigError as error:  # it is larger than a view may be
            raise unreadable(str(error)) from error
        if found != self._shape:
            raise unreadable(f"view must be of {self._shape}, got {found}")
        if self._codec.name == "jpg":
            self._head = jpeg_head(data)
