"""How a server ends: what runs goes on, nothing new begins, and a second signal ends it now."""

from __future__ import annotations

import hashlib
import signal

import pytest

from tests.viewstore.serve.servers import Server, serving, until
from tests.viewstore.serve.streams import Stream, shard_of
from viewstore.store.store import Store


def wait_until_draining(server: Server) -> None:
    until(lambda: server.ask("/readyz").status == 503)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_running_stream_ends_whole_and_nothing_new_begins(
    large: Store, number: signal.Signals
) -> None:
    path, sha256 = shard_of(large)
    with serving(large.root) as server:
        stream = Stream(server, path)
        server.signal(number)
        wait_until_draining(server)
        assert server.ask("/readyz").body == b"retry-after: 5\nthe server is about to end\n"
        for refused in (path, "/v1/stores", f"/inspect/{large.name}/", "/"):
            answer = server.ask(refused)
            assert (answer.status, answer.body) == (503, b"retry-after: 5\n"), refused
            assert answer.headers["retry-after"] == "5"
            assert answer.headers["connection"] == "close"
        assert server.ask("/healthz").status == 200
        assert b"viewstore_streams 1.0\n" in server.ask("/metrics").body
        body, length = stream.rest()
        assert len(body) == length
        assert hashlib.sha256(body).hexdigest() == sha256
        assert server.wait() == 0


def test_a_second_signal_ends_it_now(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root, "--drain", "1e6") as server:
        stream = Stream(server, path)
        server.signal(signal.SIGTERM)
        wait_until_draining(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        body, length = stream.rest()
        assert len(body) < length


def test_what_runs_too_long_is_cut(large: Store) -> None:
    path, _ = shard_of(large)
    with serving(large.root, "--drain", "0.2") as server:
        stream = Stream(server, path)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        body, length = stream.rest()
        assert len(body) < length


def test_a_connection_that_waits_does_not_hold_it_up(large: Store) -> None:
    with serving(large.root, "--drain", "1e6") as server:
        connection = server.connection()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        idle = server.connection()
        idle.connect()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        connection.close()
        idle.close()


def test_the_last_bytes_of_an_answer_are_sent_before_it_ends(large: Store) -> None:
    """The application is done once the last chunk is with the socket, which may hold it long."""
    path, sha256 = shard_of(large)
    with serving(large.root) as server:
        stream = Stream(server, path)

        def is_sent() -> bool:
            stream.read(1 << 16)
            return b"viewstore_streams 0.0\n" in server.ask("/metrics").body

        stream.read(20 << 20)
        until(is_sent)
        server.signal(signal.SIGTERM)
        body, length = stream.rest()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (length, sha256)
        assert server.wait() == 0


def test_pages_for_one_person_do_not_drain(large: Store) -> None:
    with serving(large.root, "--web", command="inspect") as server:
        server.signal(signal.SIGINT)
        assert server.wait() == 0
