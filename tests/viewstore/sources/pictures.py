"""Small pictures and tars of them for the tests of sources."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS = np.random.Generator(np.random.Philox(5)).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def encoded(mode: str = "RGB", form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> str:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)
