"""The builds of the bucket tests: small, of many shards, and what is expected of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import viewstore
from tests.remote.buckets import Inside
from tests.remote.servers import Fault, Faults
from viewstore.build.request import BuildRequest, Built
from viewstore.build.run import build
from viewstore.cli.main import root as cli
from viewstore.store.verify_remote import verify_remote

ROWS = 40
SHARDS = 10
COMMITS = "views/simclr/commits"
LEFTOVERS = ("views/simclr/000003-0123456789abcdef.tar", "tmp/probe-0123")
CUT: tuple[Fault, ...] = ("refuse", "half", "drop", "cut", "cut, no length", "reset")


def build_into(out: str | Path, source: str | None, **changes: Any) -> Built:  # noqa: ANN401
    """Build ten shards of two simclr views into a folder or a bucket."""
    request: dict[str, Any] = {
        "generator": "simclr",
        "out": out,
        "source": source,
        "settings": {"views": 2, "height": 16, "width": 16},
        "shard_rows": ROWS // SHARDS,
        "workers": 1,
    }
    return build(BuildRequest(**(request | changes)))


@dataclass(frozen=True)
class Undisturbed:
    """What a build ends with that nothing disturbs.

    Attributes:
        store_id: That of the store in a folder.
        objects: Those of the store in a bucket, by name.
    """

    store_id: str
    objects: dict[str, bytes]

    def begun(self, *shards: int) -> dict[str, bytes]:
        """Return the objects of a build that committed these shards and was not finished."""
        commits = {f"{COMMITS}/{shard:06d}.json" for shard in range(SHARDS) if shard not in shards}
        return {
            name: data
            for name, data in self.objects.items()
            if name not in commits and not name.startswith("manifest")
        }


@dataclass
class Place:
    """Where a test builds: behind a proxy, into a folder of the bucket that is its own."""

    url: str
    faults: Faults
    inside: Inside

    def check(self, expected: Undisturbed) -> None:
        """Check that the store is whole, and that nothing is left over once gc has run."""
        self.faults.rate = 0.0
        assert viewstore.open(self.url).store_id == expected.store_id
        assert list(verify_remote(self.url, level="content")) == []
        for name in LEFTOVERS:
            self.inside.write(name, b"of a builder that was killed")
        collected = run("gc", self.url, "--older-than", "0s")
        assert collected.exit_code == 0, collected.output
        assert self.inside.names() == list(expected.objects)
        assert self.inside.open_uploads() == []
        assert list(verify_remote(self.url)) == []


Behind = Callable[[Faults], Place]


def run(*arguments: str) -> Result:
    """Run a command of viewstore."""
    return CliRunner().invoke(cli, arguments)
