"""Which files are taken for pictures, by the ends of their names; what they are their bytes say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from viewstore.images.decode import READS_AVIF

READ = frozenset(
    {
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "gif"),
    }
) | (frozenset({"avif"}) if READS_AVIF else frozenset())
# Pictures too, but in formats that are not read: they are counted and said.
NOT_READ = (
    frozenset(
        {
            *(
                "avif",
                "jp2",
                "j2k",
                "jpx",
                "jxl",
                "heic",
                "heif",
                "svg",
                "psd",
                "tga",
                "dds",
                "ico",
            ),
            *("exr", "hdr", "pcx", "eps", "cr2", "nef", "arw", "dng", "orf", "raw", "ico", "icns"),
        }
    )
    - READ
)


def suffix_of(name: str) -> str:
    """Return what follows the last dot of a file's name, in lower case; "" without a dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def unread_note(unread: Mapping[str, int]) -> str | None:
    """Return a sentence about pictures that were left where they are, if there are any.

    `unread`: how many there are of each kind, such as {".jp2": 3}.
    """
    if not unread:
        return None
    count = sum(unread.values())
    files = "1 file was" if count == 1 else f"{count} files were"
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(unread).most_common())
    return f"{files} not read: {kinds}"
