"""The names that files of a store have (docs/format.md 1.1); all others below it are foreign."""

from __future__ import annotations

import re

from viewstore.format.columns import COLUMN_NAME
from viewstore.format.listing import NAME as LISTING
from viewstore.format.plan import VIEW_SET_NAME

BLOB_FILE = re.compile(rf"\d{{6}}-[0-9a-f]{{16}}\.(tar|params|{COLUMN_NAME.pattern}\.chunk)")
_OF_A_VIEW_SET = (
    rf"plan\.json|index\.json|index/members\.npy|stats\.json|params\.zarr/.+|{LISTING.pattern}"
    rf"|{BLOB_FILE.pattern}|(commits|failed|quarantine|tmp)/[^/]+"
)
_OF_A_STORE = re.compile(
    r"manifest\.json|manifests/\d{6}\.json|sources/(sources|located)\.json"
    r"|sources/\w+-[0-9a-f]{16}\.npy|tmp/([^/]+|[^/]+\.removed/.+)"
    rf"|views/{VIEW_SET_NAME.pattern}/({_OF_A_VIEW_SET})"
)


def is_of_a_store(name: str) -> bool:
    """Whether a file of a store, or of one that is only begun, can have this name below its folder.

    The files of a store that lies in another one have no such names, but for scratch.
    """
    return _OF_A_STORE.fullmatch(name) is not None
