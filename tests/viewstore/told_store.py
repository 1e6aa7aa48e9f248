"""A store of which much is told: crop boxes, qualities, features and choices of its views."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.generators.scored.encoders import write_encoder
from tests.loaders.told import tell
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build

SAMPLES, VIEWS = 40, 4


def build_told(out: Path) -> Path:
    """Build four moco views of 40 pictures, and the columns sets quality, embed and hard of them.

    The source and the encoder lie beside `out`.
    """
    source = write_npz(out.with_name("images.npz"), rows=SAMPLES)
    encoder = out.with_name("encoder.safetensors")
    views = {"views": VIEWS, "height": 32, "width": 32}
    build_small(out, source, generator="moco", settings=views)
    with np.load(source) as images:
        write_encoder(encoder, images["images"][:16])
    for name, files in (("quality", {}), ("embed", {"encoder": encoder})):
        settings = {"of": "moco"}
        build(BuildRequest(generator=name, out=out, settings=settings, files=files, workers=1))
    tell(out, "hard", "moco", groups=1, choose=2)
    return out
