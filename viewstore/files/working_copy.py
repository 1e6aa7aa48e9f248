"""A folder with the small files of a store that lies in a bucket, while something works on it.

All that reads records reads them there, as of any store; what is published goes to the bucket.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from viewstore.errors import ConfigError, FormatError, RemoteError, ViewStoreError
from viewstore.files import disk
from viewstore.files.bucket import Bucket
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.enclosing import check_place
from viewstore.files.local import Files, is_url, local_path, matching
from viewstore.files.remedy import built_again, remedy_at
from viewstore.files.remote import RemoteFiles
from viewstore.files.upstream import FOLDER, Upstream
from viewstore.format.listing import NAME as LISTING
from viewstore.format.manifest import BlobRecord
from viewstore.format.paths import StorePaths
from viewstore.format.plan import VIEW_SET_NAME, Plan
from viewstore.format.records import COMMIT_BYTES, LARGE_BYTES, SMALL_BYTES, has_its_digest

AT_ONCE = 16  # requests for records; a bucket takes some 30 ms for each
COLUMN_BYTES = 4 << 30  # of the source, or the listing of an import
COLUMN_SUFFIX = ".npy"  # some 70 bytes of the source for each row
PREFIX = "viewstore-bucket-"
LOCK = "lock"
LISTINGS = 3  # until all records that one names have come
UNLOCKED_SECONDS = 60  # from the making of a copy until it is locked, at the most
RECORDS = re.compile(
    r"manifest\.json|manifests/\d{6}\.json|sources/(?!located)[\w-]{1,100}\.(json|npy)"
    rf"|views/{VIEW_SET_NAME.pattern}/(plan\.json|index\.json|{LISTING.pattern}"
    r"|commits/\d{6}\.json|quarantine/[\w.-]{1,100}\.json)"
)
LIMITS = (
    (r".*/(commits|quarantine)/.*", COMMIT_BYTES),
    (r".*/plan\.json", SMALL_BYTES),
    (r".*\.npy", COLUMN_BYTES),
    (r".*", LARGE_BYTES),
)
GENERATION = re.compile(r"manifests/\d{6}\.json")
# The other records never change; a plan does where its view set is taken out and begun anew.
REPLACED = re.compile(r"(manifest|.*/(index|plan))\.json")
SEALED = re.compile(r"(?!.*/index).*\.json")
OF_A_SHARD = re.compile(rf"/views/({VIEW_SET_NAME.pattern})/(?:commits/)?(\d{{6}})[.-][^/]+$")
PACK_SUFFIX = ".params"


class WorkingCopy:
    """The upstream of a folder whose store lies in a bucket."""

    def __init__(self, root: Path, bucket: Bucket, rows: bool = True) -> None:
        """Take the folder `root`, which may be of another machine; `rows` is that of `store_at`."""
        self.root, self.bucket, self.rows = root, bucket, rows
        self._listed: dict[str, tuple[int, float]] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return (WorkingCopy, (self.root, self.bucket, self.rows))

    def here(self, root: Path) -> tuple[Path, Upstream]:
        if self.root.is_dir():
            return self.root, self
        opened = contextlib.ExitStack()  # a builder lives as long as its process
        own = opened.enter_context(_new_copy(self.bucket, self.rows))
        atexit.register(opened.close)
        own.pull()
        return own.root, own

    def reading(self, paths: StorePaths) -> tuple[StorePaths, Files]:
        return StorePaths(Path()), self._files

    @cached_property
    def _files(self) -> RemoteFiles:
        cache = CacheSettings.from_environment()
        return RemoteFiles(self.bucket.url, cache=cache, retry=self.bucket.retry)

    def place(self, root: Path) -> str:
        return self.bucket.url

    def check_writers(self) -> None:
        self.bucket.check_conditional()

    def pull(self) -> None:
        for left in reversed(range(LISTINGS)):
            error = self._pulled()
            if error is None:
                return
            if not left:
                raise error

    def _pulled(self) -> RemoteError | None:
        """Bring the records that are listed; return the error of an answer that cannot be."""
        self._listed = self.bucket.listed()
        if not self._listed:
            return self._not_empty()
        records = [name for name in self._listed if RECORDS.fullmatch(name)]
        newest = max(filter(GENERATION.fullmatch, records), default=None)
        wanted = [
            name
            for name in records
            if (name == newest or not GENERATION.fullmatch(name))
            and (self.rows or not name.endswith(COLUMN_SUFFIX))
            and (REPLACED.fullmatch(name) or not (self.root / name).is_file())
        ]
        self._make_folders(records)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            came = list(threads.map(self._bring, wanted))
        lost = next((name for name, is_here in zip(wanted, came, strict=True) if not is_here), None)
        return None if lost is None else self._not_given(lost)

    def _not_given(self, name: str) -> RemoteError:
        return RemoteError(
            f"the bucket lists {name} and does not give it",
            where=f"{self.bucket.url}/{name}",
            why="a store that lacks one of its records would be taken for another one",
            fix="run it again; if it stays, remove that object, and run the same build again",
        )

    def _not_empty(self) -> RemoteError | None:
        """Return the error of a bucket that lists nothing, and has a store or whatever is asked.

        An answer that is no listing, such as the page of a proxy where users log in, reads as an
        empty one.
        """
        paths = StorePaths(Path())
        for name in map(str, (paths.sources_record, paths.manifest)):
            if self.bucket.size(name) is not None:
                return RemoteError(
                    f"the bucket lists nothing, and has {name}",
                    where=self.bucket.url,
                    why="what answered is no bucket, such as the login page of a proxy; or it "
                    "failed, and called that a success",
                    fix="check the address, the credentials and the network, and run it again",
                )
        return None

    def _make_folders(self, records: Iterable[str]) -> None:
        """Make the folders of a store, if there is one in the bucket, and those of its records."""
        paths = StorePaths(self.root)
        folders = {paths.tmp, *(paths.folders if records else ())}
        for name in records:
            folders.add((self.root / name).parent)
            if name.startswith("views/"):
                folders.update(paths.view_set(name.split("/")[1]).folders)
        for folder in sorted(folders):
            disk.make_directory(folder)

    def _bring(self, name: str) -> bool:
        """Fetch a record, if it is there; return whether."""
        limit = next(most for kind, most in LIMITS if re.fullmatch(kind, name))
        is_whole = has_its_digest if SEALED.fullmatch(name) else len
        try:
            data = self.bucket.get(name, limit, lambda found: bool(is_whole(found)))
        except FileNotFoundError:
            return False
        except FormatError as error:
            raise error.located(f"{self.bucket.url}/{name}") from error
        self._keep(name, data)
        return True

    def _keep(self, name: str, data: bytes) -> None:
        path = self.root / name
        disk.write_atomic(path, data, mode=0o444, scratch=self.root / "tmp")
        if name in self._listed:
            disk.touch(path, self._listed[name][1])

    def fetch(self, path: Path) -> None:
        if not path.is_file():
            self._bring(self._name(path))

    def current(self, path: Path, limit: int) -> bytes | None:
        try:
            return self.bucket.get(self._name(path), limit, has_its_digest)
        except FileNotFoundError:
            return None

    def fetch_blobs(self, root: Path, blobs: Iterable[BlobRecord]) -> None:
        missing = [blob for blob in blobs if not (root / blob.name).is_file()]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            try:
                for each in [threads.submit(self._fetch_blob, root, blob) for blob in missing]:
                    each.result()
            except RemoteError:  # the others would fail as slowly; not so after a FormatError
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_blob(self, root: Path, blob: BlobRecord) -> None:
        name = self._name(root / blob.name)
        try:
            data = self.bucket.get(
                name, blob.bytes, lambda found: hashlib.sha256(found).hexdigest() == blob.sha256
            )
            matching(data, size=blob.bytes, sha256=blob.sha256)
        except FileNotFoundError as error:
            where = f"{self.bucket.url}/{name}"
            raise FormatError(f"{blob.name} is missing", code="VS203", where=where) from error
        except FormatError as error:
            raise error.located(f"{self.bucket.url}/{name}") from error
        self._keep(name, data)

    def size(self, path: Path) -> int:
        return self._listed.get(self._name(path), (-1, 0.0))[0]

    def holds(self, path: Path, size: int, sha256: str | None = None) -> bool:
        return not _published(path) or self.size(path) == size

    def name_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        self.bucket.put(self._name(target), temporary)
        if target.suffix == PACK_SUFFIX:  # small, and read again to finish the view set
            disk.rename(temporary, target)

    def keep_blob(self, temporary: Path, target: Path, blob: BlobRecord) -> None:
        if self.bucket.size(self._name(target)) != blob.bytes:
            self.bucket.put(self._name(target), target if target.is_file() else temporary)

    def lacks(self, root: Path, blobs: Iterable[BlobRecord]) -> bool:
        paths = ((root / blob.name, blob.bytes) for blob in blobs)
        return any(
            self.size(path) != size and self.bucket.size(self._name(path)) != size
            for path, size in paths
        )

    def put_if_absent(
        self, path: Path, data: bytes, *, scratch: Path, durable: bool = True
    ) -> bool:
        name = self._name(path)
        is_ours = self.bucket.put_if_absent(name, data)
        if is_ours:
            self._keep(name, data)
        else:
            self._bring(name)
        return is_ours

    def push(self, path: Path) -> None:
        if _published(path):
            self.bucket.put(self._name(path), path)

    def ages(self, paths: StorePaths, folders: Collection[Path]) -> dict[Path, float]:
        return {
            path: age
            for name, age in self.bucket.ages().items()
            if (path := self.root / name).parent in folders and self._name(path) == name
        }

    def remove(self, path: Path) -> None:
        self.bucket.remove(self._name(path))

    def discard(self, path: Path, is_named: Callable[[], bool]) -> bool:
        if is_named():
            return False
        name, aside = self._name(path), f"{self._aside(path)}{uuid.uuid4().hex}"
        if not self.bucket.copy(name, aside):
            return True  # another garbage collection has it
        self.bucket.remove(name)
        was_named = is_named()
        if was_named:
            self.bucket.copy(aside, name)
        self.bucket.remove(aside)
        return not was_named

    def restore(self, path: Path) -> None:
        if self.size(path) >= 0:
            return
        kept = next((name for name in self._listed if name.startswith(self._aside(path))), None)
        if kept is not None:
            self.bucket.copy(kept, self._name(path))

    def _aside(self, path: Path) -> str:
        """Return how names begin under which a blob is kept until it is sure that it may go."""
        return f"{self._name(path.parent)}/tmp/{path.name}."

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _published(path: Path) -> bool:
    """Whether a file of a working copy is one of the bucket's too.

    The zarr arrays repeat what the packs say, an object for each shard and column: readers of a
    URL use the packs.
    """
    return "params.zarr" not in path.parts


@contextlib.contextmanager
def store_at(
    place: Path | str, *, single_writer: bool = False, rows: bool = True
) -> Iterator[tuple[Path, Upstream]]:
    """Give the folder of a store to work on, and its upstream.

    Of a bucket that is a working copy, which goes away with the block. Errors of the block then
    name the bucket in its place, but for those of this machine's disk.

    Args:
        place: A folder, or the URL of a bucket.
        single_writer: As in `Bucket`.
        rows: Of a bucket also bring what is known of each row, the columns of the source and the
            listings of imports, which are large.

    Raises:
        ConfigError: The URL is not that of a bucket, or what is there is not a store; or a single
            writer is promised for a folder, which needs no such promise.
        RemoteError: The bucket did not answer.
    """
    if is_url(place):
        with _working_copy(str(place).rstrip("/"), single_writer, rows) as copy:
            yield copy.root, copy
        return
    if single_writer:
        raise ConfigError(
            "--single-writer is for a bucket, and this is a folder",
            where=str(place),
            why="a disk keeps several writers apart",
            fix="leave --single-writer out",
        )
    yield local_path(place), FOLDER


@contextlib.contextmanager
def _working_copy(url: str, single_writer: bool, rows: bool) -> Iterator[WorkingCopy]:
    with _new_copy(Bucket(url, single_writer=single_writer), rows) as copy:
        try:
            check_place(url)
            with disk.explained(copy.root):
                copy.pull()
            yield copy
        except ViewStoreError as error:
            raise _named(error, str(copy.root), url) from error


def _named(error: ViewStoreError, root: str, url: str) -> ViewStoreError:
    """Return an error that names a bucket where it named the working copy, of any host."""
    if error.code == "VS302":  # the disk of the copy
        return _of_this_disk(error)

    def told(text: str | None) -> str | None:
        return None if text is None else re.sub(copies, lambda _: url, text)

    copies = rf"{re.escape(root)}|/\S*/{PREFIX}\w+/store"
    fix = told(error.fix)
    return type(error)(
        str(told(str(error))),
        code=error.code,
        where=told(error.where),
        why=told(error.why),
        fix=None if fix is None else _short_way(error, root, url) or remedy_at(url, fix),
    )


def _short_way(error: ViewStoreError, root: str, url: str) -> str | None:
    """Return what builds the shard again that an error is about, if it is about one."""
    shard = OF_A_SHARD.search(error.where or "")
    fix = error.fix or ""
    if shard is None or "--repair" not in fix or re.search(r"--only \d+[-,]", fix):
        return None
    with contextlib.suppress(OSError, FormatError):  # no plan, or a damaged one
        record = StorePaths(Path(root)).view_set(shard[1]).plan
        plan = Plan.unpack(disk.read_limited(record, SMALL_BYTES))
        return built_again(url, shard[1], int(shard[2]), plan.generator["name"])
    return None


def _of_this_disk(error: ViewStoreError) -> ViewStoreError:
    """Return an error about the disk of a working copy, which can lie on another one."""
    other = f"{disk.FREE_SPACE} or let TMPDIR name a folder on another disk"
    fix = None if error.fix is None else error.fix.replace(disk.FREE_SPACE, other)
    return type(error)(str(error), code=error.code, where=error.where, why=error.why, fix=fix)


@contextlib.contextmanager
def _new_copy(bucket: Bucket, rows: bool) -> Iterator[WorkingCopy]:
    """Make an empty working copy, which is removed after the block, or by the next one."""
    _drop_abandoned()
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX) as folder,
        disk.file_lock(Path(folder) / LOCK),
    ):
        root = Path(folder) / "store"
        disk.make_directory(root)
        yield WorkingCopy(root, bucket, rows)


def _drop_abandoned() -> None:
    """Remove the working copies of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # one that ends at this moment
            found = folder.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < UNLOCKED_SECONDS:
                continue  # of another user, who may have put anything into it
            with (folder / LOCK).open("ab") as lock:  # made here, if it was killed before
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                disk.remove_tree(folder)
