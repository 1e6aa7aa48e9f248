"""Running commands in this process."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from viewstore.cli import main as cli


def invoke(*arguments: object) -> Result:
    """Run a command; its errors are raised, not reported."""
    return CliRunner().invoke(cli.root, list(map(str, arguments)), catch_exceptions=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the program; return its exit code, and what it wrote to stdout and to stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err
