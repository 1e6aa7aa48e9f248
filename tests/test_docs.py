"""The code in the guides runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.loaders.stores import digits_store

LOADING = Path(__file__).parents[1] / "docs" / "loading.md"


@pytest.mark.filterwarnings("ignore::Warning:lightning")
def test_every_block_of_the_loading_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and in one namespace, as a reader would run them."""
    pytest.importorskip("lightning", reason="the guide shows the extra lightning")
    digits_store(tmp_path / "views")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", LOADING.read_text(), re.DOTALL)
    assert len(blocks) > 9
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(LOADING), "exec"), names)
    assert [name for name in ("loader", "dataset", "data") if name not in names] == []
