"""Every row of the tables of objects and requests, asked of a server in a process of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.viewstore.serve.requests import ask, connected, received, send
from tests.viewstore.serve.servers import Server, serving

SERVED = re.compile(
    r"manifest\.json|sources/sources\.json|views/[\w-]+/((plan|index|stats)\.json|index/members\.npy)"
    r"|sources/[a-z0-9_]+-[0-9a-f]{16}\.npy"
    r"|views/[\w-]+/\d{6}-[0-9a-f]{16}(\.tar|\.params|\.[a-z0-9_]+\.chunk)"
)
SINGLE = ["manifest.json", "sources/sources.json", "views/simclr/plan.json"]
DERIVED = ["views/simclr/index.json", "views/simclr/index/members.npy", "views/simclr/stats.json"]


def names(folder: Path) -> list[str]:
    """Return the names of all files of a store."""
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


def shard(folder: Path, suffix: str = ".tar", view_set: str = "simclr") -> str:
    """Return the name of a shard file."""
    return next(
        each
        for each in names(folder)
        if each.startswith(f"views/{view_set}/0") and each.endswith(suffix)
    )


@pytest.fixture(scope="module")
def tar(kinds: Path) -> str:
    return f"/v1/stores/kinds/{shard(kinds)}"


@pytest.fixture(scope="module")
def tag(kinds: Path) -> str:
    return f'"sha256-{hashlib.sha256((kinds / shard(kinds)).read_bytes()).hexdigest()}"'


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_all_files_that_readers_fetch_are_served_whole_and_nothing_else(
    server: Server, kinds: Path, method: str
) -> None:
    served = 0
    for name in names(kinds):
        reply = ask(server, f"/v1/stores/kinds/{name}", method)
        if not SERVED.fullmatch(name):
            assert reply.status == 404, name
            continue
        data = (kinds / name).read_bytes()
        digest = hashlib.sha256(data)
        fixed = name not in SINGLE and not name.endswith((".json", "members.npy"))
        assert reply.body == (data if method == "GET" else b""), name
        assert reply.status == 200
        assert reply.headers == {
            "content-length": str(len(data)),
            "content-type": {".json": "application/json", ".tar": "application/x-tar"}.get(
                Path(name).suffix, "application/octet-stream"
            ),
            "accept-ranges": "bytes",
            "etag": f'"sha256-{digest.hexdigest()}"',
            "cache-control": "private, max-age=31536000, immutable" if fixed else "no-cache",
            "repr-digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        }
        served += 1
    kept = {".tar": 6, ".params": 12, ".chunk": 3, ".npy": 14, ".json": 14}
    assert served == sum(kept.values())


def test_the_list_of_stores_says_what_there_is(server: Server, kinds: Path) -> None:
    reply = ask(server, "/v1/stores")
    (found,) = json.loads(reply.body)["stores"]
    manifest = json.loads((kinds / "manifest.json").read_bytes())
    assert found == {
        "name": "kinds",
        "store_id": manifest["store_id"],
        "generation": manifest["generation"],
        "view_sets": ["jpgs", "recipe", "simclr", "teacher"],
        "bytes": sum((kinds / n).stat().st_size for n in names(kinds) if SERVED.fullmatch(n)),
    }
    assert ask(server, "/v1/stores", "HEAD").status == 200
    assert ask(server, "/v1/stores/").status == 404


ROWS = [
    # headers, status, bytes of the file that come, Content-Range (of 7168 bytes: see the fixture)
    ({}, 200, (0, None), None),
    ({"If_Match": "TAG"}, 200, (0, None), None),
    ({"If_Match": "*"}, 200, (0, None), None),
    ({"If_Match": '"x", TAG'}, 200, (0, None), None),
    ({"If_Match": '"x"'}, 412, None, None),
    ({"If_Match": "W/TAG"}, 412, None, None),
    ({"If_Match": '"x"', "If_None_Match": "TAG", "Range": "bytes=0-1"}, 412, None, None),
    ({"If_None_Match": "TAG"}, 304, None, None),
    ({"If_None_Match": "*"}, 304, None, None),
    ({"If_None_Match": "W/TAG"}, 304, None, None),
    ({"If_None_Match": '"x"'}, 200, (0, None), None),
    ({"If_Match": "TAG", "If_None_Match": "TAG"}, 304, None, None),
    ({"If_Modified_Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 200, (0, None), None),
    ({"Range": "bytes=100-199"}, 206, (100, 200), "bytes 100-199/SIZE"),
    ({"Range": "bytes=100-"}, 206, (100, None), "bytes 100-LAST/SIZE"),
    ({"Range": "bytes=-100"}, 206, (-100, None), "bytes NEAR-LAST/SIZE"),
    ({"Range": "bytes=0-99999999"}, 206, (0, None), "bytes 0-LAST/SIZE"),
    ({"Range": "bytes=-99999999"}, 206, (0, None), "bytes 0-LAST/SIZE"),
    ({"Range": "BYTES=0-0"}, 206, (0, 1), "bytes 0-0/SIZE"),
    ({"Range": "bytes=LAST-"}, 206, (-1, None), "bytes LAST-LAST/SIZE"),
    ({"Range": "bytes=SIZE-"}, 416, None, "bytes */SIZE"),
    ({"Range": "bytes=99999999-"}, 416, None, "bytes */SIZE"),
    ({"Range": "bytes=-0"}, 416, None, "bytes */SIZE"),
    ({"Range": "bytes=0-1,4-5"}, 200, (0, None), None),
    ({"Range": "bytes=5-4"}, 200, (0, None), None),
    ({"Range": "bytes=-"}, 200, (0, None), None),
    ({"Range": "bytes=a-b"}, 200, (0, None), None),
    ({"Range": "lines=0-1"}, 200, (0, None), None),
    ({"Range": "0-1"}, 200, (0, None), None),
    ({"Range": "bytes=0-9", "If_Range": "TAG"}, 206, (0, 10), "bytes 0-9/SIZE"),
    ({"Range": "bytes=0-9", "If_Range": "W/TAG"}, 200, (0, None), None),
    ({"Range": "bytes=0-9", "If_Range": '"x"'}, 200, (0, None), None),
    ({"Range": "bytes=0-9", "If_Range": "Fri, 01 Jan 2100 00:00:00 GMT"}, 200, (0, None), None),
    ({"Range": "bytes=0-9", "If_Match": "TAG"}, 206, (0, 10), "bytes 0-9/SIZE"),
    ({"Range": "bytes=0-9", "If_None_Match": "TAG"}, 304, None, None),
]


@pytest.mark.parametrize(("headers", "status", "part", "content_range"), ROWS, ids=str)
def test_a_get_is_answered_as_the_table_says(
    server: Server,
    kinds: Path,
    tar: str,
    tag: str,
    headers: dict[str, str],
    status: int,
    part: tuple[int, int | None] | None,
    content_range: str | None,
) -> None:
    data = (kinds / shard(kinds)).read_bytes()
    near = str(len(data) - 100)

    def said(text: str) -> str:
        facts = {"TAG": tag, "SIZE": str(len(data)), "LAST": str(len(data) - 1), "NEAR": near}
        for name, value in facts.items():
            text = text.replace(name, value)
        return text

    reply = ask(server, tar, **{name: said(value) for name, value in headers.items()})
    assert reply.status == status
    assert reply.headers.get("content-range") == (content_range and said(content_range))
    if part is not None:
        assert reply.body == data[slice(*part)]
        assert reply.headers["content-length"] == str(len(reply.body))
        assert reply.headers["accept-ranges"] == "bytes"
    if status in (200, 206, 304):
        assert reply.headers["etag"] == tag
        assert reply.headers["cache-control"].endswith("immutable")
    if status == 304:
        assert reply.body == b""
    assert not {"content-encoding", "last-modified"} & set(reply.headers)


@pytest.mark.parametrize(("headers", "status", "part", "content_range"), ROWS, ids=str)
def test_a_head_has_the_headers_of_the_get_without_its_range(
    server: Server,
    tar: str,
    tag: str,
    headers: dict[str, str],
    status: int,
    part: object,
    content_range: object,
) -> None:
    said = {name: value.replace("TAG", tag) for name, value in headers.items()}
    reply = ask(server, tar, "HEAD", **said)
    without = {name: value for name, value in said.items() if name != "Range"}
    expected = ask(server, tar, **without)
    assert (reply.status, reply.headers) == (expected.status, expected.headers)
    assert reply.status == (200 if status in (206, 416) else status)
    assert reply.body == b""


def test_repeated_lines_of_a_header_are_one_list(server: Server, tar: str, tag: str) -> None:
    start = f"GET {tar} HTTP/1.1", "Host: localhost"
    assert send(server, *start, 'If-Match: "x"', f"If-Match: {tag}").status == 200
    assert send(server, *start, "Range: bytes=0-1", "Range: bytes=4-5").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("path", ["TAR", "/v1/stores", "/inspect/kinds/", "/healthz", "/nothing"])
def test_another_method_is_refused_everywhere(
    server: Server, tar: str, method: str, path: str
) -> None:
    reply = ask(server, path.replace("TAR", tar), method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("head", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_is_refused_and_the_connection_closed(
    server: Server, tar: str, head: str, method: str
) -> None:
    with connected(server) as connection:
        connection.sendall(f"{method} {tar} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        reply = received(connection, method)
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert connection.recv(1) == b""


def test_a_header_block_above_16_kib_is_refused_and_the_connection_closed(
    server: Server, tar: str
) -> None:
    assert ask(server, tar, X_Long="x" * 15000).status == 200
    with connected(server) as connection:
        line = "x" * 17000
        connection.sendall(f"GET {tar} HTTP/1.1\r\nHost: localhost\r\nX-Long: {line}\r\n".encode())
        assert received(connection, "GET").status == 400
        assert connection.recv(1) == b""


def test_one_connection_serves_many_requests(server: Server, tar: str) -> None:
    with connected(server) as connection:
        for _ in range(3):
            connection.sendall(f"GET {tar} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert received(connection, "GET").status == 200


@pytest.mark.parametrize(
    "name",
    [
        "/",
        "../manifest.json",
        "../../kinds/manifest.json",
        "%2e%2e/kinds/manifest.json",
        "..%2fkinds%2fmanifest.json",
        "views/../manifest.json",
        "./manifest.json",
        "/etc/hostname",
        "//etc/hostname",
        "%2fetc%2fhostname",
        "manifest.json%00",
        "manifest.json%00.tar",
        "views%5csimclr%5cplan.json",
        "views\\simclr\\plan.json",
        "manifest.json/",
        "MANIFEST.JSON",
        "manifest.json%0d%0aX: y",
        "manifests/000001.json",
        "views/simclr/commits/000000.json",
        "views/simclr/params.zarr/zarr.json",
        "views/simclr/tmp",
        "views/simclr/",
        "views",
        "sources/located.json",
        "a" * 8000,
        "%61" * 2600,
        "%ff%fe",
        "%",
        "%zz",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_names_that_lead_elsewhere_are_names_that_are_not_listed(
    server: Server, name: str, method: str
) -> None:
    for before in ("/v1/stores/kinds/", "/v1/stores/", "/"):
        reply = send(
            server, f"{method} {before}{name.replace(' ', '%20')} HTTP/1.1", "Host: localhost"
        )
        assert reply.status == 404, before


def test_a_name_that_is_not_listed_is_not_found_although_the_file_is_there(
    server: Server, kinds: Path
) -> None:
    assert (kinds / "manifests" / "000001.json").is_file()
    reply = ask(server, "/v1/stores/kinds/manifests/000001.json", If_Match='"x"')
    assert reply.status == 404  # also before any condition
    assert ask(server, "/v1/stores/other/manifest.json").status == 404


def test_replicas_of_a_store_give_equal_headers(kinds: Path, tmp_path: Path) -> None:
    for number, place in enumerate(("one", "two")):
        shutil.copytree(kinds, tmp_path / place / "kinds")
        for name in names(tmp_path / place):
            os.utime(tmp_path / place / name, (10**9 * (number + 1),) * 2)
    with serving(tmp_path / "one" / "kinds") as one, serving(tmp_path / "two" / "kinds") as two:
        for name in filter(SERVED.fullmatch, names(kinds)):
            first, second = (ask(each, f"/v1/stores/kinds/{name}") for each in (one, two))
            assert first == second
            assert first.status == 200


def test_curl_resumes_a_file_that_it_has_begun(
    server: Server, kinds: Path, tar: str, tmp_path: Path
) -> None:
    data = (kinds / shard(kinds)).read_bytes()
    (tmp_path / "part").write_bytes(data[:1000])
    subprocess.run(
        ["curl", "-sSf", "-C", "-", "-o", str(tmp_path / "part"), server.url.rstrip("/") + tar],
        check=True,
    )
    assert (tmp_path / "part").read_bytes() == data


def test_the_address_of_a_store_without_a_slash_leads_to_its_pages(server: Server) -> None:
    reply = ask(server, "/inspect/kinds")
    assert (reply.status, reply.headers["location"]) == (307, "./kinds/")
