"""What the server counts equals what a test did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.viewstore.serve.servers import Server, serving
from tests.viewstore.serve.streams import shard_of
from viewstore.serve.limits import Running
from viewstore.serve.metrics import OBJECT, Metrics
from viewstore.store.store import Store

PAGES = "/inspect/{store}/{path:anything}"
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def numbers(text: bytes) -> Numbers:
    """Return the value of every series, by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found: Numbers, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture(scope="module")
def counting(raw_store: Store) -> Iterator[Server]:
    with serving(raw_store.root, "--max-streams", 5) as server:
        yield server


def test_the_numbers_equal_what_was_done(counting: Server, raw_store: Store) -> None:
    name = raw_store.name
    shard, _ = shard_of(raw_store)
    manifest = f"/v1/stores/{name}/manifest.json"
    sent = len(counting.ask(shard).body)
    sent += sum(len(counting.ask(manifest).body) for _ in range(3))
    assert counting.ask(manifest, method="HEAD").status == 200
    assert counting.ask(manifest, method="POST").status == 405
    assert counting.ask(f"/v1/stores/{name}/nowhere").status == 404
    assert counting.ask("/v1/stores/nobody/manifest.json").status == 404
    assert counting.ask(f"/inspect/{name}/").status == 200
    assert counting.ask("/nowhere?secret").status == 404
    assert counting.ask("/v1/stores", {"Host": "evil.example"}).status == 400
    view_set = raw_store.view_set("simclr")
    key = quote(raw_store.keys[0], safe="")
    counting.ask(f"/inspect/{name}/picture/{view_set.index.root[:16]}/simclr/0/{key}?side=64")
    answer = counting.ask("/metrics")
    found = numbers(answer.body)
    count = "viewstore_http_requests_total"
    assert value(found, count, route=OBJECT, method="GET", code="200") == 4
    assert value(found, count, route=OBJECT, method="HEAD", code="200") == 1
    assert value(found, count, route=OBJECT, method="other", code="405") == 1
    assert value(found, count, route=OBJECT, method="GET", code="404") == 2
    assert value(found, count, route=PAGES, method="GET", code="200") >= 1
    assert value(found, count, route="none", method="GET", code="404") == 1
    assert value(found, count, route="/v1/stores", method="GET", code="400") == 1
    assert value(found, "viewstore_object_bytes_total", store=name) == sent
    assert value(found, "viewstore_rejected_total", reason="host") == 1
    assert value(found, "viewstore_rejected_total", reason="method") == 1
    duration = "viewstore_http_request_duration_seconds"
    assert value(found, f"{duration}_count", route=OBJECT) == 8
    assert 0 < value(found, f"{duration}_sum", route=OBJECT) < 60
    assert value(found, "viewstore_thumbnail_seconds_count") == 1
    assert value(found, "viewstore_streams") == 0
    assert value(found, "viewstore_store_samples", store=name) == len(raw_store)
    generation = raw_store.manifest.generation
    assert value(found, "viewstore_store_generation", store=name) == generation
    assert [labels for metric, labels in found if metric == "viewstore_build_info"]


def test_labels_are_routes_and_names_of_stores(counting: Server, raw_store: Store) -> None:
    """Whatever is asked for, no path, key, token or method of a client becomes a label."""
    for text in ("secret-path", f"v1/stores/{raw_store.name}/secret-name", "inspect/secret/secret"):
        counting.ask(f"/{text}?token=secret", {"Authorization": "Bearer secret-secret-secret"})
        counting.ask(f"/{text}", method="SECRET")
    counting.ask("/", {"Host": "secret.example"})
    text = counting.ask("/metrics").body.decode()
    assert "secret" not in text.lower()
    names = {sample.name for f in text_string_to_metric_families(text) for sample in f.samples}
    assert all(each.startswith("viewstore_") for each in names)  # a registry of its own


def test_what_the_cache_did_is_counted_by_store() -> None:
    metrics = Metrics("1", Running(streams=3))
    digits = metrics.of("digits")
    digits.fetched(100)
    digits.fetched(11)
    for result in ("hit", "hit", "miss", "joined", "passed"):
        digits.asked(result)  # type: ignore[arg-type]
    digits.refetched()
    collected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    assert value(collected, "viewstore_origin_bytes_total", store="digits") == 111
    for result, times in (("hit", 2), ("miss", 1), ("joined", 1), ("passed", 1)):
        name = "viewstore_cache_requests_total"
        assert value(collected, name, store="digits", result=result) == times
    assert value(collected, "viewstore_corrupt_refetched_total", store="digits") == 1
    assert value(collected, "viewstore_streams") == 3


def test_a_damaged_store_leaves_the_other_numbers(raw_store: Store, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text(json.dumps({"no": "manifest"}))
    with serving(broken, raw_store.root) as server:
        found = numbers(server.ask("/metrics").body)
        assert value(found, "viewstore_store_samples", store=raw_store.name) == len(raw_store)
        assert not any("broken" in str(labels) for _, labels in found)
        ready = server.ask("/readyz")
        assert (ready.status, ready.headers["retry-after"]) == (503, "5")
        first, line = ready.body.decode().splitlines()
        assert first == "retry-after: 5"
        assert line.startswith("broken: it cannot be served (VS2")
        assert str(tmp_path) not in line
        assert server.ask(f"/v1/stores/{raw_store.name}/manifest.json").status == 200
        assert b"VS2" in server.ask("/").body
