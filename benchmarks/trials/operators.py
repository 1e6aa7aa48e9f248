"""Which operators are heavy for an encoder: how often they move a view away from its image.

DSSL's premise is that the heavy view h of a standard view v is farther from the image x than v is:
|f(h) - f(x)| > |f(v) - f(x)|. The paper does not test it. f: the backbone's features, unit length.
Source: Directional Self-supervised Learning for Heavy Image Augmentations, section 3.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trials.record import Line, Record, verdict
from trials.world import THREADS, config_of, store_of, train
from viewstore.images.colours import Pixels
from viewstore.images.operators.recorded import operated
from viewstore.images.operators.spaces import Space, ra16
from viewstore.images.policies import policies
from viewstore.inspect.intervals import wilson
from viewstore.randomness import Stream
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader
from viewstore.train.encoder_file import Encoder, load_encoder

BATCH = 256
Z_95 = 1.959963984540054  # the normal quantile of a two-sided interval of 95 %
POLICY = "cifar"
MAGNITUDE = 5
BOTH, ANY = "two of them, ra16(2, 5)", "any one of the 16"


class Claim(NamedTuple):
    """What is expected of a share, in words and as its least and greatest value."""

    text: str
    least: float
    most: float = 1.0


MORE_THAN_HALF = Claim("> 50 %, the premise; untested in the paper", 0.5)
_HALF, _HIGH = Claim("near 50 % (here: 40-60 %)", 0.4, 0.6), Claim("high (here: > 80 %)", 0.8)
# What the pages of this project expected, before it was measured.
CLAIMS = {
    "Equalize": _HALF,
    "AutoContrast": _HALF,
    "ShearX": _HALF,
    "Invert": _HIGH,
    "Posterize": _HIGH,
    "Solarize": _HIGH,
    ANY: Claim("65-85 % overall", 0.65, 0.85),
}


def spaces(magnitude: float) -> dict[str, Space]:
    """Return each of DSSL's operators alone, by name, and two of all."""
    every = ra16(1, magnitude).choices
    found = {choice.name: Space((choice,), 1, magnitude) for choice in every}
    return {**found, BOTH: ra16(2, magnitude)}


def views_of(images: Sequence[Pixels], side: int, seed: int) -> list[Pixels]:
    """Return a standard view of each image, keyed by its place."""
    (policy,) = policies(POLICY)
    policy = policy.for_size(side, side)
    found = []
    for row, image in enumerate(images):
        drawn = policy.draw(Stream(seed), row, 0, *image.shape[:2])
        found.append(policy.render(image, drawn, (side, side), "area"))
    return found


def heavier(views: Sequence[Pixels], space: Space, seed: int) -> list[Pixels]:
    """Return the views with operators of a space, keyed by their places."""
    side = views[0].shape[:2]
    rows = np.arange(len(views))
    numbers, arguments = space.draw(Stream(seed), rows, np.zeros_like(rows), side)
    pairs = zip(views, numbers, arguments, strict=True)
    return [operated(view, {"ops": ops, "ops_args": args}) for view, ops, args in pairs]


def features(encoder: Encoder, images: Sequence[Pixels]) -> Tensor:
    """Return unit features of the backbone, [N, F]."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        parts = [encoder.features(part.float() / 255) for part in pixels.split(BATCH)]
    return F.normalize(torch.cat(parts), dim=1)


def farther(encoder: Encoder, images: Sequence[Pixels], seed: int) -> dict[str, NDArray[np.bool_]]:
    """Return of which images the heavy view is farther than the standard one, [N] by operators."""
    views = views_of(images, encoder.size, seed)
    anchor = features(encoder, images)
    least = (features(encoder, views) - anchor).norm(dim=1)
    return {
        name: (
            (features(encoder, heavier(views, space, seed)) - anchor).norm(dim=1) > least
        ).numpy()
        for name, space in spaces(MAGNITUDE).items()
    }


def shares(found: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, Any]]:
    """Return the share of each operator, [N] by name, with its Wilson interval."""
    return {
        name: {
            "share": float(each.mean()),
            "n": f"{len(each):,} views",
            "interval": wilson(int(each.sum()), len(each)),
            "kind": "Wilson",
        }
        for name, each in found.items()
    }


def overall(found: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    """Return the share of all operators; views of one image are no new sample."""
    by_image = np.stack([each for name, each in found.items() if name != BOTH]).mean(0)
    share, error = float(by_image.mean()), float(by_image.std(ddof=1) / len(by_image) ** 0.5)
    return {
        "share": share,
        "n": f"{len(by_image):,} images",
        "interval": (share - Z_95 * error, share + Z_95 * error),
        "kind": "normal, over images",
    }


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Train an encoder for a few epochs, and ask it about held-out images."""
    torch.set_num_threads(THREADS)
    source = open_source(options["test"], limit=options["images"])
    reader = SourceReader(source.table)
    images = [reader.image(row) for row in range(len(source.table.keys))]
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Path(folder) / "store", options["source"], options["rows"], views=1)
        config = config_of(
            *(f"online:{POLICY}",) * 2,
            backbone=options["backbone"],
            batch_size=128,
            epochs=options["epochs"],
        )
        result = train(store, config, Path(folder) / "run")
        encoder = load_encoder(result.encoder)
    found = farther(encoder, images, seed=0)
    table = {**shares(found), ANY: overall(found)}
    record.facts |= {"loss": result.history, "operators": table}
    where = f"{options['backbone']} after {options['epochs']} epochs of SimCLR"
    for name, each in table.items():
        low, high = each["interval"]
        claim = CLAIMS.get(name, MORE_THAN_HALF)
        record.lines.append(
            Line(
                experiment=f"DSSL-2: the heavy view is farther, {name}; {where}",
                claim=claim.text,
                ours=f"{each['share']:.1%}",
                n=each["n"],
                interval=f"{low:.1%}-{high:.1%}, {each['kind']}",
                steps=result.steps,
                verdict=verdict((low, high), claim.least, claim.most),
            )
        )
