"""The stores that tests of reading, showing and exporting share. Nobody changes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generators.latent_world import write_networks
from tests.viewstore.pages import HOSTILE
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.store.store import Store, open_store


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty smooth random pictures of three classes."""
    return write_npz(tmp_path_factory.mktemp("source") / "images.npz")


@pytest.fixture(scope="session", params=["raw", "jpg", "png", "params"])
def store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Store:
    """A small store, once for each way to keep views."""
    folder = tmp_path_factory.mktemp("export")
    build_small(folder / "s", write_npz(folder / "images.npz"), codec=request.param)
    return open_store(folder / "s")


@pytest.fixture(scope="session")
def raw_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A small store of raw views."""
    folder = tmp_path_factory.mktemp("raw")
    build_small(folder / "s", write_npz(folder / "images.npz"))
    return open_store(folder / "s")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two view sets of crops."""
    out = tmp_path_factory.mktemp("look") / "digits"
    for name, views in (("simclr", 4), ("wide", 12)):
        settings = {"views": views}
        request = BuildRequest(generator="simclr", out=out, settings=settings, limit=80, workers=1)
        build(replace(request, view_set=name))
    return out


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with W-search views of a random generator: few of them converge."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("searched")
    files = write_networks(folder, samples=6)
    build(
        BuildRequest(
            generator="w-search",
            out=folder / "store",
            source=str(folder / "images.npz"),
            settings={"views": 3, "eps1": 0.3, "eps2": 0.4, "max_steps": 25, "slots": 6},
            files=files,
        )
    )
    torch.set_num_threads(threads)
    return folder / "store"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose keys and labels are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "images" / "<script>alert(2)<"
    source.mkdir(parents=True)
    for number, name in enumerate((HOSTILE, "b'\"&amp;.png", "long" * 50 + ".png")):
        pixels = np.full((40, 90, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(source / name)
    build(
        BuildRequest(
            generator="simclr",
            out=folder / "store",
            source=str(folder / "images"),
            settings={"views": 2, "height": 100, "width": 100},
        )
    )
    return folder / "store"
