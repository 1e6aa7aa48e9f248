"""The pages for one person: an address that works once, and the cookie that it gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.viewstore.commands import run
from tests.viewstore.pages import Page
from tests.viewstore.serve.servers import Server, serving
from viewstore.serve.guard import SECURITY
from viewstore.store.store import Store


@pytest.fixture
def alone(raw_store: Store) -> Iterator[Server]:
    with serving(raw_store.root, "--web", "-v", command="inspect") as server:
        yield server


def printed(server: Server) -> str:
    """Return the path of the address that was printed."""
    found = re.search(r"https?://[^/]+(/\S*auth\?t=\S+)", server.log[0])
    assert found is not None, server.log
    return found[1]


def test_the_address_works_once_and_gives_a_cookie(alone: Server, raw_store: Store) -> None:
    address = printed(alone)
    secret = address.partition("t=")[2]
    assert len(secret) == 43  # 32 bytes
    for path in ("/", f"/inspect/{raw_store.name}/", "/v1/stores", "/metrics", "/auth", "/auth?t="):
        assert alone.ask(path).status == 401, path
    for _ in range(2):  # a program that looks at links does not use it up
        looked = alone.ask(address, method="HEAD")
        assert (looked.status, "set-cookie" in looked.headers) == (200, False)
    assert alone.ask(f"/auth?t={secret[:-1]}").status == 401
    answer = alone.ask(address)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith(f"viewstore-{alone.port}=")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert secret not in cookie
    assert answer.headers.items() >= SECURITY.items()
    assert alone.ask(address).status == 401
    mine = {"Cookie": f"other=1; {cookie}"}
    assert alone.ask(f"/inspect/{raw_store.name}/", mine).status == 200
    assert alone.ask("/metrics", mine).status == 200
    assert alone.ask(address, mine).status == 200  # the same browser, once more
    for wrong in (f"{cookie}x", cookie[:-1], f"viewstore-{alone.port}={secret}", f"x{cookie}"):
        assert alone.ask("/v1/stores", {"Cookie": wrong}).status == 401
    assert alone.ask("/v1/stores", {"Authorization": f"Bearer {secret}"}).status == 401
    assert alone.stop() == 0
    assert not any(secret in line or cookie in line for line in alone.log[1:])


def test_the_answer_is_a_page_that_goes_on_by_itself(alone: Server, raw_store: Store) -> None:
    """A redirect would lose the cookie where the address was followed from elsewhere."""
    page = Page(alone.ask(printed(alone)).body)
    target = f"inspect/{raw_store.name}/"
    assert ("meta", {"http-equiv": "refresh", "content": f"0; url={target}"}) in page.tags
    assert ("a", {"href": target}) in page.tags


def test_a_root_path_is_that_of_the_cookie(raw_store: Store) -> None:
    with serving(raw_store.root, "--web", "--root-path", "/my/views", command="inspect") as server:
        address = printed(server)
        assert address.startswith("/my/views/auth?t=")
        answer = server.ask(address)
        assert "Path=/my/views;" in answer.headers["set-cookie"]


def test_a_store_at_a_url_has_pages_too(raw_store: Store) -> None:
    with serving(raw_store.root) as origin:
        url = f"{origin.url}v1/stores/{raw_store.name}"
        with serving(url, "--web", command="inspect") as server:
            cookie = server.ask(printed(server)).headers["set-cookie"].partition(";")[0]
            page = server.ask(f"/inspect/{raw_store.name}/", {"Cookie": cookie})
            assert (page.status, raw_store.store_id[:16].encode() in page.body) == (200, True)


def test_no_one_else_sees_the_address_of_an_opened_browser(
    raw_store: Store, tmp_path: Path
) -> None:
    """A browser is started with a file that only its user can read, never with the secret."""
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nstat -c %a "$(dirname "${{1#file://}}")" > {seen}.mode\n'
                       f'cat "${{1#file://}}" > {seen}.page\necho "$@" > {seen}\n')  # fmt: skip
    browser.chmod(0o700)
    environment = {"BROWSER": str(browser)}
    with serving(
        raw_store.root, "--web", "--open", command="inspect", environment=environment
    ) as server:
        secret = printed(server).partition("t=")[2]
        server.ask("/healthz")
        assert server.stop() == 0
    assert secret not in seen.read_text()
    assert f"auth?t={secret}" in Path(f"{seen}.page").read_text()
    assert Path(f"{seen}.mode").read_text() == "700\n"
    assert not Path(seen.read_text().strip().removeprefix("file://")).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--open"], "--open needs --web"),
        (
            ["--port", "0", "--root-path", "/x"],
            "--port and --root-path needs --web",
        ),
        (["--web", "0001"], "--web does not go with KEY"),
        (["--web", "--get", "/"], "--web does not go with --get"),
        (["--web", "--sheet", "x.png", "-n", "3"], "--web does not go with"),
        (["--web", "--root-path", "x"], "--root-path must be a path like /views"),
    ],
)
def test_options_without_effect_are_refused(
    raw_store: Store, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "inspect", raw_store.root, *options)
    assert (code, said in err) == (2, True), err


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "inspect", "nowhere", "--web")
    assert (code, "error[VS202]: there is no folder nowhere" in err) == (2, True)
