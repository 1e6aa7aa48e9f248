"""The commands that look at a store look at a URL too."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from viewstore.cli.main import root
from viewstore.store.store import Store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("VIEWSTORE_CACHE__LIMIT", "10MB")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["stats", "--column", "crop_box"], ["inspect", "0007"]]
)
def test_commands_say_the_same_of_a_url(
    s3_url: str, digits: Store, arguments: list[str], cache: Path
) -> None:
    command, *rest = arguments
    remote = CliRunner().invoke(root, [command, s3_url, *rest], catch_exceptions=False)
    local = CliRunner().invoke(root, [command, str(digits.root), *rest], catch_exceptions=False)
    assert remote.output.replace(s3_url, str(digits.root)) == local.output
    assert len(local.output) > 200
    if rest == ["0007"]:  # a view's own params; what is said of the store stands in its records
        assert list((cache / "obj").iterdir())


def test_stats_of_a_url_say_all_but_what_this_machine_takes_for_it(
    s3_url: str, digits: Store, cache: Path
) -> None:
    remote = CliRunner().invoke(root, ["stats", s3_url], catch_exceptions=False)
    local = CliRunner().invoke(root, ["stats", str(digits.root)], catch_exceptions=False)
    assert remote.exit_code == 0
    assert len(remote.output) > 200
    assert set(remote.output.splitlines()) < set(local.output.splitlines())


def test_pictures_of_a_remote_store_are_those_of_the_local_one(
    s3_url: str, digits: Store, tmp_path: Path
) -> None:
    sheets = []
    for number, store in enumerate((s3_url, str(digits.root))):
        out = tmp_path / f"{number}.png"
        CliRunner().invoke(root, ["inspect", store, "--sheet", str(out)], catch_exceptions=False)
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1]
