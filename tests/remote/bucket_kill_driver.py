"""Builds one store in a bucket over and over in children that are killed at random moments.

Usage: bucket_kill_driver.py URL SOURCE KILLS BUILDERS WRITER SEED. Forks from a process that has
imported what a build needs, and has not connected yet. WRITER "naive" is the negative control: it
puts its records without the condition. The bucket is that of the environment. Prints how many
were killed; the caller runs the build to its end.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from pathlib import Path

import obstore  # noqa: F401

import viewstore.generators.pixels.heavy  # noqa: F401
from tests.faults.kill_driver import SPAN, kill_loop, seconds_of
from tests.remote.bucket_builds import build_into
from viewstore.files.bucket import Bucket

NAIVE_SECONDS = 0.05  # a slow network: from its look at what is there to its put


def put_anyway(bucket: Bucket, name: str, data: bytes | Path) -> bool:
    time.sleep(NAIVE_SECONDS)
    bucket.put(name, data)
    return True


def main() -> None:
    url, source, kills, builders, writer, seed = sys.argv[1:]
    if writer == "naive":
        Bucket.put_if_absent = put_anyway  # type: ignore[method-assign]
        Bucket.check_conditional = lambda bucket: None  # type: ignore[method-assign]

    def run(out: str) -> None:
        try:
            build_into(out, source)
        except BaseException:  # the caller looks at what is said here
            traceback.print_exc()
            raise

    rng = random.Random(int(seed))
    together = int(builders)
    span = SPAN * seconds_of(lambda: run(f"{url}-undisturbed"), together)
    print(kill_loop(lambda: run(url), int(kills), together, rng, span))


if __name__ == "__main__":
    main()
