"""A server that asks its readers to wait is waited for; that is no fault of it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.remote.conftest import IMPATIENT
from tests.viewstore.commands import run
from viewstore.errors import RemoteError
from viewstore.files import fetch
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.fetch import Answer, Failed, Fetcher, Retry, failed_status
from viewstore.files.remote import RemoteFiles
from viewstore.files.transport import connect

BODY = b"bytes of a shard"


@contextmanager
def busy(answers: list[tuple[int, bytes]]) -> Iterator[str]:
    """Run a server that gives these answers in turn, then BODY; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0) if answers else (200, BODY)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def fetcher(
    url: str, waits: list[float], retry: Retry, *, jitter: float = 0.0, told: bool = False
) -> Fetcher:
    """Return what fetches without waiting, and notes the waits."""
    return Fetcher(url, connect(url, retry), retry, waits.append, lambda: jitter, told=told)


@pytest.mark.parametrize("status", [503, 429])
def test_a_server_that_asks_to_wait_two_seconds_for_two_hundred_is_waited_for(status: int) -> None:
    """Though each of its answers would be a failed try, and ten of them would be enough."""
    waits: list[float] = []
    with busy([(status, b"retry-after: 2\n")] * 100) as url:
        assert b"".join(fetcher(url, waits, Retry()).stream("shard")) == BODY
    assert waits == [2.0] * 100


@pytest.mark.parametrize(
    "body", [b"", b"busy\n", b"busy\nretry-after: 2\n", b"retry-after: Monday\n", b"retry-after:"]
)
def test_a_refusal_that_names_no_seconds_is_a_failed_try(body: bytes) -> None:
    """As those above are to a reader that does not look into the body."""
    waits: list[float] = []
    with busy([(503, body)] * 100) as url, pytest.raises(RemoteError, match="tried 10 times"):
        fetcher(url, waits, Retry(), jitter=1.0, told=True).read("shard", 0, 1)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6])


class Timed:
    """A server that is down for a while, and a clock that only waits move."""

    def __init__(self, down: float, *, asked: int | None = None) -> None:
        self.now, self.down, self.asked = 0.0, down, asked
        self.waits: list[float] = []

    def get(self, name: str, start: int, stop: int | None, etag: str | None) -> Answer:
        if self.now < self.down:
            raise Failed("refused", asked=self.asked)
        return Answer(len(BODY), None, iter([BODY]))

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def fetcher(self) -> Fetcher:
        return Fetcher(
            "http://x/s", self, Retry(), self.sleep, uniform=lambda: 1.0, clock=lambda: self.now
        )


def test_after_five_seconds_of_silence_it_is_said_once_that_it_goes_on() -> None:
    """In the middle of a wait: the next try comes later, as one may that hangs."""
    server = Timed(down=20.0)
    reader, said = server.fetcher(), "http://x/s does not answer, trying again for up to 180 s"
    with pytest.warns(UserWarning, match=said) as warned:
        assert b"".join(reader.stream("shard")) == BODY
    assert server.waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 1.9, 1.3, 6.4, 12.8])
    server.down = server.now + 20
    assert b"".join(reader.stream("shard")) == BODY  # a second warning would be an error
    assert len(warned) == 1


def test_a_wait_that_ends_before_is_quiet_and_so_is_one_that_the_server_asked_for() -> None:
    for server in (Timed(down=3.0), Timed(down=300.0, asked=20)):
        assert b"".join(server.fetcher().stream("shard")) == BODY  # warnings are errors
        assert server.now >= server.down


def test_a_command_says_it_as_a_warning_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "QUIET_SECONDS", 0.0)
    with busy([(500, b"")]) as url, warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = run(capsys, "inspect", url, "--json")
    said = f"{url} does not answer, trying again for up to 180 s"
    assert err.startswith(f"warning: {said}\nerror[VS")
    assert (code, json.loads(out)["warnings"]) == (3, [said])


def test_only_busy_servers_are_believed_to_come_back() -> None:
    cause = "Server returned non-2xx status code: {}: retry-after: 2"
    assert failed_status(503, cause.format("503 Service Unavailable")).asked == 2
    assert failed_status(500, cause.format("500 Internal Server Error")).asked is None
    assert failed_status(400, cause.format("400 Bad Request")).most == 1


def test_a_wait_is_at_most_half_a_minute_and_a_second_of_chance() -> None:
    waits: list[float] = []
    with busy([(503, b"retry-after: 86400\n"), (503, b"retry-after: 7\n")]) as url:
        assert fetcher(url, waits, Retry(), jitter=0.5).read("shard", 0, len(BODY)) == BODY
    assert waits == [30.5, 7.5]


def test_ten_minutes_of_waits_in_a_row_are_enough() -> None:
    waits: list[float] = []
    said = pytest.raises(RemoteError, match=r"asked to wait 620 s in all: .*retry-after: 20")
    with busy([(503, b"retry-after: 20\n")] * 100) as url, said:
        fetcher(url, waits, Retry()).read("shard", 0, 1)
    assert waits == [20.0] * 30


def test_waits_and_failures_are_counted_apart() -> None:
    """Two failures less than are borne, with waits between them, and the file comes."""
    waits: list[float] = []
    answers = [(503, b"retry-after: 3\n"), (500, b""), (503, b"retry-after: 3\n"), (500, b"")]
    with busy(answers) as url:
        got = fetcher(url, waits, replace(IMPATIENT, tries=3)).read("shard", 0, len(BODY))
    assert got == BODY
    assert waits == [3.0, 0.0, 3.0, 0.0]


def test_bytes_that_come_begin_the_ten_minutes_anew() -> None:
    """An object in two halves, with eight minutes of waits before each."""
    part = bytes(1 << 20)

    class Server:
        left = 16

        def get(self, name: str, start: int, stop: int | None, etag: str | None) -> _Half:
            self.left -= 1
            if self.left >= 0:
                raise Failed("busy", asked=30)
            self.left = 16
            return _Half(start)

    class _Half:
        size, etag = 2 * len(part), None

        def __init__(self, start: int) -> None:
            self.chunks = self.halves(start)

        def halves(self, start: int) -> Iterator[bytes]:
            yield part
            if not start:
                raise Failed("cut")

    waits: list[float] = []
    server: Any = Server()
    reader = Fetcher("http://x", server, Retry(), waits.append, lambda: 0.0)
    assert b"".join(reader.stream("shard")) == 2 * part
    assert waits == [30.0] * 16 + [0.0] + [30.0] * 16


def test_real_waits_are_longer_than_the_patience_of_a_reader(tmp_path: Path) -> None:
    """Through the cache, as shards are read: three seconds, where one of silence is too much."""
    retry = Retry(tries=2, total_seconds=1.0, first_seconds=0.001)
    answers = [(503, b"retry-after: 1\n")] * 3 + [(500, b"")]
    with busy(answers) as url:
        cache = CacheSettings(directory=tmp_path / "cache", limit_bytes=1 << 20)
        files = pickle.loads(pickle.dumps(RemoteFiles(url, cache=cache, retry=retry)))
        descriptor = files.open(Path("shard"), len(BODY), hashlib.sha256(BODY).hexdigest())
        assert os.pread(descriptor, 100, 0) == BODY
        os.close(descriptor)
    assert answers == []
