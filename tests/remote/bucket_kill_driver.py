"""Builds stores in a bucket in children that are killed, and prints how many stores.

Usage: bucket_kill_driver.py URL SOURCE KILLS BUILDERS SEED. Forks from a process that has imported
what a build needs, and has not connected yet. The bucket is that of the environment.
"""

from __future__ import annotations

import sys
from functools import partial

import obstore  # noqa: F401

import viewstore.generators.pixels.heavy  # noqa: F401
from tests.faults.kills import Build, kill_builds
from tests.remote.bucket_builds import build_into


def begin(source: str, url: str) -> Build:
    return partial(build_into, url, source)


def main() -> None:
    url, source, kills, builders, seed = sys.argv[1:]
    numbers = {"kills": int(kills), "builders": int(builders), "seed": int(seed)}
    print(kill_builds(partial(begin, source), url, **numbers))


if __name__ == "__main__":
    main()
