"""The paths of the files of a store (docs/format.md 1.1); nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ViewSetPaths:
    """The files of one view set, `root` = STORE/views/NAME."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def commits(self) -> Path:
        return self.root / "commits"

    @property
    def failed(self) -> Path:
        return self.root / "failed"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def index(self) -> Path:
        return self.root / "index.json"

    @property
    def members(self) -> Path:
        return self.root / "index" / "members.npy"

    @property
    def params(self) -> Path:
        return self.root / "params.zarr"

    @property
    def stats(self) -> Path:
        return self.root / "stats.json"

    @property
    def gc_lock(self) -> Path:
        """Held shared by builders while they name blobs and commit, and alone by gc."""
        return self.root.parents[1] / "tmp" / "gc.lock"

    def commit(self, shard: int) -> Path:
        return self.commits / f"{shard:06d}.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that exist before the first shard is built."""
        return (self.root, self.commits, self.failed, self.quarantine, self.tmp)


@dataclass(frozen=True)
class StorePaths:
    """The files of a store."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def generations(self) -> Path:
        return self.root / "manifests"

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def sources_record(self) -> Path:
        return self.sources / "sources.json"

    @property
    def sources_located(self) -> Path:
        """Where the rows lie now, once a source was moved or mended."""
        return self.sources / "located.json"

    @property
    def views(self) -> Path:
        return self.root / "views"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def finalise_lock(self) -> Path:
        return self.tmp / "finalise.lock"

    @property
    def gc_lock(self) -> Path:
        """Held shared by builders while they name blobs and commit, and alone by gc."""
        return self.tmp / "gc.lock"

    def generation(self, number: int) -> Path:
        return self.generations / f"{number:06d}.json"

    def view_set(self, name: str) -> ViewSetPaths:
        """Return the paths of a view set whose name has been checked."""
        return ViewSetPaths(self.views / name)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that exist before the first view set."""
        return (self.root, self.generations, self.sources, self.views, self.tmp)
