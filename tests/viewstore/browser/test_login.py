"""A browser asks for user and password, and logs in with a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.viewstore.browser.conftest import Open, serving

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-the-browser"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    return path


def test_a_token_as_password_opens_pages_and_their_pictures(
    digits: Path, token_file: Path, visit: Open
) -> None:
    with serving(f"digits={digits}", "--token-file", token_file) as address:
        credentials = {"username": "anyone", "password": TOKEN}
        with visit(f"{address}/inspect/digits/", http_credentials=credentials) as visiting:
            visiting.go("browse")
            page = visiting.page
            page.wait_for_load_state("networkidle")
            assert "Browse" in page.title()
            wide = page.eval_on_selector(".rows img", "img => img.decode().then(() => img.width)")
            assert wide > 0
            assert not visiting.problems


def test_a_wrong_token_opens_nothing(digits: Path, token_file: Path, visit: Open) -> None:
    with serving(f"digits={digits}", "--token-file", token_file) as address:
        credentials = {"username": "anyone", "password": TOKEN[:-1]}
        with visit(f"{address}/inspect/digits/", http_credentials=credentials) as visiting:
            assert visiting.page.goto(visiting.address).status == 401
