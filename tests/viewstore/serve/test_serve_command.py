"""The command serve: what it takes, what it says, and what it refuses."""

from __future__ import annotations

import datetime
import html
import ipaddress
import json
import resource
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.viewstore.commands import run
from tests.viewstore.serve.servers import serving, until
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import ConfigError
from viewstore.store.store import Store


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that signs itself; return its file and that of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "viewstore")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def test_the_first_line_is_the_address_and_the_next_ones_its_pages(raw_store: Store) -> None:
    with serving(f"one={raw_store.root}", f"two={raw_store.root}") as server:
        for name in ("one", "two"):
            assert server.ask(f"/v1/stores/{name}/manifest.json").status == 200
            assert server.ask(f"/inspect/{name}/").status == 200
        front = server.ask("/").body.decode()
        assert '<a href="inspect/two/">two</a>' in front
        assert f"<code>{server.url}v1/stores/two</code>" in front
        assert server.stop() == 0
        first, *pages = server.log
        assert first == f"serving views at {server.url}\n"
        assert pages == [
            f"  {name}: pages at {server.url}inspect/{name}/\n" for name in ("one", "two")
        ]


def test_the_front_page_names_stores_as_they_are_reached_through_a_proxy(raw_store: Store) -> None:
    options = ("--behind-proxy", "--root-path", "/data", "--allowed-host", "data.example")
    asked = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "data.example:8443"}
    with serving(f"s={raw_store.root}", *options) as server:
        for path in ("/", "/data/"):
            front = server.ask(path, asked).body.decode()
            assert "<code>https://data.example:8443/data/v1/stores/s</code>" in front


def test_the_root_path_without_its_slash_leads_to_the_front_page(raw_store: Store) -> None:
    with serving(raw_store.root, "--root-path", "/a/data") as server:
        answer = server.ask("/a/data")
        assert (answer.status, answer.headers["location"]) == (307, "./data/")
        assert server.ask("/a/data/").status == 200
        assert server.ask("/a").status == server.ask("/a/datas").status == 404


def test_pages_of_a_store_that_is_not_served_name_those_that_are(raw_store: Store) -> None:
    with serving(f"one={raw_store.root}", f"two={raw_store.root}") as server:
        answer = server.ask("/inspect/nope/browse")
        assert answer.status == 404
        text = html.unescape(answer.body.decode())
        assert "there is no store 'nope' here; there are one, two" in text


def test_json_is_one_object_at_the_end(raw_store: Store) -> None:
    with serving(raw_store.root, "--json") as server:
        server.ask("/nowhere")
        server.stop()
        answer = json.loads(server.out())
    assert (answer["ok"], answer["command"]) == (True, "serve")
    assert answer["result"] == {
        "address": server.url,
        "stores": {raw_store.name: str(raw_store.root)},
    }


def test_a_store_without_a_manifest_is_waited_for(tmp_path: Path) -> None:
    source = write_npz(tmp_path / "images.npz")
    build_small(tmp_path / "begun", source, only=(0,))
    with serving(tmp_path / "begun") as server:
        ready = server.ask("/readyz")
        assert ready.status == 503
        assert ready.body.decode().splitlines()[1].startswith("begun: it ")
        assert server.ask("/healthz").status == 200
        assert server.ask("/v1/stores/begun/manifest.json").status == 404
        build_small(tmp_path / "begun", source)
        until(lambda: server.ask("/readyz").status == 200)
        assert server.ask("/v1/stores/begun/manifest.json").status == 200
        server.stop()
        assert any(line.startswith("warning: begun ") for line in server.log)


def test_a_name_of_a_store_may_be_any_text(raw_store: Store, tmp_path: Path) -> None:
    odd = tmp_path / "my 100% views?&<b>"
    odd.symlink_to(raw_store.root)
    with serving(odd) as server:  # its name is that of the folder itself
        assert server.ask(f"/inspect/{raw_store.name}/").status == 200
    odd.unlink()
    build_small(odd, write_npz(tmp_path / "images.npz", rows=4))
    with serving(odd) as server:
        assert server.ask("/inspect/my%20100%25%20views%3F%26%3Cb%3E/").status == 200
        front = server.ask("/").body
        assert b'<a href="inspect/my%20100%25%20views%3F%26%3Cb%3E/">' in front
        assert b"<b>" not in front


ELSEWHERE = ("--host", "198.51.100.7", "--token-file", "TOKENS")  # not an address of this machine
FAR = ("--host", "0.0.0.0", "--port", "0")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["STORE", "STORE"], 2, "two stores have the name"),
        (["a=STORE", "a=STORE"], 2, "two stores have the name 'a'"),
        (["nowhere"], 2, "error[VS202]: there is no folder nowhere"),
        (["nowhere"], 2, "served once viewstore build --out nowhere has begun"),
        (["STORE", "--fills", "3"], 2, "--fills is for stores at URLs"),
        (["STORE", "--fills", "0"], 2, "--fills"),
        (["STORE", "--port", "65536"], 2, "--port"),
        (["STORE", "--drain", "nan"], 2, "--drain"),
        (["STORE", "--drain", "-1"], 2, "--drain"),
        (["STORE", "--max-streams", "0"], 2, "--max-streams"),
        (["STORE", "--root-path", "views"], 2, "--root-path must be a path like /views"),
        (["STORE", "--root-path", "/a b"], 2, "--root-path must be a path like /views"),
        (["STORE", "--root-path", "//x"], 2, "--root-path must be a path like /views"),
        (["STORE", "--root-path", "/a/../b"], 2, "--root-path must be a path like /views"),
        (["STORE", "--root-path", "/."], 2, "--root-path must be a path like /views"),
        (["STORE", "--allowed-host", "http://x"], 2, "--allowed-host must be a host like"),
        (["STORE", "--allowed-host", ":80"], 2, "--allowed-host must be a host like"),
        (["STORE", "--tls-cert", "x"], 2, "--tls-cert and --tls-key belong together"),
        (["STORE", "--tls-key", "x"], 2, "--tls-cert and --tls-key belong together"),
        (["STORE", "--tls-cert", "x", "--tls-key", "y", "--port", "0"], 2, "cannot be used"),
        (["STORE", "--insecure-http"], 2, "--insecure-http has no effect"),
        (["STORE", "--behind-proxy", "--insecure-http"], 2, "contradict each other"),
        (["STORE", *FAR], 2, "error[VS601]: this would serve the stores to others without a token"),
        (["STORE", *FAR, "--insecure-http"], 2, "error[VS601]"),
        (["STORE", *FAR, "--behind-proxy"], 2, "error[VS601]"),
        (["STORE", *FAR, "--token-file", "TOKENS"], 2, "error[VS601]: this would send tokens"),
        (["STORE", *ELSEWHERE, "--insecure-http"], 3, "error[VS603]"),
        (["STORE", "--host", "no such host"], 3, "error[VS603]"),
        (["http://169.254.169.254/x"], 2, "must not be a link-local address"),
        (["x=https://169.254.1.1:8000/x"], 2, "must not be a link-local address"),
        (["http://[fe80::1%25eth0]/x"], 2, "must not be a link-local address"),
        (["http://[::ffff:169.254.169.254]/x"], 2, "must not be a link-local address"),
        (["http://0xa9fea9fe/x"], 2, "must not be a link-local address"),
        (["http://2852039166/x"], 2, "must not be a link-local address"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(
    raw_store: Store,
    token_file: Path,
    options: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = str(raw_store.root)
    given = [each.replace("STORE", root).replace("TOKENS", str(token_file)) for each in options]
    got, out, err = run(capsys, "serve", *given)
    assert (got, said in err, out, "Traceback" in err) == (code, True, "", False), err


def test_an_address_that_is_taken_is_named(
    raw_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run(capsys, "serve", raw_store.root, "--port", port)
    assert (code, "error[VS603]" in err, f"--port {port}" in err) == (3, True, True)


@pytest.mark.parametrize("way", ["--insecure-http", "--behind-proxy", "--tls-cert"])
def test_beyond_this_machine_it_needs_a_token_and_a_word(
    raw_store: Store, token_file: Path, tmp_path: Path, way: str
) -> None:
    cert, key = certificate(tmp_path)
    chosen = [way, cert, "--tls-key", key] if way == "--tls-cert" else [way]
    context = ssl.create_default_context(cafile=cert) if way == "--tls-cert" else None
    with serving(
        raw_store.root, "--host", "0.0.0.0", "--token-file", token_file, *chosen, context=context
    ) as server:
        assert server.ask("/healthz").status == 200
        assert server.ask("/v1/stores").status == 401


def test_tls_serves_what_http_does(raw_store: Store, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=cert)
    with serving(raw_store.root, "--tls-cert", cert, "--tls-key", key, context=context) as server:
        assert server.url.startswith("https://127.0.0.1:")
        manifest = server.ask(f"/v1/stores/{raw_store.name}/manifest.json")
        assert manifest.body == (raw_store.root / "manifest.json").read_bytes()
        plain = socket.create_connection(("127.0.0.1", server.port), 10)
        with plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        assert server.ask("/readyz").status == 200
        assert server.stop() == 0


def test_clients_that_never_speak_tls_leave_descriptors_for_files(
    raw_store: Store, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=cert)
    with serving(raw_store.root, "--tls-cert", cert, "--tls-key", key, context=context) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (128, 128))
        known = server.connection()
        known.connect()
        silent = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(200)]
        known.request("GET", f"/v1/stores/{raw_store.name}/sources/sources.json")
        assert known.getresponse().status == 200
        for each in (known, *silent):
            each.close()
        assert "Too many open files" not in "".join(server.log)


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["inspect", "--help"]])
def test_help_loads_no_server(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom viewstore.cli.main import main\n"
        f"try:\n    main({arguments})\nfinally:\n    print([m for m in ('torch', 'numpy', 'zarr', "
        "'rich', 'starlette', 'uvicorn', 'jinja2', 'prometheus_client', 'ray')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_names_and_places_are_told_apart(raw_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewstore.cli.serving import named_stores

    root = str(raw_store.root)
    assert named_stores([root]) == {raw_store.name: root}
    assert named_stores([f"{root}/."]) == {raw_store.name: root}
    assert named_stores([f"a.b-c_1={root}", f"x={root}"]) == {"a.b-c_1": root, "x": root}
    url = "https://data.example/digits/"
    assert named_stores([url]) == {"digits": url}
    assert named_stores([f"a={url}"]) == {"a": url}
    assert named_stores(["s3://bucket"]) == {"bucket": "s3://bucket"}
    monkeypatch.chdir(raw_store.root)
    assert named_stores(["."]) == {raw_store.name: "."}
    with pytest.raises(ConfigError, match="there is no folder"):
        named_stores([f"a b={root}"])
