"""Writes the data of a folder as .beton with stock ffcv; run by the peers' Python.

Raw views become one RGBImageField each, JPEGs keep their bytes: ffcv's own writer would encode
them again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.writer import DatasetWriter
from simplejpeg import decode_jpeg_header


class Views:
    """The samples of a folder as ffcv wants them: number, then views."""

    def __init__(self, folder: Path) -> None:
        raw = folder / "views.npy"
        self.raw = np.load(raw, mmap_mode="r") if raw.is_file() else None
        if self.raw is None:
            self.images = np.fromfile(folder / "images.bin", np.uint8)
            self.spans = np.load(folder / "spans.npy")
        self.views = len(self[0]) - 1

    def __len__(self) -> int:
        return len(self.spans if self.raw is None else self.raw)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        if self.raw is not None:
            return (int(row), *self.raw[row])
        spans = self.spans[row].tolist()
        return (int(row), *(self.images[begin : begin + size] for begin, size in spans))


def keep_jpeg(destination: Any, data: Any, malloc: Any) -> None:  # noqa: ANN401
    """Encode a field of JPEG bytes: as they are."""
    height, width, _, _ = decode_jpeg_header(data.tobytes())
    destination["mode"] = IMAGE_MODES["jpg"]
    destination["height"], destination["width"] = height, width
    destination["data_ptr"], storage = malloc(data.nbytes)
    storage[:] = data


def main() -> None:
    folder = Path(sys.argv[1])
    views = Views(folder)
    fields: dict[str, Any] = {"index": IntField()}
    for number in range(views.views):
        field = RGBImageField(write_mode="raw")
        if views.raw is None:
            field.encode = keep_jpeg  # on the instance: the file still says RGBImageField
        fields[f"v{number}"] = field
    partial = folder / "partial.beton"
    DatasetWriter(str(partial), fields, num_workers=2).from_indexed_dataset(views)
    partial.rename(folder / "data.beton")


if __name__ == "__main__":
    main()
