"""What makes views of networks anew from their latents: `ViewSet.replay` is given it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewstore.build.reproducible import check_weights
from viewstore.build.roles import WeightFiles, load_models
from viewstore.format.plan import Plan
from viewstore.progress import Progress

if TYPE_CHECKING:
    from viewstore.images.colours import Pixels
    from viewstore.store.replay import DecodeLatent


def latent_decoder(plan: Plan, files: WeightFiles, progress: Progress) -> DecodeLatent:
    """Return what makes the view of a latent with the network that a view set was planned with.

    `files` names the network by role, "gan", where the packaged one does not do.

    Raises:
        CheckpointError: It is another network.
        ConfigError: There is no such file.
    """
    import torch

    from viewstore.generators.latent.decode import decoder_of, to_pixels
    from viewstore.generators.numerics import repeatable

    needed = tuple(each for each in plan.weights if each.role == "gan")
    weights = check_weights(replace(plan, weights=needed), ("gan",), files)
    models = load_models(("gan",), files, weights, progress)
    args = plan.generator["args"]
    decoder = decoder_of(models["gan"], args["psi"], args.get("latents"))

    def decode(latent: NDArray[np.float16]) -> Pixels:
        with torch.no_grad(), repeatable("cpu", args["threads"]):
            codes = torch.from_numpy(latent[None].astype(np.float32))
            pixels: Pixels = to_pixels(decoder(codes))[0]
        return pixels

    return decode
