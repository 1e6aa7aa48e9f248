"""How the views of a build are stored: as the user, the stored plan or their size says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from viewstore.build.request import BuildRequest
from viewstore.build.roles import networks
from viewstore.errors import ConfigError
from viewstore.format.listing import Listing
from viewstore.format.plan import Plan
from viewstore.images.codec import Codec, codec_from_plan, make_codec
from viewstore.images.params import ParamsAlone
from viewstore.sources.table import SourceTable
from viewstore.store.column_content import has_proof
from viewstore.store.view_set import ViewSet

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings

RAW_SIDE = 64  # up to this side, in pixels, views are stored raw


def codec_of(
    request: BuildRequest,
    stored: Plan | None,
    settings: Settings,
    side: int,
) -> Codec:
    """Return how views are stored; `side` is that of what they start from, in pixels."""
    if settings.KIND == "columns":
        if request.codec is not None:
            raise ConfigError(
                f"--codec has no effect: {request.generator} makes columns, no pixels",
                fix="leave --codec out",
            )
        return ParamsAlone()
    if request.codec is not None:
        return make_codec(request.codec)
    if stored is not None:
        return codec_from_plan(stored.codec)
    small = (settings.height or side) <= RAW_SIDE
    return make_codec("raw" if networks(settings.NEEDS) or small else "jpg")


def side_of(table: SourceTable, parent: ViewSet | None, listing: Listing | None) -> int:
    """Return the greatest side of what views start from: files, other views, or source images."""
    if listing is not None:
        there = listing.records[listing.there]
        return int(max(there["height"].max(initial=0), there["width"].max(initial=0)))
    if parent is not None:
        return max(parent.height, parent.width)
    return int(max(table.height.max(), table.width.max()))


def wants_proof(request: BuildRequest, stored: Plan | None) -> bool:
    """Return whether the views of a recipe set are rendered once, and their CRCs recorded."""
    if request.proof is not None:
        return request.proof
    return stored is None or has_proof(stored)
