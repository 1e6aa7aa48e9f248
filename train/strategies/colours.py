"""Colours of views that came without them, and half their size: what a choice looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.loaders.render.colours import recolour
from viewstore.train.views import Views, missing_column

Filter = Literal["nearest", "area"]


def coloured(views: Views, among: Sequence[int] | None = None, *, like: int | None = None) -> Views:
    """Return the views with colours: their recorded ones, or those that the view `like` records.

    `among`: the views it is about, of those without colours that the step has; None: all.

    Raises:
        ConfigError: A view lacks a column of its colours.
    """
    wanted = [
        view
        for view in views.colourless
        if len(views.pixels[view]) and (among is None or view in among)
    ]
    colours = [_colours(views, view if like is None else like) for view in wanted]
    made = recolour([views.pixels[view] for view in wanted], colours, views.sample.device)
    pixels = dict(zip(wanted, made, strict=True))
    return replace(
        views,
        pixels=tuple(pixels.get(view, each) for view, each in enumerate(views.pixels)),
        colourless=tuple(view for view in views.colourless if view not in pixels),
    )


def _colours(views: Views, view: int) -> dict[str, Tensor]:
    params = views.params[view]
    for name in COLOUR_COLUMNS:
        if name not in params:
            raise missing_column(name, view, views.role[view], params)
    return {name: torch.as_tensor(params[name]).cpu() for name in COLOUR_COLUMNS}


def halved(views: Views, among: Sequence[int], filtered: Filter) -> Views:
    """Return the views with half the side of those `among`; an odd last row or column is cut."""
    pixels = list(views.pixels)
    for view in among:
        pixels[view] = _half(pixels[view], filtered)
    return replace(views, pixels=tuple(pixels))


def _half(pixels: Tensor, filtered: Filter) -> Tensor:
    if filtered == "area":
        return F.avg_pool2d(pixels.float(), 2)
    height, width = (side // 2 * 2 for side in pixels.shape[-2:])
    return pixels[..., :height:2, :width:2]
