"""Credentials come from the environment alone, as docs/remote.md says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import viewstore
from tests.remote.servers import s3_environment, serving
from tests.viewstore.commands import run
from viewstore.errors import ConfigError
from viewstore.files.cache_settings import CacheSettings
from viewstore.files.credentials import no_credentials

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


CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS")


@contextlib.contextmanager
def machine(status: int, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[list[str]]:
    """Without credentials, on a machine that gives none: yield the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT

        def log_message(self, *args: Any) -> None:  # noqa: ANN401
            pass

    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    with serving(Handler) as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("inspect",),
        ("verify",),
        ("build", "--generator", "simclr", "--source", "digits", "--plan", "--out"),
        ("jobfile", "slurm", "--view-set", "simclr", "--slices", "4"),
    ],
    ids=lambda words: words[0],
)
def test_without_credentials_it_is_said_which_are_wanted(
    words: tuple[str, ...],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with machine(status, monkeypatch, tmp_path) as asked:
        code, _, err = run(capsys, *words, "s3://bucket/views")
    assert code == 3
    lines = err.splitlines()
    assert lines[:2] == [
        "error[VS401]: no credentials for s3://bucket were found",
        "  where: s3://bucket/views",
    ]
    assert lines[2].startswith(
        "  why:   AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; ~/.aws and AWS_PROFILE "
        "are not read; and the role of this machine, asked at 127.0.0.1:"
    )
    assert lines[2].endswith(", gave none")
    assert lines[3].startswith(
        "  fix:   export AWS_ACCESS_KEY_ID=.. AWS_SECRET_ACCESS_KEY=..; of a profile: "
    )
    assert 0 < len(asked) <= 4  # it is no cause to try for minutes


def test_of_half_the_credentials_the_other_half_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    error = no_credentials("s3://b/x", "PUT http://169.254.169.254/latest/api/token - 403")
    assert error is not None
    assert str(error.why).startswith("AWS_SECRET_ACCESS_KEY is not set; ")


@pytest.mark.parametrize(
    ("url", "cause", "unset", "role"),
    [
        (
            "gs://b/x",
            "GET http://169.254.169.254/computeMetadata/v1/instance/service-accounts: 403",
            "GOOGLE_APPLICATION_CREDENTIALS is not set",
            True,
        ),
        (
            "az://b/x",
            "Generic MicrosoftAzure error: Account must be specified",
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY are not set",
            False,
        ),
        (
            "abfss://b/x",
            "GET http://169.254.169.254/metadata/identity/oauth2/token: 400",
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY are not set",
            True,
        ),
    ],
)
def test_other_clouds_have_other_variables(
    url: str, cause: str, unset: str, role: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CREDENTIALS, "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    error = no_credentials(url, cause)
    assert error is not None
    assert str(error.why).startswith(f"{unset}; ")
    assert ("the role of this machine" in str(error.why)) == role


def test_an_account_that_azure_lacks_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    code, _, err = run(capsys, "status", "az://container/views")
    assert (code, err.splitlines()[0]) == (
        3,
        "error[VS401]: no credentials for az://container were found",
    )


def test_a_refusal_of_the_bucket_itself_is_no_want_of_credentials() -> None:
    cause = "GET http://127.0.0.1:9000/bucket/views/manifest.json - 403 Forbidden"
    assert no_credentials("s3://bucket/views", cause) is None


@pytest.mark.parametrize("address", ["", "127.0.0.1:9", "http://", " http://a", "http://a b", "x"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_an_endpoint_that_is_no_address_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv(name, address)
    for command in ("status", "inspect"):
        code, _, said = run(capsys, command, "s3://bucket/views")
        assert (code, f"{name} is no address of a server" in said) == (2, True), said
