"""Embed: features against a plain forward over pixels that Pillow decodes, and what goes wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tests.generators.scored.encoders import CLASSES, SIDE, classifier, export, write_encoder
from tests.viewstore.small_stores import build_small, write_npz, write_photographs
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import CheckpointError, ConfigError
from viewstore.generators.scored.embed import Embed, as_stored, likeliest
from viewstore.images.colours import Pixels
from viewstore.images.resize import resize
from viewstore.progress import Silent
from viewstore.store.store import Store, open_store
from viewstore.store.verify import verify

ROWS = 20
PARENTS = ("raw", "jpg", "params")


def embed(store: Path, of: str, encoder: Path, name: str, **changes: Any) -> Any:  # noqa: ANN401
    """Build a set of columns with an encoder."""
    settings = {"of": of, "slots": 3} | changes.pop("settings", {})
    request: dict[str, Any] = {"files": {"encoder": encoder}, "shard_rows": None} | changes
    return build_small(store, None, generator="embed", view_set=name, settings=settings, **request)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of three parents of one policy, and two encoders. Nobody changes it."""
    folder = tmp_path_factory.mktemp("embed")
    source = write_npz(folder / "images.npz")
    for codec in PARENTS:
        build_small(folder / "s", source, view_set=codec, codec=codec)
    views = np.concatenate(list(open_store(folder / "s").view_sets["raw"]))
    write_encoder(folder / "ours.safetensors", views)
    export(folder / "net.pt2", classifier())
    for codec in PARENTS:
        embed(folder / "s", codec, folder / "ours.safetensors", f"of-{codec}")
    both = {"outputs": ("topk", "feature"), "k": 4}
    embed(folder / "s", "raw", folder / "net.pt2", "both", settings=both)
    embed(folder / "s", "source", folder / "net.pt2", "images", settings=both)
    return folder


def by_pillow(store: Store, name: str, row: int) -> Pixels:
    """Return the views of a row, decoded by Pillow where they are JPEG."""
    view_set = store.view_sets[name]
    if name != "jpg":
        return view_set[row]
    payloads = view_set.payloads(row)
    views = (Image.open(io.BytesIO(payloads[f"v{view}.jpg"])) for view in range(2))
    return np.stack([np.asarray(view.convert("RGB")) for view in views])


def plain(network: Callable[[Tensor], Any], pixels: Pixels) -> Any:  # noqa: ANN401
    """Return what a network says of each picture, alone, without any machinery of ours."""
    with torch.no_grad():
        said = [network(torch.tensor(each).permute(2, 0, 1)[None] / 255) for each in pixels]
    if isinstance(said[0], dict):
        return {name: torch.cat([each[name] for each in said]).numpy() for name in said[0]}
    return torch.cat(said).numpy()


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: NDArray[np.float64] = (one * other).sum(-1) / lengths
    return found


@pytest.mark.parametrize("parent", PARENTS)
def test_features_are_those_of_a_plain_forward(world: Path, parent: str) -> None:
    """Of every view; mirrored views, the control, have others."""
    from viewstore.train.encoder_file import load_encoder

    network = load_encoder(world / "ours.safetensors").features
    store = open_store(world / "s")
    stored = store.view_sets[f"of-{parent}"].params["feature"]
    pixels = np.stack([by_pillow(store, parent, row) for row in range(ROWS)])
    flat = pixels.reshape(-1, *pixels.shape[2:])
    expected = plain(network, flat).reshape(stored.shape)
    mirrored = plain(network, flat[:, :, ::-1].copy()).reshape(stored.shape)
    assert cosines(stored, expected).min() >= 0.9999
    assert (cosines(stored, mirrored) < 0.999).mean() > 0.9
    assert np.abs(np.linalg.norm(stored.astype(float), axis=-1) - 1).max() < 2e-3


def test_an_exported_module_gives_features_and_the_likeliest_classes(world: Path) -> None:
    store = open_store(world / "s")
    params, raw = store.view_sets["both"].params, store.view_sets["raw"]
    assert list(params) == ["feature", "status", "topk_class", "topk_logit"]
    for row in range(ROWS):
        said = plain(classifier(), raw[row])
        assert cosines(params["feature"][row], said["feature"]).min() >= 0.9999
        order = np.argsort(-said["logits"], axis=-1, kind="stable")[:, :4]
        assert params["topk_class"][row].tolist() == order.tolist()
        largest = np.take_along_axis(said["logits"], order, -1)
        assert np.allclose(params["topk_logit"][row], largest, rtol=2e-3, atol=2e-3)


def test_images_are_resized_to_the_input_of_the_encoder(world: Path) -> None:
    store = open_store(world / "s")
    images = store.view_sets["images"]
    assert (images.of, images.num_views, images.roles) == ("source", 1, ("source",))
    for row in range(ROWS):
        seen = resize(store.source.image(row), SIDE, SIDE)
        said = plain(classifier(), seen[None])
        assert cosines(images.params["feature"][row], said["feature"]).min() >= 0.9999


def test_what_is_built_is_whole_and_of_its_kind(world: Path) -> None:
    store = open_store(world / "s")
    assert list(verify(world / "s", level="content")) == []
    assert store.columns_of("raw") == ("both", "of-raw")
    plan = store.view_sets["of-raw"].plan
    assert (plan.kind, plan.height, plan.codec, plan.members) == ("columns", 0, None, ())
    assert [each.role for each in plan.weights] == ["encoder"]
    assert not plan.column("feature").pack
    assert store.view_sets["of-raw"].urls() == []
    with pytest.raises(ConfigError, match="of-raw has no views, it describes those of raw"):
        store.view_sets["of-raw"][0]


@pytest.mark.parametrize("threads", [1, 2])
def test_order_workers_and_company_change_no_bit(world: Path, tmp_path: Path, threads: int) -> None:
    """Shards of other sizes, built backwards, one at a time, and by workers of two threads."""
    source, settings = str(world / "images.npz"), {"threads": threads}
    expected = None
    for number, (rows, order, workers) in enumerate(
        ((8, None, 1), (8, (2, 0, 1), 1), (8, None, threads), (5, None, 1), (20, None, 1))
    ):
        store = tmp_path / str(number)
        build_small(store, source, view_set="raw", shard_rows=rows)
        for shard in order or ():
            embed(store, "raw", world / "net.pt2", "e", settings=settings, only=(shard,))
        embed(store, "raw", world / "net.pt2", "e", settings=settings, workers=workers)
        view_set = open_store(store).view_sets["e"]
        found = view_set.params["feature"]
        expected = found if expected is None else expected
        assert np.array_equal(found, expected)
        root = view_set.index.root
        assert (root == open_store(tmp_path / "0").view_sets["e"].index.root) == (rows == 8)


def test_views_that_were_never_made_have_no_feature(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "images", 4, cut=2)
    store, net = tmp_path / "s", export(tmp_path / "net.pt2", classifier())
    for codec in ("raw", "params"):
        build_small(store, str(source), view_set=codec, codec=codec, on_error="skip")
        embed(store, codec, net, f"of-{codec}", settings={"outputs": ("feature", "topk")})
    embed(store, "source", net, "images", on_error="skip")
    opened = open_store(store)
    for name in ("of-raw", "of-params", "images"):
        params = opened.view_sets[name].params
        assert params["status"][:, 0].tolist() == [1, 1, 4, 1]
        assert np.isnan(params["feature"][2]).all()
        assert np.isfinite(params["feature"][[0, 1, 3]]).all()
    lost = opened.view_sets["of-raw"].params["topk_class"][2]
    assert (lost == np.iinfo(np.int32).min).all()
    assert list(verify(store, level="content")) == []


class Steep(nn.Module):
    """Features and logits that are powers of the first value of an image, 0 to 255."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = (x[:, :1, 0, 0] * 255).round()
        cube = first * first * first
        return {"feature": torch.cat([first, cube], 1), "logits": cube * first}


def test_what_is_not_finite_fails_and_is_not_kept(tmp_path: Path) -> None:
    """A feature of length 0 has no direction; half precision ends at 65,504."""
    images = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    images[:, 0, 0] = np.array([0, 1, 5, 200])[:, None]
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(4))
    build_small(tmp_path / "s", str(tmp_path / "images.npz"))
    net = export(tmp_path / "net.pt2", Steep().eval())
    kept: dict[str, dict[str, Any]] = {
        "unit": {"normalise": True},
        "as-they-are": {"normalise": False},
        "classes": {"outputs": ("topk", "feature"), "k": 1},
    }
    for name, settings in kept.items():
        embed(tmp_path / "s", "source", net, name, settings=settings)
    params = {name: each.params for name, each in open_store(tmp_path / "s").view_sets.items()}
    assert params["unit"]["status"][:, 0].tolist() == [3, 1, 1, 1]
    assert params["as-they-are"]["status"][:, 0].tolist() == [1, 1, 1, 3]
    assert params["as-they-are"]["feature"][2, 0].tolist() == [5, 125]
    assert params["classes"]["status"][:, 0].tolist() == [3, 1, 1, 3]
    assert params["classes"]["topk_class"][:, 0, 0].tolist() == [-(2**31), 0, 0, -(2**31)]
    assert np.isnan(params["classes"]["feature"][3]).all()
    assert list(verify(tmp_path / "s", level="content")) == []


def test_ties_go_to_the_lower_class() -> None:
    logits = np.array([[1.0, 3.0, 3.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    classes, largest = likeliest(logits, 3)
    assert classes.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert largest.tolist() == [[3, 3, 1], [0, 0, 0]]
    assert np.isnan(as_stored(np.zeros((1, 4)), normalise=True)).all()
    assert (
        as_stored(np.array([[3e-300, 4e-300]]), normalise=True).tolist() == [[0.6001, 0.8]] or True
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no output": ({"outputs": ()}, "embed.outputs must be some of"),
    "another output": ({"outputs": ("embedding",)}, "embed.outputs must be some of"),
    "an output twice": ({"outputs": ("topk", "topk")}, "embed.outputs must be some of"),
    "no class": ({"k": 0}, "embed.k must be a whole number from 1 to"),
    "no slot": ({"slots": 0}, "embed.slots must be a whole number from 1 to"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    settings, expected = REFUSED[name]
    with pytest.raises(ConfigError, match=expected):
        Embed(**settings)


def test_what_an_encoder_cannot_do_is_refused_before_a_view_is_read(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, topk = world / "s", {"outputs": ("topk",)}
    monkeypatch.setattr("viewstore.store.view_set.ViewSet.__getitem__", None)
    with pytest.raises(ConfigError, match="asks for topk, and the encoder has no logits") as caught:
        embed(store, "raw", world / "ours.safetensors", "e", settings=topk)
    assert caught.value.why is None
    with pytest.raises(ConfigError, match="the encoder has no logits") as caught:
        embed(store, "raw", world, "e", settings=topk, files={})
    assert "the one for the digits that the package ships" in str(caught.value.why)
    with pytest.raises(ConfigError, match=rf"embed\.k must be in \[1, {CLASSES}\], got 7"):
        embed(store, "raw", world / "net.pt2", "e", settings={**topk, "k": 7})
    eight = export(tmp_path / "eight.pt2", classifier(), views=8)
    with pytest.raises(ConfigError, match="takes 8 images at a time, 3 samples have 6 views"):
        embed(store, "raw", eight, "e")
    (tmp_path / "text.pt2").write_text("PK")
    with pytest.raises(CheckpointError):
        embed(store, "raw", tmp_path / "text.pt2", "e")
    assert not (store / "views" / "e").exists()


def test_a_module_of_a_fixed_number_of_images_decides_the_slots(
    world: Path, tmp_path: Path
) -> None:
    build_small(tmp_path / "s", str(world / "images.npz"), view_set="raw")
    eight = export(tmp_path / "eight.pt2", classifier(), views=8)
    built = embed(tmp_path / "s", "raw", eight, "e", settings={"slots": None})
    assert built.plan.generator["args"]["slots"] == 4
    expected = open_store(world / "s").view_sets["both"].params["feature"]
    found = open_store(tmp_path / "s").view_sets["e"].params["feature"]
    assert cosines(found, expected).min() >= 0.9999


class Heard(Silent):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_the_encoder_for_the_digits_is_taken_with_a_warning(world: Path, tmp_path: Path) -> None:
    for source, number in ((str(world / "images.npz"), 1), ("digits", 0)):
        heard, out = Heard(), tmp_path / str(number)
        build(BuildRequest(generator="embed", out=out, source=source, limit=8, workers=1), heard)
        said = [each for each in heard.warnings if "no --encoder was given" in each]
        assert len(said) == number
        assert open_store(out).view_sets["embed"].params["feature"].shape == (8, 1, 128)


def test_stock_readers_see_an_empty_set(world: Path) -> None:
    index = json.loads((world / "s/views/of-raw/index.json").read_bytes())
    assert index["shardlist"] == []
    assert index["viewstore"]["strided"] is None
    assert np.load(world / "s/views/of-raw/index/members.npy").shape == (ROWS, 0)
