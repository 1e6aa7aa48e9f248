"""Colours of whole batches: equal to Pillow's, whatever the batch, and without waiting."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loaders.stores import as_array
from viewstore.errors import ConfigError
from viewstore.images import colours, resize
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.decode import decode
from viewstore.images.policies import policies
from viewstore.loaders import Batch, Cached, Online, ViewLoader
from viewstore.loaders.batches.batch import IMAGENET_MEAN, IMAGENET_STD, normalise
from viewstore.loaders.render import colours as photometric
from viewstore.loaders.render.colours import recolour
from viewstore.randomness import Stream
from viewstore.store.store import Store

CPU = torch.device("cpu")
OFF = {
    "jitter": np.float32([1, 1, 1, 0]),
    "jitter_order": np.full(4, 255, np.uint8),
    "gray": np.uint8(0),
    "blur": np.float32(0),
    "solarize": np.uint16(256),
}


def textures(count: int, height: int, width: int, seed: int = 0) -> Any:  # noqa: ANN401
    """Return images with smooth parts, edges and noise, uint8 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([rows * 5, columns * 7, rows * columns], axis=-1)
    noise = rng.integers(0, 60, (count, height, width, 3))
    return ((waves + noise + rng.integers(0, 256, (count, 1, 1, 3))) % 256).astype(np.uint8)


def columns_of(*params: dict[str, Any]) -> dict[str, Any]:
    """Return params of single views, filled up with what is off, as columns."""
    every = [{**OFF, **each} for each in params]
    return {name: np.stack([each[name] for each in every]) for name in COLOUR_COLUMNS}


def with_pillow(images: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return what the CPU path makes of images [B, H, W, 3]."""
    made = images.copy()
    for place, view in enumerate(made):
        mine = {name: params[name][place] for name in COLOUR_COLUMNS}
        colours.recolour(
            view,
            jitter=mine["jitter"],
            jitter_order=mine["jitter_order"],
            gray=bool(mine["gray"]),
            blur=float(mine["blur"]),
            solarize=int(mine["solarize"]),
        )
    return made


def in_batch(images: Any, params: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return what the batched path makes of images [B, H, W, 3]."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    tensors = {name: torch.from_numpy(column) for name, column in params.items()}
    (made,) = recolour([pixels], [tensors], CPU)
    assert made.is_contiguous(memory_format=torch.channels_last)
    return as_array(made)


def jittered(op: int, factor: float) -> dict[str, Any]:
    factors = OFF["jitter"].copy()
    factors[op] = factor
    return {"jitter": factors, "jitter_order": np.array([op, 255, 255, 255], np.uint8)}


@pytest.mark.parametrize("name", ["simclr", "byol", "dino", "dino-local", "moco"])
def test_photographs_get_the_colours_of_pillow(name: str, shared: Path) -> None:
    files = sorted((shared / "data" / "imagenet-sample").glob("*/*.JPEG"))[::12]
    if not files:
        pytest.skip("the ImageNet sample is not there")
    pictures = [decode(path.read_bytes()) for path in files]
    for size in (32, 75):
        images = np.stack(
            [resize.crop_resize(p, (0, 0, *p.shape[:2]), (size, size), "area") for p in pictures]
        )
        for view, policy in enumerate(policies(name)):
            params = policy.draw(Stream(3), np.arange(len(images)), view, size, size)
            assert np.array_equal(in_batch(images, params), with_pillow(images, params))


@st.composite
def any_colours(draw: st.DrawFn) -> dict[str, Any]:
    """Return one view's params, from the whole range of what a policy may be set to."""
    level = st.floats(0, 3, width=32)
    order = st.permutations(range(4)) | st.just([255] * 4)
    return {
        "jitter": np.float32(
            [draw(level), draw(level), draw(level), draw(st.floats(-0.5, 0.5, width=32))]
        ),
        "jitter_order": np.array(draw(order), np.uint8),
        "gray": np.uint8(draw(st.booleans())),
        "blur": np.float32(draw(st.just(0.0) | st.floats(0, 20, width=32))),
        "solarize": np.uint16(draw(st.integers(0, 256))),
    }


@settings(max_examples=60, deadline=None)
@given(
    params=st.lists(any_colours(), min_size=1, max_size=5),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    seed=st.integers(0, 99),
)
def test_any_params_give_the_pixels_of_pillow(
    params: list[dict[str, Any]], height: int, width: int, seed: int
) -> None:
    images = textures(len(params), height, width, seed)
    columns = columns_of(*params)
    assert np.array_equal(in_batch(images, columns), with_pillow(images, columns))


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.2, 0.4999])
def test_the_hue_of_every_kind_of_colour_turns_as_with_pillow(turns: float) -> None:
    """Every chroma at every place of the circle: where the fraction is whole, Pillow is odd."""
    chroma, place = np.mgrid[1:256, 0:511]
    low, middle = 255 - chroma, 255 - chroma + np.minimum(place // 2, chroma)
    high = np.full_like(low, 255)
    orders = [(high, middle, low), (middle, high, low), (low, high, middle)]
    orders += [(low, middle, high), (middle, low, high), (high, low, middle)]
    images = np.stack([np.stack(each, axis=-1) for each in orders]).astype(np.uint8)
    params = columns_of(*[jittered(3, turns)] * len(images))
    assert np.array_equal(in_batch(images, params), with_pillow(images, params))


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0, 2 / 3, 1.4142135, 2.0, 5.0])
def test_the_blur_repeats_the_rounding_of_pillow(sigma: float) -> None:
    """At sigma .5 and 1 many sums end in a half, which a float64 convolution rounds otherwise."""
    images = textures(4, 40, 33)
    params = columns_of(*[{"blur": np.float32(sigma)}] * 4)
    assert np.array_equal(in_batch(images, params), with_pillow(images, params))


def test_a_wide_blur_is_that_of_pillow_too() -> None:
    images = textures(4, 60, 50)
    params = columns_of(*[{"blur": np.float32(sigma)} for sigma in (6, 14, 40, 100)])
    assert np.array_equal(in_batch(images, params), with_pillow(images, params))


def test_the_blur_bears_products_of_fewer_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32, which many trainings switch on, keeps 11 bits of a factor."""
    matrix = photometric._box_matrix

    def rounded(kernel: torch.Tensor, size: int) -> torch.Tensor:
        bits = matrix(kernel, size).view(torch.int32)
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)

    images = textures(5, 40, 30)
    params = columns_of(*[{"blur": np.float32(sigma)} for sigma in (0.1, 0.5, 1, 1.9, 5)])
    plain = in_batch(images, params)
    monkeypatch.setattr(photometric, "_box_matrix", rounded)
    assert np.array_equal(in_batch(images, params), plain)


@pytest.mark.parametrize("views", [1, 3])
def test_pieces_of_a_large_batch_make_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    images, params = textures(12, 20, 20), drawn(12, 20)
    whole = in_batch(images, params)
    monkeypatch.setattr(photometric, "PIECE_BYTES", 5 * 20 * 20 * 3 + 1)
    pixels = [torch.from_numpy(images).permute(0, 3, 1, 2)] * views
    tensors = [{name: torch.from_numpy(column) for name, column in params.items()}] * views
    for view in recolour(pixels, tensors, CPU):
        assert np.array_equal(as_array(view), whole)


def test_each_sample_has_its_ops_in_its_own_order() -> None:
    image = textures(1, 16, 16)[0]
    factors = np.float32([1.6, 0.4, 1.5, 0.1])
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)]
    params = columns_of(
        *[{"jitter": factors, "jitter_order": np.array(order, np.uint8)} for order in orders]
    )
    together = in_batch(np.stack([image] * 3), params)
    for order, view in zip(orders, together, strict=True):
        step = image[None]
        for op in order:
            step = in_batch(step, columns_of(jittered(op, factors[op])))
        assert np.array_equal(view, step[0])
    assert not np.array_equal(together[0], together[1])


def test_only_the_samples_that_have_an_op_are_changed() -> None:
    changes = [
        {},
        jittered(0, 1.5),
        jittered(1, 0.5),
        jittered(2, 0.2),
        jittered(3, 0.25),
        {"gray": np.uint8(1)},
        {"blur": np.float32(1.5)},
        {"solarize": np.uint16(100)},
    ]
    image = textures(1, 16, 16)[0]
    for change in changes:
        params = columns_of({}, change, {})
        images = np.stack([image] * 3)
        views = in_batch(images, params)
        assert np.array_equal(views[[0, 2]], images[[0, 2]])
        assert np.array_equal(views[1], image) == (change == {})
        assert np.array_equal(images[1], image)  # the input is left as it was


def drawn(count: int, size: int) -> dict[str, Any]:
    return policies("dino")[1].draw(Stream(8), np.arange(count), 1, size, size)


@pytest.mark.parametrize("cuts", [[0, 12], [0, 1, 12], [0, 5, 5, 9, 12]])
def test_the_pixels_do_not_depend_on_how_samples_are_batched(cuts: list[int]) -> None:
    images, params = textures(12, 20, 20), drawn(12, 20)
    whole = in_batch(images, params)
    parts = [
        in_batch(images[low:high], {name: each[low:high] for name, each in params.items()})
        for low, high in pairwise(cuts)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_views_of_several_sizes_are_made_in_one_call() -> None:
    sizes = (20, 9, 20)
    images = [textures(6, size, size, seed=size) for size in sizes]
    params = [drawn(6, size) for size in sizes]
    views = recolour(
        [torch.from_numpy(each).permute(0, 3, 1, 2) for each in images],
        [{name: torch.from_numpy(c) for name, c in each.items()} for each in params],
        CPU,
    )
    for view, image, mine in zip(views, images, params, strict=True):
        assert np.array_equal(as_array(view), with_pillow(image, mine))


def test_autocast_changes_no_pixel() -> None:
    images, params = textures(6, 20, 20), drawn(6, 20)
    plain = in_batch(images, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(in_batch(images, params), plain)


def test_nothing_waits_for_a_value_of_the_device() -> None:
    """A meta tensor has no values: whatever asks for one raises."""
    params = {name: torch.from_numpy(column) for name, column in drawn(6, 20).items()}
    (made,) = recolour([torch.zeros(6, 3, 20, 20).byte()], [params], torch.device("meta"))
    assert made.shape == (6, 3, 20, 20)
    normalise(made, dtype=torch.float16)
    with pytest.raises(RuntimeError):
        made.max().item()


def epochs(store: Store, views: Any, where: str, **options: Any) -> list[Batch]:  # noqa: ANN401
    with ViewLoader(store, views, batch_size=8, photometric=where, **options) as loader:  # type: ignore[arg-type]
        return list(loader)


SMALL = [Online("simclr", size=41)]
VIEWS: dict[str, Any] = {
    "of two sizes": [Online("dino", n=2, size=40), Online("dino-local", n=3, size=24)],
    "beside cached ones": [Online("simclr", size=50), Cached("jpg", n=2)],
    "rendered on cached ones": [Cached("png", then="moco"), Cached("png", then="flip")],
    "without colours": [Online("crop", size=40), Online("digits", size=40)],
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS.keys())
def test_a_loader_hands_over_the_same_whoever_makes_the_colours(photos: Store, views: Any) -> None:  # noqa: ANN401
    here, there = epochs(photos, views, "cpu"), epochs(photos, views, "device", num_threads=3)
    assert len(here) == len(there) > 1
    for one, other in zip(here, there, strict=True):
        assert one.state == other.state
        for mine, yours in zip(one.views, other.views, strict=True):
            assert torch.equal(mine.pixels, yours.pixels)
            assert yours.pixels.is_contiguous(memory_format=torch.channels_last)
            assert mine.params.keys() == yours.params.keys()
            assert all(torch.equal(mine.params[name], yours.params[name]) for name in mine.params)
            assert (mine.status == yours.status).all()
            assert mine.colourless is yours.colourless is False


def test_colours_are_made_once_however_often_a_batch_is_moved(photos: Store) -> None:
    (batch, *_) = epochs(photos, SMALL, "device")
    again = batch.to("cpu").to(torch.device("cpu"))
    assert torch.equal(again.views[0].pixels, batch.views[0].pixels)


def test_an_unknown_place_for_colours_is_refused(photos: Store) -> None:
    with pytest.raises(
        ConfigError, match="photometric must be one of cpu, device, caller, got 'gpu'"
    ):
        epochs(photos, SMALL, "gpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normalised_views_are_those_of_the_formula(photos: Store, dtype: torch.dtype) -> None:
    (batch, *_) = epochs(photos, [*SMALL, Online("dino-local", size=24)], "cpu")
    for view, x in zip(batch.views, batch.normalised(dtype), strict=True):
        mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(3, 1, 1)
        expected = (view.pixels.double() / 255 - mean) / std
        assert (x.dtype, x.shape) == (dtype, view.pixels.shape)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert (x - expected).abs().max() < 4 * torch.finfo(dtype).eps
        assert torch.equal(x, normalise(view.pixels).to(dtype))  # rounded once


def test_normalising_takes_the_first_channels_and_refuses_more_than_there_are(
    photos: Store,
) -> None:
    (batch, *_) = epochs(photos, SMALL, "cpu")
    (gray,) = batch.normalised(mean=(0.5,), std=(0.25,))
    first = batch.views[0].pixels[:, :1]
    assert torch.allclose(gray, first / 63.75 - 2, atol=1e-6)
    for mean, std in [((0.5,) * 4, (0.5,) * 4), ((0.5,), (0.5,) * 3), ((), ())]:
        with pytest.raises(ConfigError, match="mean and std must have a value for each"):
            batch.normalised(mean=mean, std=std)
