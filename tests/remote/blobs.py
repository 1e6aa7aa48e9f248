"""Blobs of known bytes, and a process that reads them through a cache, over and over.

Run as `python -m tests.remote.blobs KIND URL CACHE LIMIT SEED`: it prints a line per read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from viewstore.errors import ViewStoreError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Retry
from viewstore.files.remote import RemoteFiles

COUNT = 40
BYTES = 64 << 10
IMPATIENT = Retry(first_seconds=0.001, longest_seconds=0.01, stall_seconds=1.0)


def name(number: int) -> Path:
    """Return the name of a blob: those of two view sets share their base names."""
    return Path(f"views/{'ab'[number % 2]}/{number // 2:06d}.tar")


def data(number: int) -> bytes:
    """Return the bytes of a blob."""
    block = hashlib.sha256(b"blob %d" % number).digest()
    return block * ((BYTES - number * 32) // len(block))


def sha256(number: int) -> str:
    """Return the hash of a blob, as a commit would."""
    return hashlib.sha256(data(number)).hexdigest()


def write(folder: Path) -> int:
    """Write all blobs below a folder; return their size."""
    for number in range(COUNT):
        path = folder / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data(number))
    return sum(len(data(number)) for number in range(COUNT))


def read_through_cache(url: str, cache: Path, limit: int) -> Callable[[int], bytes]:
    """Return how a blob is read through our cache."""
    files = RemoteFiles(
        url, cache=CacheSettings(directory=cache, limit_bytes=limit), retry=IMPATIENT
    )

    def read(number: int) -> bytes:
        size = len(data(number))
        with os.fdopen(files.open(name(number), size, sha256(number)), "rb") as file:
            file.seek(0)
            return file.read()

    return read


def read_naively(url: str, cache: Path, limit: int) -> Callable[[int], bytes]:
    """Return how a cache reads that trusts base names and whatever was downloaded."""
    (cache / "obj").mkdir(parents=True, exist_ok=True)

    def read(number: int) -> bytes:
        path = cache / "obj" / name(number).name
        if not path.exists():
            with urlopen(f"{url}/{name(number)}") as answer, path.open("wb") as file:
                file.write(answer.read())
            kept = sorted((cache / "obj").iterdir(), key=os.path.getmtime)
            while sum(each.stat().st_size for each in kept) > limit:
                kept.pop(0).unlink()
        return path.read_bytes()

    return read


def used_bytes(cache: Path) -> int:
    """Return what a cache takes now, while nobody reserves."""
    with contextlib.suppress(FileNotFoundError), (cache / "lock" / "space").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _sizes(cache)
    return _sizes(cache)


def _sizes(cache: Path) -> int:
    sizes: dict[str, int] = {}
    for folder in ("tmp", "obj"):  # in this order, a download that gets its name is seen twice
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(cache / folder):
                with contextlib.suppress(FileNotFoundError):
                    sizes[entry.name[:64]] = entry.stat().st_size
    return sum(sizes.values())


def main(kind: str, url: str, cache: str, limit: str, seed: str) -> None:
    """Read random blobs for ever, and say of each whether it was right."""
    how = {"ours": read_through_cache, "naive": read_naively}[kind]
    read = how(url, Path(cache), int(limit))
    draw = random.Random(int(seed))
    while True:
        number = draw.randrange(COUNT)
        try:
            found = "right" if read(number) == data(number) else "wrong"
        except (ViewStoreError, OSError, HTTPException) as error:
            found = f"refused {type(error).__name__}"
        print(found, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
