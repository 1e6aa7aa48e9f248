"""The order in which the cache gives up files, and how many go for a download."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from viewstore.files.cache_settings import CacheSettings
from viewstore.files.eviction import (
    STALE_SECONDS,
    CachedFile,
    Eviction,
    needed_bytes,
    total_bytes,
)

NOW = 10.0 * STALE_SECONDS


def cached(name: str, size: int, *, added: float, opened: float = NOW) -> CachedFile:
    return CachedFile(Path(name), size, added, opened)


def eviction(limit_bytes: int, kind: str = "keep", ranks: int = 1) -> Eviction:
    settings = CacheSettings(directory=Path("x"), limit_bytes=limit_bytes, eviction=kind)  # type: ignore[arg-type]
    return Eviction(settings, ranks)


def names(files: list[CachedFile]) -> str:
    return "".join(file.path.name for file in files)


def test_what_was_opened_longest_ago_goes_first_with_lru() -> None:
    files = [cached("a", 1, added=1, opened=3), cached("b", 1, added=2, opened=1)]
    assert names(eviction(9, "lru").order(files, 1, NOW)) == "ba"


def test_residents_stay_and_the_others_take_turns() -> None:
    """Of 70 bytes one rank may need 40 for shards in use: 3 files of 10 bytes stay."""
    files = [cached(name, 10, added=age) for age, name in enumerate("abcdefg")]
    assert needed_bytes(10, ranks=1) == 40
    assert names(eviction(70).order(files, 10, NOW)) == "defgcba"
    assert names(eviction(70, ranks=2).order(files, 10, NOW)) == "abcdefg"


def test_a_file_that_nobody_opens_goes_before_all_others() -> None:
    old = NOW - STALE_SECONDS - 1
    files = [
        cached("a", 10, added=0, opened=old),
        cached("b", 10, added=1),
        cached("c", 1, added=2),
    ]
    assert names(eviction(60).order(files, 10, NOW))[0] == "a"


def test_a_download_that_just_got_its_name_is_counted_once() -> None:
    files = [cached("a", 10, added=0)]
    assert total_bytes([("a", 10), ("b", 5)], files) == 15


@given(
    sizes=st.lists(st.integers(1, 50), max_size=12),
    reserved=st.integers(0, 100),
    size=st.integers(1, 60),
    limit=st.integers(0, 300),
    kind=st.sampled_from(["keep", "lru"]),
    ranks=st.integers(1, 3),
)
def test_as_few_files_go_as_make_the_download_fit(
    sizes: list[int], reserved: int, size: int, limit: int, kind: str, ranks: int
) -> None:
    files = [cached(f"f{age}", each, added=age, opened=NOW - age) for age, each in enumerate(sizes)]
    downloads = [("r", reserved)]
    chosen = eviction(limit, kind, ranks).victims(downloads, files, size, NOW)
    if chosen is None:
        assert reserved + size > limit
        return
    left = [file for file in files if file not in chosen]
    assert total_bytes(downloads, left) + size <= limit
    if chosen:
        assert total_bytes(downloads, [*left, chosen[-1]]) + size > limit
