"""The code of the page on remote stores runs, on a store in a bucket."""

from __future__ import annotations

import re
from pathlib import Path

from tests.remote.bucket_builds import Place, build_into

PAGE = (Path(__file__).parents[2] / "docs" / "remote.md").read_text()


def test_every_python_block_of_the_page_runs(place: Place, source: str) -> None:
    """The view set w-search stands for one that networks make, and batches are smaller."""
    for view_set in ("simclr", "w-search"):
        build_into(place.url, source, view_set=view_set)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        here = block.replace("s3://bucket/views", place.url).replace("=512", "=2")
        exec(compile(here, "docs/remote.md", "exec"), names)
    batch = next(iter(names["loader"]))  # type: ignore[call-overload]
    assert [len(view.pixels) for view in batch.views] == [2, 2, 2]
