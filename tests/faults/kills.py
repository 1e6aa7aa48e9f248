"""Kills at random moments: one build after another, until so many builders were killed."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable

SPAN = 0.4  # of an undisturbed build: several kills before a store is complete
Build = Callable[[], object]


def kill_builds(
    begin: Callable[[str], Build],
    folder: str,
    *,
    kills: int,
    builders: int,
    seed: int,
    span: float = SPAN,
) -> int:
    """Kill builders of FOLDER/0, FOLDER/1, ... until `kills` were killed; return how many stores.

    Each is complete in the end. FOLDER/undisturbed is a store of builders that nobody killed.
    Builders are forks of this process: what it has imported, no kill lands in.

    Args:
        begin: Prepares a store at a place, and returns what builds it, or goes on with it.
        folder: Folder or URL.
        kills: How many builders are killed in all.
        builders: How many build one store at once.
        seed: Of the moments.
        span: A kill comes within this part of the time of the undisturbed build.
    """
    rng = random.Random(seed)
    seconds = span * seconds_of(begin(f"{folder}/undisturbed"), builders)
    done = stores = 0
    while done < kills:
        assert stores < kills, f"{done} kills only"
        build = begin(f"{folder}/{stores}")
        done += kill_loop(build, kills - done, builders, rng, seconds)
        check_ended(fork(build))
        stores += 1
    return stores


def seconds_of(build: Build, builders: int) -> float:
    """Return how long so many children take together, undisturbed, on the machine as it is."""
    started = time.monotonic()
    for child in [fork(build) for _ in range(builders)]:
        check_ended(child)
    return time.monotonic() - started


def kill_loop(build: Build, kills: int, builders: int, rng: random.Random, seconds: float) -> int:
    """Kill builders of one store within `seconds`, until so many were, or it is complete."""
    done = 0
    while done < kills:
        children = [fork(build) for _ in range(builders)]
        time.sleep(rng.uniform(0.0, seconds))
        for child in children:
            os.kill(child, signal.SIGKILL)
        killed = [not check_ended(child) for child in children]
        done += sum(killed)
        if not any(killed):
            break
    return done


def fork(build: Build) -> int:
    """Return the process of a child that builds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            build()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def check_ended(child: int) -> bool:
    """Wait for a child; return whether it ended before it was killed. It must not fail."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"a builder ended with {code}"
    return code == 0
