"""What to do where a command that takes a folder alone would mend a store that is at a URL."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from viewstore.files.local import is_url
from viewstore.files.transport import BUCKET_SCHEMES
from viewstore.format.paths import StorePaths

_REMOVERS = {"s3": "aws s3 rm", "gs": "gcloud storage rm"}  # of the programs of those clouds
_OF_FOLDERS = ("verify", "rm", "mv", "refresh")


def on_a_disk(command: str) -> str:
    """Return what to do where `command`, of a folder STORE, mends a store that is at a URL."""
    return (
        f"in the folder STORE that it was built in, or in a copy of it on a disk: {command}; "
        "then copy it back (docs/remote.md: Mend a store)"
    )


def is_bucket(place: str) -> bool:
    """Whether a place is the URL of a bucket, in which a build mends damaged shards."""
    return is_url(place) and urlsplit(place).scheme in BUCKET_SCHEMES


def built_again(url: str, view_set: str, shard: int, generator: str) -> str:
    """Return the commands after which a shard of a store in a bucket is built again.

    Without its record it counts as one that was never built.
    """
    record = shlex.quote(f"{url}/{StorePaths(Path()).view_set(view_set).commit(shard)}")
    remove = _REMOVERS.get(urlsplit(url).scheme)
    first = f"remove {record}, then " if remove is None else f"{remove} {record} && "
    out = shlex.quote(url)
    return f"{first}viewstore build --generator {generator} --out {out} --view-set {view_set}"


def _records_away(place: str, name: str, shards: str) -> str:
    """Return what makes shards again of a store at a URL, where a builder can write."""
    commits = f"{place.rstrip('/')}/views/{name}/commits"
    if shards.isdigit():
        what = f"{commits}/{int(shards):06d}.json"
    else:
        what = f"the records of the shards {shards} from {commits}, such as 000003.json of shard 3"
    return f"remove {what}, and run the build again (docs/remote.md: Mend a store)"


def remedy_at(place: str, fix: str) -> str:
    """Return `fix` as it is, unless it names a command that would write to a URL, and does not."""
    again = rf"viewstore verify {re.escape(place)} --repair --view-set (\S+) --only (\S+)"
    if is_url(place) and (found := re.fullmatch(again, fix)):
        return _records_away(place, found[1], found[2])
    of_folder = rf"viewstore (?:{'|'.join(_OF_FOLDERS)}) {re.escape(place)}"
    if is_url(place) and re.search(of_folder, fix):
        return on_a_disk(fix.replace(place, "STORE"))
    return fix
