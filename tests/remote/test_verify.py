"""A store at a URL is proved whole as its readers see it, or what is wrong is named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import viewstore
from tests.remote.servers import plain_server, ranged_server, upload
from tests.viewstore.serve.servers import serving
from viewstore.cli.main import root
from viewstore.cli.mend import LOOKED_AT
from viewstore.errors import ConfigError, RemoteError
from viewstore.files.fetch import Retry
from viewstore.format.manifest import blob_name
from viewstore.store.store import Store
from viewstore.store.verify import Level
from viewstore.store.verify_remote import verify_remote

IMPATIENT = Retry(first_seconds=0.001, longest_seconds=0.01, stall_seconds=1.0)
LEVELS: tuple[Level, ...] = ("quick", "deep", "content")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["verify", *arguments], standalone_mode=False)


def flip(path: Path, place: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")


def kinds(url: str, level: Level) -> list[tuple[str, int | None, str]]:
    faults = verify_remote(url, level=level, retry=IMPATIENT)
    return [(fault.view_set, fault.shard, fault.kind) for fault in faults]


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_store_has_no_fault_and_nothing_is_kept_of_it(
    s3_url: str, level: Level, cache: Path
) -> None:
    done = run(s3_url, f"--{level}")
    said = f"{s3_url}: {LOOKED_AT}" if level == "quick" else f"{s3_url} is whole"
    assert (done.return_value, done.output) == (0, f"{said}\n")
    assert not cache.exists()


def test_a_server_without_ranges_is_enough(digits: Store) -> None:
    with plain_server(digits.root) as url:
        assert [kinds(url, level) for level in LEVELS] == [[], [], []]


Harm = Callable[[Path], object]


@pytest.mark.parametrize(
    ("harm", "quick", "deep"),
    [
        (Path.unlink, "missing", "missing"),
        (shorten, "size", "hash"),
        (lengthen, "size", "hash"),
        (lambda path: flip(path, 3000), None, "hash"),
    ],
)
@pytest.mark.parametrize("role", ["views", "params"])
def test_what_is_wrong_with_a_shard_is_named(
    digits: Store, tmp_path: Path, harm: Harm, quick: str | None, deep: str, role: str
) -> None:
    shutil.copytree(digits.root, tmp_path / "store")
    blob = digits.view_sets["hard"].shards[2].entry.file(role)
    harm(tmp_path / "store" / "views" / "hard" / blob.name)
    with ranged_server(tmp_path / "store") as url:
        assert kinds(url, "quick") == ([("hard", 2, quick)] if quick else [])
        assert kinds(url, "deep") == [("hard", 2, deep)]


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("manifest.json", ("manifest", None, "record")),
        ("sources/sources.json", ("source", None, "record")),
        ("views/hard/plan.json", ("hard", None, "plan")),
        ("views/hard/index.json", ("hard", None, "derived")),
        ("views/hard/index/members.npy", ("hard", None, "derived")),
        ("views/hard/stats.json", ("hard", None, "derived")),
    ],
)
def test_a_damaged_record_is_named_and_the_other_view_set_is_proved_anyway(
    digits: Store, tmp_path: Path, file: str, fault: tuple[str, None, str]
) -> None:
    shutil.copytree(digits.root, tmp_path / "store")
    flip(tmp_path / "store" / file, 100)
    other = digits.view_sets["digits"].shards[0].path.relative_to(digits.root)
    (tmp_path / "store" / other).unlink()
    with ranged_server(tmp_path / "store") as url:
        found = kinds(url, "quick")
    assert fault in found
    assert (("digits", 0, "missing") in found) == (file != "manifest.json")
    assert len(found) == 1 + (file != "manifest.json")


def test_a_damaged_chunk_of_the_zarr_arrays_is_found_deep(digits: Store, tmp_path: Path) -> None:
    shutil.copytree(digits.root, tmp_path / "store")
    flip(tmp_path / "store" / "views" / "hard" / "params.zarr" / "flip" / "c" / "1" / "0", 0)
    with ranged_server(tmp_path / "store") as url:
        assert kinds(url, "quick") == []
        assert kinds(url, "deep") == [("hard", None, "derived")]


def test_the_zarr_arrays_may_all_be_missing_but_not_some_of_them(
    digits: Store, tmp_path: Path
) -> None:
    """Readers do not ask for them, and servers of stores do not serve them."""
    shutil.copytree(digits.root, tmp_path / "store")
    arrays = tmp_path / "store" / "views" / "hard" / "params.zarr"
    (arrays / "flip" / "c" / "1" / "0").unlink()
    with ranged_server(tmp_path / "store") as url:
        assert kinds(url, "deep") == [("hard", None, "derived")]
        for each in (tmp_path / "store").glob("views/*/params.zarr"):
            shutil.rmtree(each)
        assert kinds(url, "quick") == kinds(url, "deep") == []


def test_what_serve_leaves_out_is_asked_for_once(digits: Store) -> None:
    """One file of each view set, and none of the others that its arrays have."""
    arrays = [
        file
        for entry in digits.manifest.view_sets.values()
        for file in entry.derived
        if file.startswith("params.zarr/")
    ]
    with serving(f"s={digits.root}", "-v") as server:
        assert kinds(f"{server.url}v1/stores/s", "deep") == []
        server.stop()
    asked = [line.split()[2] for line in server.log if " 404 " in line]
    assert sorted(asked) == [
        f"/v1/stores/s/views/{name}/params.zarr/zarr.json" for name in sorted(digits.view_sets)
    ]
    assert len(arrays) > 5 * len(asked)


def with_pack_of_another_shard(root: Path) -> None:
    """Have shard 1 name the pack of shard 2; every digest on the way there is right."""
    store = viewstore.open(root)
    views = store.view_sets["hard"]
    pack = views.index.shards[2].file("params")
    name = blob_name(1, pack.sha256, "params")
    shutil.copy(views.paths.root / pack.name, views.paths.root / name)
    first = views.index.shards[1]
    files = [replace(pack, name=name) if blob.role == "params" else blob for blob in first.files]
    shards = list(views.index.shards)
    shards[1] = replace(first, files=tuple(files), columns=shards[2].columns)
    index = replace(views.index, shards=tuple(shards)).pack()
    views.paths.index.write_bytes(index)
    entry = store.manifest.view_sets["hard"]
    derived = {**entry.derived, "index.json": (len(index), hashlib.sha256(index).hexdigest())}
    changed = {**store.manifest.view_sets, "hard": replace(entry, derived=derived)}
    store.paths.manifest.write_bytes(replace(store.manifest, view_sets=changed).pack())


def test_a_shard_that_does_not_agree_with_itself_is_found_deep(
    digits: Store, tmp_path: Path
) -> None:
    shutil.copytree(digits.root, tmp_path / "store")
    with_pack_of_another_shard(tmp_path / "store")
    with ranged_server(tmp_path / "store") as url:
        assert kinds(url, "quick") == []
        found = kinds(url, "deep")
    assert found[0] == ("hard", 1, "member")
    assert set(found[1:]) == {("hard", None, "derived")}  # its zarr arrays


def test_the_command_names_the_fault_by_its_url_and_exits_with_1(
    digits: Store, tmp_path: Path, s3_endpoint: str
) -> None:
    shutil.copytree(digits.root, tmp_path / "store")
    path = digits.view_sets["hard"].shards[1].path.relative_to(digits.root)
    flip(tmp_path / "store" / path, 3000)
    url = upload(tmp_path / "store", "damaged", s3_endpoint)
    done = run(url)
    assert done.return_value == 1
    assert "hard shard 1: hash: file does not match its sha256" in done.output
    assert f"({url}/{path})" in done.output
    assert done.output.endswith(
        f"1 fault\nhard: aws s3 rm {url}/views/hard/commits/000001.json && "
        f"viewstore build --generator simclr --out {url} --view-set hard\n"
    )
    assert run(url, "--view-set", "digits").return_value == 0
    assert "did you mean" in str(run(url, "--view-set", "digit").exception)


def test_a_repair_of_a_url_is_refused_before_anything_is_read() -> None:
    done = run("https://nowhere.invalid/views", "--repair")
    assert isinstance(done.exception, ConfigError)
    assert "a store at a URL cannot be repaired" in str(done.exception)


def test_no_store_and_no_server_are_errors_not_faults(tmp_path: Path) -> None:
    with ranged_server(tmp_path) as url, pytest.raises(ConfigError, match="has no manifest"):
        list(verify_remote(url, retry=IMPATIENT))
    once = Retry(tries=1)
    with pytest.raises(RemoteError, match="did not give manifest"):
        list(verify_remote("http://127.0.0.1:9/views", retry=once))
