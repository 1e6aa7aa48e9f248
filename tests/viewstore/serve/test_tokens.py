"""Tokens that the server accepts: their form, their file, and how they rotate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.viewstore.commands import run
from tests.viewstore.serve.conftest import TOKEN
from tests.viewstore.serve.servers import Server, serving
from viewstore.errors import ConfigError
from viewstore.serve.tokens import FixedTokens, TokenFile
from viewstore.store.store import Store

SECOND = "second-token-0123456789"


def status_of(server: Server, token: str) -> int:
    return server.ask("/v1/stores", {"Authorization": f"Bearer {token}"}).status


def test_each_of_several_tokens_is_accepted() -> None:
    tokens = FixedTokens(f"{TOKEN}\r\n\n  {SECOND}  \n".encode(), "x")
    assert [tokens.accepts(each.encode()) for each in (TOKEN, SECOND)] == [True, True]
    for wrong in (b"", b"\n", TOKEN[:-1].encode(), f"{TOKEN}\n{SECOND}".encode(), b"\xff" * 30):
        assert not tokens.accepts(wrong)


@pytest.mark.parametrize(
    "text", ["", " \n \n", "short-token-123", "a token of two words", "tök€n-tök€n-tök€n-tök€n"]
)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FixedTokens(f"{text}\n".encode(), "tokens")
    assert (caught.value.code, caught.value.where) == ("VS602", "tokens")
    told = f"{caught.value} {caught.value.why} {caught.value.fix}"
    assert not text.strip() or text not in told


def remove(path: Path) -> None:
    path.unlink()


def open_to_others(path: Path) -> None:
    path.chmod(0o640)


def empty(path: Path) -> None:
    path.write_text("\n")


def malform(path: Path) -> None:
    path.write_text("short\n")


def lengthen(path: Path) -> None:
    path.write_text(f"{SECOND}\n" * 4000)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


BROKEN = [remove, open_to_others, empty, malform, lengthen, make_folder, make_pipe]


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_token_file_that_is_not_right_stops_serve(
    token_file: Path,
    raw_store: Store,
    break_it: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_it(token_file)
    code, _, err = run(capsys, "serve", raw_store.root, "--token-file", token_file, "--port", 0)
    assert (code, "error[VS602]" in err, str(token_file) in err) == (2, True, True)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_that_only_its_owner_reads_is_taken(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    assert TokenFile(token_file).accepts(TOKEN.encode())


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_file_that_breaks_later_leaves_the_tokens_from_before(
    token_file: Path, break_it: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokenFile(token_file)
    break_it(token_file)
    for _ in range(3):
        assert tokens.accepts(TOKEN.encode())
    assert len(caplog.messages) == 1  # said once, not for each request
    assert "the tokens from before stay" in caplog.text
    if token_file.is_dir():
        token_file.rmdir()
    token_file.unlink(missing_ok=True)
    token_file.touch(mode=0o600)
    token_file.write_text(f"{SECOND}\n")
    assert (tokens.accepts(TOKEN.encode()), tokens.accepts(SECOND.encode())) == (False, True)


def test_tokens_rotate_while_the_server_runs(raw_store: Store, token_file: Path) -> None:
    with serving(raw_store.root, "--token-file", token_file) as server:
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (200, 401)
        token_file.write_text(f"{TOKEN}\n{SECOND}\n")
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (200, 200)
        new = token_file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(f"{SECOND}\n")
        new.replace(token_file)
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (401, 200)
        token_file.write_text("short\n")
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (401, 200)
        server.stop()
        assert sum("the tokens from before stay" in line for line in server.log) == 1


def test_the_environment_gives_a_token_where_no_file_does(
    raw_store: Store, token_file: Path
) -> None:
    with serving(raw_store.root, environment={"VIEWSTORE_TOKEN": SECOND}) as server:
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (401, 200)
    with serving(
        raw_store.root, "--token-file", token_file, environment={"VIEWSTORE_TOKEN": SECOND}
    ) as server:
        assert (status_of(server, TOKEN), status_of(server, SECOND)) == (200, 401)


@pytest.mark.parametrize("value", ["", "short"])
def test_a_variable_that_holds_no_token_stops_serve(
    raw_store: Store,
    value: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VIEWSTORE_TOKEN", value)
    code, _, err = run(capsys, "serve", raw_store.root, "--port", 0)
    assert (code, "error[VS602]" in err, "VIEWSTORE_TOKEN" in err) == (2, True, True)
