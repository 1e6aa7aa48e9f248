"""WebDataset tars as a source: one image a sample, the label beside it; our own shards too."""

from __future__ import annotations

import errno
import fnmatch
import itertools
import math
import mmap
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from viewstore.errors import FormatError
from viewstore.files import disk
from viewstore.files.spelling import absolute_path
from viewstore.format.tar import BLOCK, NPY_BYTES
from viewstore.images.decode import probe
from viewstore.sources.braces import expand_braces
from viewstore.sources.labels import Label, LabelReader
from viewstore.sources.pictures import NOT_READ, READ, suffix_of, unread_note
from viewstore.sources.raw_views import raw_views
from viewstore.sources.table import (
    OnError,
    Part,
    ScannedImage,
    Source,
    SourceKind,
    by_key,
    first_rows,
    no_source,
    refuse,
    table_of,
)
from viewstore.sources.tar_members import Member, tar_members

# Of several images with one name, the first of these is taken.
PREFERRED = ("jpg", "jpeg", "png", "webp")
RAW_VIEWS = "views.npy"
WILDCARDS = "*?["  # in the name of a file, as shells have them
MOST_SEARCHED = 1000  # patterns of them; each is compared with every name in its folder


@dataclass(kw_only=True)
class _Scan:
    """What a scan of tars has found so far."""

    on_error: OnError
    parts: list[Part] = field(default_factory=list)
    rows: list[ScannedImage] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    labels: LabelReader = field(default_factory=LabelReader)


def scan_tars(spec: str, *, on_error: OnError, limit: int | None) -> Source:
    """Return the images of the WebDataset tars that `spec` names.

    A member's name is cut at its first dot, as webdataset does, if "jpg" or the like is all that
    follows; else at its last one, so that img_0.5.jpg and img_0.6.jpg are two samples.
    """
    scan = _Scan(on_error=on_error)
    for path in _tar_paths(spec):
        try:
            missing = not path.is_file()
        except OSError as error:  # too long a name, a folder that may not be searched
            raise no_source(str(path), error.strerror or str(error)) from error
        if missing:
            raise no_source(str(path), "nothing is there")
        try:
            _scan_tar(scan, path)
        except FormatError as error:
            fix = "give an uncompressed ustar of plain files"
            raise error.located(str(path), fix=fix) from error
    table = first_rows(table_of(by_key(scan.rows, spec), tuple(scan.parts), ()), limit)
    notes = (unread_note(scan.unread), scan.labels.note())
    return Source(table, scan.skipped, tuple(note for note in notes if note is not None))


def tar_files(spec: str) -> list[str]:
    """Return the absolute paths of the tars that a path, folder or pattern names.

    Those of braces come in their order; those of a folder, or of `*`, `?` and `[]` in the name of
    a file, in the order of their names.
    """
    return [str(path) for path in _tar_paths(spec)]


def _tar_paths(spec: str) -> Iterator[Path]:
    """Yield the paths of `tar_files` one by one: of a million, the first may be missing."""
    paths: Iterable[str | Path] = [spec]
    if is_pattern(spec) or not Path(spec).exists():
        patterns = expand_braces(spec)
        if {*WILDCARDS} & {*spec} and len(patterns) > MOST_SEARCHED:
            raise no_source(
                spec, f"braces beside *, ? or [] must stand for at most {MOST_SEARCHED} patterns"
            )
        paths = itertools.chain.from_iterable(map(_matching, patterns))
    elif Path(spec).is_dir():
        paths = sorted(path for path in Path(spec).iterdir() if _is_visible_tar(path))
    for path in paths:
        yield absolute_path(path)


def _matching(pattern: str) -> list[str]:
    """Return the paths of one folder that a pattern matches; itself, if there are none."""
    path = Path(pattern)
    if not {*WILDCARDS} & {*path.name}:
        return [pattern]
    try:
        names = {each.name for each in path.parent.iterdir() if not each.name.startswith(".")}
    except OSError:
        return [pattern]
    found = [] if path.name in names else sorted(fnmatch.filter(names, path.name))
    return [str(path.parent / name) for name in found] or [pattern]


def _is_visible_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and not path.name.startswith(".") and path.is_file()


def _scan_tar(scan: _Scan, path: Path) -> None:
    if path.stat().st_size < BLOCK:
        raise FormatError("tar is shorter than one header")
    facts = {"uri": str(path), "bytes": path.stat().st_size, "sha256": disk.sha256_of(path)}
    numbers: dict[str, int] = {}

    def part(kind: str) -> int:
        if kind not in numbers:
            numbers[kind] = len(scan.parts)
            scan.parts.append(Part(kind=kind, **facts))  # type: ignore[arg-type]
        return numbers[kind]

    part("file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for group in _groups(data).values():
            for key, member in group.images(scan.unread):
                payload = data[member.offset : member.offset + member.size]
                try:
                    height, width, _ = probe(payload)
                except FormatError as error:
                    refuse(f"{path}: {member.name}", key, error, scan.on_error, scan.skipped)
                    continue
                label = group.label(key, data, scan.labels)
                crc32 = zlib.crc32(payload)
                place = part("file"), member.offset, member.size
                scan.rows.append(ScannedImage(key, label, *place, crc32, height, width))
            if RAW_VIEWS in group.members:
                member = group.members[RAW_VIEWS]
                views, height, width = raw_views(data[member.offset : member.offset + NPY_BYTES])
                size = math.prod((height, width, 3))
                if member.size != NPY_BYTES + views * size:
                    raise FormatError(f"{member.name} must hold {views} views of {size} bytes")
                for view in range(views):
                    begin = member.offset + NPY_BYTES + view * size
                    crc32 = zlib.crc32(data[begin : begin + size])
                    label = group.label(group.key, data, scan.labels)
                    place = part("pixels"), begin, size
                    key = f"{group.key}.v{view}"
                    scan.rows.append(ScannedImage(key, label, *place, crc32, height, width))


@dataclass(frozen=True)
class _Group:
    """The members of a tar whose names are the same up to the first dot.

    Attributes:
        key: That name.
        members: By what follows the dot, in lower case.
    """

    key: str
    members: dict[str, Member]

    def images(self, unread: Counter[str]) -> Iterator[tuple[str, Member]]:
        """Yield the images with their keys; `unread` counts the pictures that are none of them."""
        images: dict[str, list[str]] = {}  # by key, the ends that their names may have
        for end in self.members:
            suffix = suffix_of(f".{end}")
            if suffix in READ:
                stem = end.removesuffix(suffix).removesuffix(".")
                images.setdefault(f"{self.key}.{stem}" if stem else self.key, []).append(end)
            elif suffix in NOT_READ:
                unread[f".{suffix}"] += 1
        if self.key in images:  # the sample; what else has its name says something about it
            for end in (e for key, ends in images.items() if key != self.key for e in ends):
                unread[f".{end} beside an image of the same name"] += 1
            images = {self.key: images[self.key]}
        for key, ends in images.items():
            first, *others = sorted(ends, key=_preference)
            for end in others:
                unread[f".{end} beside an image of the same name"] += 1
            yield key, self.members[first]

    def label(self, key: str, data: mmap.mmap, labels: LabelReader) -> Label:
        """Return the label beside an image of this key, that of the whole group if it has none."""
        stem = key[len(self.key) + 1 :]
        for prefix in (f"{stem}.", "") if stem else ("",):
            for suffix, read in (("cls", labels.text), ("json", labels.json)):
                member = self.members.get(f"{prefix}{suffix}")
                if member is not None:
                    return read(data[member.offset : member.offset + member.size])
        return -1


def _preference(end: str) -> tuple[int, str]:
    suffix = suffix_of(f".{end}")
    return (PREFERRED.index(suffix) if suffix in PREFERRED else len(PREFERRED), end)


def _groups(data: mmap.mmap) -> dict[str, _Group]:
    """Return the members of a tar by key, in the order of the tar, hidden ones left out."""
    groups: dict[str, _Group] = {}
    for member in tar_members(data):
        folder, slash, base = member.name.rpartition("/")
        stem, _, end = base.partition(".")
        if not stem:
            continue
        key = f"{folder}{slash}{stem}"
        members = groups.setdefault(key, _Group(key, {})).members
        if end.lower() in members:
            raise FormatError(f"tar member {key}.{end} stands twice")
        members[end.lower()] = member
    return groups


def is_pattern(spec: str) -> bool:
    """Whether a text has braces that stand for files, and is not the name of one itself."""
    try:
        return "{" in spec and not Path(spec).exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return True  # a list of many


def _is_tar(spec: str) -> bool:
    path = Path(spec)
    if path.is_dir():
        return _is_folder_of_tars(path)
    if not path.is_file():
        return path.suffix.lower() == ".tar"
    with path.open("rb") as file:
        return path.suffix.lower() == ".tar" or file.read(BLOCK)[257:262] == b"ustar"


def _is_folder_of_tars(folder: Path) -> bool:
    """Whether tars lie in a folder, and neither pictures nor folders that may hold them."""
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:  # `sources.folder` says so
        return False
    if any(path.is_dir() or suffix_of(path.name) in READ for path in entries):
        return False
    return any(map(_is_visible_tar, entries))


KIND = SourceKind(spelling="WebDataset tars", matches=_is_tar, scan=scan_tars, files=tar_files)
