"""Ready-made views in a folder or tar, found by a naming rule, scanned into a listing."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import ConfigError, FormatError, counted
from viewstore.files import disk
from viewstore.files.naming import OF_SAMPLE, ViewFiles
from viewstore.format.listing import NOWHERE, PLACE, check_below
from viewstore.format.plan import MAX_VIEWS
from viewstore.images.decode import probe
from viewstore.progress import Progress, Silent, tracked
from viewstore.sources.folder import folder_keys
from viewstore.sources.pictures import READ, suffix_of
from viewstore.sources.tar_members import tar_members

FILE_BYTES = 256 << 20  # of a file that a view is decoded from
THREADS = 4  # that wait for the disk
AT_ONCE = 256  # files that a thread is handed
NAMED = 3  # gaps and unwanted files that an error names


class Scanned(NamedTuple):
    """What a scan found: PLACE [N, V], the names of the parts, and files that no row wants."""

    places: NDArray[Any]
    names: tuple[str, ...]
    unwanted: int


def scan_views(
    files: ViewFiles,
    keys: Sequence[str],
    *,
    views: int | None,
    missing: bool,
    progress: Progress | None = None,
) -> Scanned:
    """Find the views of all rows, and read each once: its size, CRC-32, height and width.

    Args:
        files: Where they lie.
        keys: Of the rows, in their order.
        views: How many a sample has; None: as many as the highest number of one says.
        missing: Whether some may have no file.
        progress: Is told how many files were read.

    Raises:
        ConfigError: Views have no file, two files are one view's, or two rows want one file.
        FormatError: A file is no picture, or over a limit; the tar is not one.
    """
    found = _in_tar(files.root) if files.in_tar else _in_folder(files.root)
    names = list(found)
    grid, unwanted = _matched(files, keys, names, views)
    gaps = np.argwhere(grid < 0)
    if len(gaps) and (not missing or len(gaps) == grid.size):
        raise _gaps(files, keys, gaps, unwanted)
    wanted = np.unique(grid[grid >= 0])
    facts = np.zeros(len(names), PLACE)
    chosen = [names[at] for at in wanted]
    with tracked(progress or Silent(), "listing", len(wanted), "files") as told:
        if files.in_tar:
            ranges = [found[name] for name in chosen]
            facts[wanted] = _probe_members(files.root, chosen, ranges, told)
            parts: tuple[str, ...] = (Path(files.root).name,)
        else:
            facts[wanted] = _probe_files(files.root, chosen, told)
            parts = tuple(chosen)
    places = facts[grid]
    nowhere = np.zeros((), PLACE)
    nowhere["part"] = NOWHERE
    places[grid < 0] = nowhere
    return Scanned(places, parts, len(unwanted))


Range = tuple[int, int]  # where a file lies in a tar: offset, size


def _in_folder(root: str) -> Mapping[str, Range]:
    if not Path(root).is_dir():
        raise _nothing(root, "there is no such folder")
    return dict.fromkeys(folder_keys(root), (0, 0))


def _in_tar(root: str) -> Mapping[str, Range]:
    """Return the pictures of a tar by name, hidden ones left out."""
    path = Path(root)
    if not path.is_file():
        raise _nothing(root, "there is no such tar")
    found: dict[str, Range] = {}
    try:
        if not path.stat().st_size:
            raise FormatError("tar is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for member in tar_members(data):
                if member.name in found:
                    raise FormatError(f"tar member {member.name} stands twice")
                hidden = member.name.rpartition("/")[2].startswith(".")
                if suffix_of(member.name) in READ and not hidden:
                    found[member.name] = member.offset, member.size
    except FormatError as error:
        raise error.located(root, fix="give an uncompressed ustar of plain files") from error
    return found


def _nothing(root: str, why: str) -> ConfigError:
    return ConfigError(
        "views to import are not there", code="VS105", where=root, why=why, fix="check files=.."
    )


def _matched(
    files: ViewFiles, keys: Sequence[str], names: Sequence[str], views: int | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return which of `names` is the file of each view, [N, V], -1 none, and those of no view."""
    expression = files.expression()
    said = [each for each in OF_SAMPLE if each in expression.groupindex]
    field = said[0]
    rows = _rows_by(field, keys)
    found: dict[tuple[int, int], int] = {}
    unwanted = []
    for number, name in enumerate(names):
        match = expression.fullmatch(name)
        fields = {} if match is None else match.groupdict()
        row = rows.get(fields.get(field, ""))
        view = int(fields.get("view", 0))
        odd = row is not None and any(fields[e] != NAMES[e](keys[row]) for e in said)
        if row is None or odd or view >= (views or MAX_VIEWS):
            unwanted.append(name)
            continue
        other = found.setdefault((row, view), number)
        if other != number:
            raise ConfigError(
                f"{names[other]} and {name} are both view {view} of {keys[row]}",
                code="VS105",
                where=files.root,
                fix="move one of them away",
            )
    count = views or 1 + max((view for _, view in found), default=0)
    grid = np.full((len(keys), count), -1, np.int64)
    for (row, view), number in found.items():
        grid[row, view] = number
    return grid, unwanted


def stem_of(key: str) -> str:
    """Return a key without its folder, and without the suffix of a picture."""
    base = key.rpartition("/")[2]
    return base.rpartition(".")[0] if suffix_of(base) in READ else base


def name_of(key: str) -> str:
    """Return a key without the suffix of a picture."""
    folder, slash, _ = key.rpartition("/")
    return f"{folder}{slash}{stem_of(key)}"


NAMES: Mapping[str, Callable[[str], str]] = {"key": str, "name": name_of, "stem": stem_of}


def _rows_by(field: str, keys: Sequence[str]) -> dict[str, int]:
    """Return the row of each key by a field of rules. Raises ConfigError: two rows have one."""
    rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        try:
            check_below(key)
        except FormatError as error:
            raise ConfigError(f"key {key!r} names no file", code="VS105", why=str(error)) from error
        other = rows.setdefault(NAMES[field](key), row)
        if other != row:
            raise ConfigError(
                f"{keys[other]} and {key} would have the same views: {{{field}}} is one for both",
                code="VS105",
                where="files",
                fix="name the views by {name}, or by {key}",
            )
    return rows


def _gaps(
    files: ViewFiles, keys: Sequence[str], gaps: NDArray[np.int64], unwanted: Sequence[str]
) -> ConfigError:
    have = "view has" if len(gaps) == 1 else "views have"
    named = ", ".join(f"{keys[row]} view {view}" for row, view in gaps[:NAMED].tolist())
    why = "every file there is the view of a sample"
    if unwanted:
        belong = "belongs" if len(unwanted) == 1 else "belong"
        others = ", ".join(unwanted[:NAMED]).encode("utf-8", "replace").decode()
        why = f"{counted(len(unwanted), 'file')} there {belong} to no sample, first {others}"
    return ConfigError(
        f"import: {len(gaps)} {have} no file, first {named}",
        code="VS105",
        where=files.root,
        why=why,
        fix="check files=.., or take what is there with --set missing=true",
    )


def _probe_members(
    root: str, names: Sequence[str], ranges: Sequence[Range], progress: Progress
) -> NDArray[Any]:
    """Return the PLACE of members of a tar, its one part."""
    facts = np.zeros(len(names), PLACE)
    with Path(root).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as all:
        for number, (name, (offset, size)) in enumerate(zip(names, ranges, strict=True)):
            if size > FILE_BYTES:
                raise _no_picture(f"{root}: {name}", f"it must have at most {FILE_BYTES} bytes")
            facts[number] = 0, offset, *_facts(all[offset : offset + size], f"{root}: {name}")
            if not (number + 1) % AT_ONCE:
                progress.advance(AT_ONCE)
    progress.advance(len(names) % AT_ONCE)
    return facts


def _probe_files(root: str, names: Sequence[str], progress: Progress) -> NDArray[Any]:
    """Return the PLACE of files below a folder, each a part of its own."""
    facts = np.zeros(len(names), PLACE)
    facts["part"] = np.arange(len(names))

    def probe_some(first: int) -> int:
        some = names[first : first + AT_ONCE]
        for number, name in enumerate(some, first):
            facts[number] = number, 0, *_file_facts(f"{root}/{name}")
        return len(some)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="viewstore-import") as pool:
        for count in _each(pool, probe_some, range(0, len(names), AT_ONCE)):
            progress.advance(count)
    return facts


def _each(
    pool: ThreadPoolExecutor, work: Callable[[int], int], items: Sequence[int]
) -> Iterator[int]:
    """Yield what `work` returns of each item; of an error, no more is done than is under way."""
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _file_facts(path: str) -> tuple[int, int, int, int]:
    try:
        data = disk.read_limited(Path(path), FILE_BYTES)
    except (FormatError, OSError) as error:
        raise _no_picture(path, str(error)) from error
    return _facts(data, path)


def _facts(data: bytes, where: str) -> tuple[int, int, int, int]:
    """Return size, CRC-32, height and width of the file of a view."""
    try:
        height, width, _ = probe(data)
    except FormatError as error:
        raise _no_picture(where, str(error)) from error
    return len(data), zlib.crc32(data), height, width


def _no_picture(where: str, why: str) -> FormatError:
    return FormatError(
        "a view to import cannot be read",
        code="VS205",
        where=where,
        why=why,
        fix="mend the file; or move it away, and take what is there with --set missing=true",
    )
