"""Credentials come from the environment alone, as docs/remote.md says."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import viewstore
from tests.remote.servers import s3_environment
from viewstore.errors import ConfigError
from viewstore.files.cache_settings import CacheSettings

PROFILE = "[default]\naws_access_key_id = PROFILEKEY\naws_secret_access_key = secret\n"


@pytest.fixture
def signed() -> Iterator[tuple[str, list[str]]]:
    """A server that has nothing, and the signatures of the requests that it got."""
    signatures: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            signatures.append(self.headers["Authorization"])
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", signatures
        server.shutdown()
        thread.join()


def test_profiles_of_the_home_are_not_read(
    signed: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, signatures = signed
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(PROFILE + PROFILE.replace("default", "lab"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        viewstore.open("s3://views/digits", cache=CacheSettings(directory=tmp_path / "cache"))
    assert signatures
    assert all("Credential=testing/" in signature for signature in signatures)
