"""A bucket behind a network that breaks: names are given once, and every writer knows to whom."""

from __future__ import annotations

import http.server
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.remote.buckets import Inside
from tests.remote.servers import BUCKET, Fault, Faults, proxy, serving
from viewstore.errors import ConfigError, FormatError, RemoteError
from viewstore.files.bucket import Bucket
from viewstore.files.fetch import Retry

# Patient with a busy machine, and quick to try again.
RETRY = Retry(tries=20, first_seconds=0.001, longest_seconds=0.05, stall_seconds=20.0)
WRITERS = 8
ROUNDS = 60
BLOB = np.random.Generator(np.random.Philox(3)).bytes(6 << 20)
LOST: tuple[Fault, ...] = ("drop", "409", "refuse", "503")


@dataclass
class Broken:
    """A folder of a bucket behind a proxy, and what the server says of it."""

    url: str
    faults: Faults
    inside: Inside

    def bucket(self, *, single_writer: bool = False, retry: Retry = RETRY) -> Bucket:
        """Return a client of its own."""
        return Bucket(self.url, retry=retry, single_writer=single_writer)


@pytest.fixture
def broken(
    s3_endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broken]:
    folder = f"bucket/{zlib.crc32(request.node.name.encode()):08x}"
    faults = Faults()
    with proxy(s3_endpoint, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield Broken(f"s3://{BUCKET}/{folder}", faults, Inside(s3_endpoint, f"{folder}/"))


@dataclass
class Race:
    """Writers that give the same names at the same moments, round after round."""

    rounds: int
    winners: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.winners = [[] for _ in range(self.rounds)]
        self._start = threading.Barrier(WRITERS, timeout=200)

    @staticmethod
    def content(writer: int, number: int) -> bytes:
        return f"round {number} is of writer {writer}".encode() * (1 + writer)

    def run(self, bucket: Callable[[], Bucket]) -> None:
        """Let each writer, with a client of its own, try to win each round."""

        def write(writer: int) -> None:
            client = bucket()
            for number, winners in enumerate(self.winners):
                self._start.wait()
                if client.put_if_absent(f"commits/{number}.json", self.content(writer, number)):
                    winners.append(writer)

        threads = [threading.Thread(target=write, args=[writer]) for writer in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_each_name_has_one_winner_who_knows_it(broken: Broken, rate: float) -> None:
    broken.faults.rate, broken.faults.kinds = rate, LOST
    broken.faults.methods = ("PUT",)
    race = Race(ROUNDS)
    race.run(broken.bucket)
    assert [len(winners) for winners in race.winners] == [1] * ROUNDS
    assert broken.inside.objects() == {
        f"commits/{number}.json": race.content(winners[0], number)
        for number, winners in enumerate(race.winners)
    }
    assert set(broken.faults.done) == {"ok", *(LOST if rate else ())}


def test_the_race_sees_two_winners_where_there_are_two(broken: Broken) -> None:
    """The negative control: the same writers against a server that puts whatever comes."""
    broken.faults.ignores_conditions = True
    race = Race(5)
    race.run(broken.bucket)
    assert max(len(winners) for winners in race.winners) > 1


@pytest.mark.parametrize("script", [["drop"], ["drop", "drop"], ["409", "drop", "503"], ["refuse"]])
def test_a_writer_whose_answer_was_lost_knows_that_it_won(
    broken: Broken, script: list[Fault | None]
) -> None:
    broken.faults.script, broken.faults.methods = script, ("PUT",)
    assert broken.bucket().put_if_absent("k.json", b"mine")
    assert not broken.faults.script
    assert not broken.bucket().put_if_absent("k.json", b"yours")
    assert not broken.bucket().put_if_absent("k.json", b"mine, and longer")
    assert broken.inside.objects() == {"k.json": b"mine"}


def test_a_writer_that_did_not_wait_for_its_answer_knows_that_it_won(broken: Broken) -> None:
    broken.faults.script, broken.faults.stall_seconds = ["stall"], 3.0
    hasty = broken.bucket(retry=replace(RETRY, stall_seconds=1.0))
    assert hasty.put_if_absent("k.json", b"mine")
    assert broken.faults.done.total() > 1
    assert broken.inside.objects() == {"k.json": b"mine"}


def test_a_loser_whose_answers_are_lost_knows_that_it_lost(broken: Broken) -> None:
    broken.inside.write("k.json", b"theirs")
    broken.faults.script = ["drop", "503", "refuse", "409", "drop", "drop"]
    assert not broken.bucket().put_if_absent("k.json", b"mine")
    assert broken.inside.read("k.json") == b"theirs"


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_object_cut_on_its_way_arrives_whole(
    broken: Broken, tmp_path: Path, from_file: bool
) -> None:
    broken.faults.script = ["half", "refuse", "half", "drop", "503", "half"]
    (tmp_path / "blob").write_bytes(BLOB)
    broken.bucket().put("shard.tar", tmp_path / "blob" if from_file else BLOB)
    assert broken.faults.script == []
    assert broken.inside.objects() == {"shard.tar": BLOB}
    assert broken.inside.open_uploads() == []


def test_an_object_is_read_whole_however_often_it_breaks(broken: Broken) -> None:
    broken.inside.write("blob", BLOB)
    broken.faults.script = ["cut, no length", "cut", "drop", "reset", "truncate", "refuse", "503"]
    assert broken.bucket().get("blob", len(BLOB)) == BLOB
    assert broken.faults.script == []


def test_an_object_above_its_limit_is_not_read(broken: Broken) -> None:
    broken.inside.write("k.json", b"x" * 1001)
    with pytest.raises(FormatError, match="at most 1000 bytes, got 1001"):
        broken.bucket().get("k.json", 1000)


def test_an_object_that_is_not_there_is_told_from_a_bucket_that_does_not_answer(
    broken: Broken,
) -> None:
    with pytest.raises(FileNotFoundError):
        broken.bucket().get("nothing", 10)
    broken.faults.rate, broken.faults.kinds = 1.0, ("503",)
    with pytest.raises(RemoteError, match="503") as caught:
        broken.bucket(retry=replace(RETRY, tries=3)).get("nothing", 10)
    assert caught.value.where == f"{broken.url}/nothing"


@pytest.mark.parametrize(
    "request_of",
    [
        lambda bucket: bucket.put("a", b"1"),
        lambda bucket: bucket.put_if_absent("a", b"1"),
        lambda bucket: bucket.get("a", 10),
        lambda bucket: bucket.listed("folder"),
        lambda bucket: bucket.remove("a"),
    ],
    ids=["put", "put_if_absent", "get", "listed", "remove"],
)
@pytest.mark.parametrize(("fault", "tries"), [("403", 1), ("503", 4), ("refuse", 4), ("drop", 4)])
def test_what_stays_broken_is_an_error_with_its_address(
    broken: Broken, request_of: Callable[[Bucket], object], fault: Fault, tries: int
) -> None:
    broken.inside.write("a", b"1")
    broken.faults.rate, broken.faults.kinds = 1.0, (fault,)
    with pytest.raises(RemoteError) as caught:
        request_of(broken.bucket(retry=replace(RETRY, tries=4)))
    assert str(caught.value.where).startswith(broken.url)
    assert broken.faults.done == {fault: tries}


def test_a_bucket_that_refuses_did_answer(broken: Broken) -> None:
    """As with a token that has expired."""
    broken.faults.rate, broken.faults.kinds = 1.0, ("403",)
    with pytest.raises(RemoteError, match="the bucket refused the request: ") as caught:
        broken.bucket().listed()
    assert "the credentials, which may have expired" in str(caught.value.fix)


def test_all_pages_of_a_listing_are_read_over_a_network_that_breaks(broken: Broken) -> None:
    expected = {f"commits/{number}.json": number for number in range(11)}
    for name, size in expected.items():
        broken.inside.write(name, b"x" * size)
    broken.inside.write("commitsandmore", b"not below the folder")
    broken.faults.page = 3
    broken.faults.script = [
        *(None, "reset", None, None, "cut", "drop", None, "503"),
        *(None, "truncate", None, "cut, no length"),
    ]
    listed = broken.bucket().listed("commits")
    assert {name: size for name, (size, _) in listed.items()} == expected
    assert broken.faults.script == []
    assert broken.bucket().listed("nothing") == {}


def test_what_is_removed_is_gone_though_the_answer_was_lost(broken: Broken) -> None:
    broken.inside.write("a", b"1")
    broken.faults.script = ["refuse", "drop"]
    broken.bucket().remove("a")
    broken.bucket().remove("a")
    assert broken.inside.names() == []


def test_ages_are_told_by_the_clock_of_the_bucket(broken: Broken) -> None:
    broken.inside.write("old/a", b"1")
    ages = broken.bucket().ages()
    assert list(ages) == ["old/a"]
    assert 0 <= ages["old/a"] < 600
    assert broken.inside.names() == ["old/a"]


@pytest.mark.parametrize("script", [[], ["drop"], [None, "drop", "409"], ["409", "503", "drop"]])
def test_a_bucket_that_gives_a_name_once_passes_the_probe(
    broken: Broken, script: list[Fault | None]
) -> None:
    broken.faults.script = script
    broken.bucket().check_conditional()
    assert broken.inside.names() == []


def test_a_bucket_that_ignores_conditions_is_for_a_single_writer(broken: Broken) -> None:
    broken.faults.ignores_conditions = True
    with pytest.raises(ConfigError, match="second writer") as caught:
        broken.bucket().check_conditional()
    assert "--single-writer" in str(caught.value.fix)
    alone = broken.bucket(single_writer=True)
    alone.check_conditional()
    assert alone.put_if_absent("k.json", b"mine")
    assert not alone.put_if_absent("k.json", b"later")
    assert broken.inside.objects() == {"k.json": b"mine"}


def test_a_bucket_that_cannot_create_is_for_a_single_writer(broken: Broken) -> None:
    broken.faults.rate, broken.faults.kinds, broken.faults.methods = 1.0, ("501",), ("PUT",)
    with pytest.raises(ConfigError) as caught:
        broken.bucket().check_conditional()
    assert "--single-writer" in str(caught.value.fix)


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "a\nb"])
def test_a_listing_with_a_name_that_leads_elsewhere_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lister(name)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        bucket = Bucket(f"s3://{BUCKET}/hostile", retry=replace(RETRY, tries=2))
        with pytest.raises((FormatError, RemoteError)) as caught:
            print(bucket.listed("views"))
    print(caught.value)
    assert str(caught.value.where).startswith(bucket.url)


def lister(name: str) -> type[http.server.BaseHTTPRequestHandler]:
    """Return a server of a bucket in which one object has this name."""
    body = f"""<?xml version="1.0" encoding="UTF-8"?>
        <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>
        <Prefix>hostile/views/</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>
        <Contents><Key>hostile/views/{name}</Key><Size>3</Size><ETag>"1"</ETag>
        <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>
        """.encode()

    class Lister(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Lister
