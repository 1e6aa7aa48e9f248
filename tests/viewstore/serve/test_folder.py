"""A file that is not what the records say is an error that says why, and no other file is sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.viewstore.serve.requests import ask
from tests.viewstore.serve.servers import Server, serving, until
from viewstore.errors import FormatError
from viewstore.format.manifest import Manifest
from viewstore.format.records import ENVELOPE, seal
from viewstore.serve import local
from viewstore.serve.folder import KeptFiles
from viewstore.serve.local import LocalGeneration


@pytest.fixture
def shard(live: Path) -> Path:
    return next((live / "views" / "simclr").glob("000000-*.tar"))


@pytest.fixture
def own(live: Path) -> Iterator[Server]:
    with serving(live) as running:
        assert ask(running, "/v1/stores/s/manifest.json").status == 200
        yield running


def moved(path: Path) -> Path:
    """Move a file to a place outside of the store."""
    return path.rename(path.parents[3] / path.name)


def behind_links(shard: Path) -> None:
    shard.symlink_to(moved(shard))


def behind_a_linked_folder(shard: Path) -> None:
    folder = shard.parent
    folder.symlink_to(folder.rename(shard.parents[3] / "elsewhere"))


def without_the_end(shard: Path) -> None:
    shard.chmod(0o644)
    os.truncate(shard, shard.stat().st_size - 1)


def with_more(shard: Path) -> None:
    shard.chmod(0o644)
    with shard.open("ab") as file:
        file.write(b"x")


def as_a_pipe(shard: Path) -> None:
    shard.unlink()
    os.mkfifo(shard)


def as_a_folder(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (behind_links, "is a symbolic link"),
        (behind_a_linked_folder, "lies behind a symbolic link, or below what is no folder"),
        (without_the_end, "bytes, the records say"),
        (with_more, "bytes, the records say"),
        (as_a_pipe, "is not a regular file"),
        (as_a_folder, "is not a regular file"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_shard_that_is_not_the_listed_file_is_an_error_with_its_reason(
    own: Server, live: Path, shard: Path, harm: Callable[[Path], object], why: str
) -> None:
    name = str(shard.relative_to(live))
    harm(shard)
    reply = ask(own, f"/v1/stores/s/{name}", Range="bytes=0-9")
    first, *others = reply.body.decode().split("\n")
    assert (reply.status, others) == (500, [""])
    assert first.startswith(name)
    assert why in first
    said = f"error: '{name}' of store s is not sent: {first}\n"
    until(lambda: own.log[2:] == [said])
    assert ask(own, f"/v1/stores/s/{name}", "HEAD").status == 500
    assert ask(own, "/v1/stores/s/manifest.json").status == 200


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "sources/sources.json", "views/simclr/plan.json", "views/simclr/index.json"],
)
def test_a_store_whose_records_are_links_is_not_served(live: Path, name: str) -> None:
    path = live / name
    path.symlink_to(path.rename(live.parent / "record.json"))
    with serving(live) as server:
        for asked in ("manifest.json", "sources/sources.json"):
            reply = ask(server, f"/v1/stores/s/{asked}")
            assert reply.status == 500
            assert b"is a symbolic link" in reply.body


def test_a_store_that_is_itself_behind_a_link_is_served(live: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(live)
    with serving(f"link={tmp_path / 'link'}") as server:
        assert ask(server, "/v1/stores/link/manifest.json").status == 200


def test_a_file_that_becomes_shorter_while_it_is_read_is_broken_off(
    live: Path, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "CHUNK_BYTES", 512)
    generation = LocalGeneration(live)
    listed = generation.files[str(shard.relative_to(live))]

    async def cut() -> None:
        body = generation.body(listed, 0, listed.size)
        await anext(body)
        shard.chmod(0o644)
        os.truncate(shard, 1024)
        async for _ in body:
            pass

    with pytest.raises(FormatError, match="became shorter"):
        asyncio.run(cut())


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "label-0000000000000000.npy"])
def test_a_column_whose_name_does_not_follow_from_its_digest_is_no_name(
    live: Path, name: str
) -> None:
    record = json.loads((live / "sources" / "sources.json").read_bytes())
    record["columns"]["label"][0] = name
    fields = {each: record[each] for each in record if each not in ENVELOPE}
    data = seal(record["kind"], fields)
    (live / "sources" / "sources.json").chmod(0o644)
    (live / "sources" / "sources.json").write_bytes(data)
    manifest = Manifest.unpack((live / "manifest.json").read_bytes())
    manifest = replace(manifest, sources_id=json.loads(data)["digest"])
    (live / "manifest.json").write_bytes(manifest.pack())
    with pytest.raises(FormatError, match="source column label must not be named"):
        LocalGeneration(live)


def test_nothing_above_the_folder_can_be_named(live: Path, tmp_path: Path) -> None:
    (live / "manifest.json").rename(tmp_path / "secret")
    files = KeptFiles(live / "views")
    with pytest.raises(FormatError, match="is missing"):
        files.opened("../manifest.json")
    shutil.copy(tmp_path / "secret", live / "views" / "here")
    assert files.opened("here").number > 0
