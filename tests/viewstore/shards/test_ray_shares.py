"""What a build with Ray refuses before it begins, and how many actors it wants; no Ray needed."""

import importlib.util
import socket

import pytest

from tests.viewstore.commands import run
from viewstore.errors import ConfigError, UnavailableError
from viewstore.shards.engine_ray import shares
from viewstore.shards.place import Place
from viewstore.shards.ray_cluster import check_ray

CPU, GPU = (Place(device="cpu"), {"num_cpus": 1}), (Place(device="cuda:0"), {"num_gpus": 1})
CLUSTER = {"CPU": 16.0, "GPU": 4.0, "memory": 1e9}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("device", "networks", "workers", "units", "count", "kind"),
    [
        ("cpu", True, 0, 100, 16, CPU),
        ("cuda", True, 0, 100, 4, GPU),
        ("auto", True, 0, 100, 4, GPU),
        ("auto", False, 0, 100, 16, CPU),
        ("cpu", False, 5, 100, 5, CPU),
        ("cpu", False, 99, 100, 16, CPU),
        ("cuda", True, 0, 3, 3, GPU),
    ],
)
def test_one_actor_for_each_gpu_or_cpu(
    device: str, networks: bool, workers: int, units: int, count: int, kind: tuple[object, ...]
) -> None:
    found = shares(device, workers=workers, units=units, networks=networks, cluster=CLUSTER)
    assert found == (count, *kind)


def test_a_cluster_that_has_nothing_yet_gets_one_actor_that_waits() -> None:
    assert shares("cpu", workers=0, units=9, networks=False, cluster={}) == (1, *CPU)
    assert shares("auto", workers=0, units=9, networks=True, cluster={"CPU": 2}) == (2, *CPU)
    with pytest.raises(UnavailableError, match="has no GPU"):
        shares("cuda", workers=0, units=9, networks=True, cluster={"CPU": 2})


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0,cuda:1", "mps"])
def test_a_gpu_that_is_named_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="takes no --device") as caught:
        check_ray(device)
    assert "a GPU of its own" in str(caught.value.why)


def test_a_missing_package_is_said_before_the_source_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    build = ("build", "--generator", "simclr", "--executor", "ray", "--source", "nothing.npz")
    code, _, said = run(capsys, *build)
    assert code == 3
    assert "VS301" in said
    assert "pip install 'viewstore[ray]'" in said
    assert "reading" not in said


def test_ray_client_is_refused_and_so_is_an_address_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigError, match="Ray Client"):
        check_ray("cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="does not answer"):
            check_ray("cpu")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:²", "a..b:6379"])
def test_an_address_that_cannot_be_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UnavailableError, match="does not answer"):
        check_ray("cpu")
