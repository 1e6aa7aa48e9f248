"""Slots that show recipe sets give the batches of the raw sets that would have been stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import FormatError
from viewstore.loaders import Cached, Mix, Online, ViewLoader
from viewstore.sources.reader import SourceReader
from viewstore.store.store import Store, open_store

SETS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("simclr", {"views": 4, "height": 32, "width": 32}),
    ("dino", {"views": 3, "height": 48, "width": 48}),
    ("dino-local", {"views": 5, "height": 16, "width": 16}),
)


def built(out: Path, source: str, codec: str) -> Store:
    for generator, settings in SETS:
        build(
            BuildRequest(
                generator=generator,
                out=out,
                source=source,
                settings=settings,
                codec=codec,
                shard_rows=16,
                workers=1,
            )
        )
    return open_store(out)


@pytest.fixture(scope="module")
def twins(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """The same view sets as raw pixels and as recipes."""
    folder = tmp_path_factory.mktemp("twins")
    source = str(photo_folder)
    return built(folder / "raw", source, "raw"), built(folder / "params", source, "params")


def batches(store: Store, views: Any, **settings: Any) -> list[Any]:  # noqa: ANN401
    settings = {"batch_size": 8, "num_threads": 2} | settings
    with ViewLoader(store, views, **settings) as loader:
        return list(loader)


def assert_alike(raw: list[Any], params: list[Any]) -> None:
    assert len(raw) == len(params) > 0
    for one, other in zip(raw, params, strict=True):
        assert one.keys == other.keys if hasattr(one, "keys") else True
        for mine, theirs in zip(one.views, other.views, strict=True):
            assert torch.equal(mine.pixels, theirs.pixels)
            assert torch.equal(mine.view, theirs.view)
            assert torch.equal(mine.status, theirs.status)
            assert torch.equal(mine.params["crop_box"], theirs.params["crop_box"])


VIEWS: dict[str, Any] = {
    "plain": [Cached("simclr", n=2)],
    "three sets": [Cached("simclr"), Cached("dino", n=2), Cached("dino-local", n=4)],
    "beside online views": [Cached("dino", n=2), Online("moco", n=2, size=32)],
    "with a flip on them": [Cached("simclr", n=2, then="flip")],
    "with a crop on them": [Cached("simclr", then="crop", size=16), Cached("simclr")],
    "rendered on": [Cached("simclr"), Online("crop", on=0, size=16)],
    "drawn at random": [Cached("dino-local", n=3, pick="random")],
}


@pytest.mark.parametrize("name", VIEWS)
def test_batches_are_those_of_the_raw_sets(twins: tuple[Store, Store], name: str) -> None:
    assert_alike(*(batches(store, VIEWS[name]) for store in twins))


@pytest.mark.parametrize("threads", [0, 1, 8])
@pytest.mark.parametrize("world", [1, 3])
def test_threads_and_ranks_change_no_bit(
    twins: tuple[Store, Store], threads: int, world: int
) -> None:
    views = VIEWS["beside online views"]
    for rank in range(world):
        ranks = {"rank": rank, "world_size": world, "num_threads": threads, "batch_size": 12}
        assert_alike(*(batches(store, views, **ranks) for store in twins))


def test_recipes_are_mixed_with_pixels(
    twins: tuple[Store, Store], photo_folder: Path, tmp_path: Path
) -> None:
    size = {"views": 3, "height": 32, "width": 32}
    stores = []
    for codec in ("raw", "params"):
        out = tmp_path / codec
        for name, seed, form in (("simclr", 0, "raw"), ("other", 1, codec)):
            request = BuildRequest(
                generator="simclr",
                view_set=name,
                seed=seed,
                out=out,
                source=str(photo_folder),
                settings=size,
                codec=form,
                workers=1,
            )
            build(request)
        stores.append(open_store(out))
    views = [Mix({"simclr": 2, "other": 1}, n=2), Mix({"simclr": 1, "other": 1}, then="flip")]
    assert_alike(*(batches(store, views) for store in stores))


def test_a_resumed_epoch_goes_on_with_the_same_bits(twins: tuple[Store, Store]) -> None:
    _, params = twins
    views = VIEWS["three sets"]
    whole = batches(params, views)
    with ViewLoader(params, views, batch_size=8, num_threads=2) as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
    with ViewLoader(params, views, batch_size=8, num_threads=2) as loader:
        loader.load_state_dict(state)
        assert_alike(whole[1:], list(loader))


def test_an_image_is_decoded_once_for_all_that_starts_from_it(
    twins: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, params = twins
    decoded: list[int] = []
    real = SourceReader.decode

    def recording(self: SourceReader, row: int, *rest: Any) -> Any:  # noqa: ANN401
        decoded.append(row)
        return real(self, row, *rest)

    monkeypatch.setattr(SourceReader, "decode", recording)
    views = [*VIEWS["three sets"], Online("moco", n=2, size=32)]
    shown = batches(params, views, tail="keep")
    assert sorted(decoded) == sorted(np.concatenate([each.index for each in shown]).tolist())


def test_a_source_image_that_cannot_be_read_is_quarantined_or_raised(
    twins: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, params = twins
    real = SourceReader.decode

    def broken(self: SourceReader, row: int, *rest: Any) -> Any:  # noqa: ANN401
        if row == 5:
            raise FormatError("source image 5 cannot be read", code="VS205")
        return real(self, row, *rest)

    monkeypatch.setattr(SourceReader, "decode", broken)
    with pytest.raises(FormatError, match="source image 5 cannot be read"):
        batches(params, VIEWS["plain"], tail="keep")
    shown = batches(params, VIEWS["plain"], tail="keep", on_corrupt="quarantine")
    lost = [each for each in shown if 5 in each.index.tolist()]
    (batch,) = lost
    place = batch.index.tolist().index(5)
    assert batch.valid.tolist()[place] is False
    assert not batch.views[0].pixels[place].any()


def test_recorded_params_that_no_view_can_have_end_a_batch(
    twins: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(twins[1].root)
    view_set = store.view_sets["simclr"]
    whole = view_set.params["crop_box"].copy()
    whole[7, :] = [0, 0, 1e6, 4]
    monkeypatch.setitem(view_set.params._whole, "crop_box", whole)
    with pytest.raises(FormatError, match="crop_box of row 7 view"):
        batches(store, [Cached("simclr", n=2)])


def test_views_that_were_never_made_are_black(tmp_path: Path) -> None:
    """Of a set whose images could not be read when it was built, and can be now."""
    from tests.viewstore.small_stores import build_small, write_photographs

    folder = write_photographs(tmp_path / "images", 6, cut=2)
    build_small(tmp_path / "s", str(folder), codec="params", on_error="skip", view_set="part")
    store = open_store(tmp_path / "s")
    shown = batches(store, [Cached("part", n=2)], batch_size=3, tail="keep", shuffle="none")
    assert 2 not in np.concatenate([each.index for each in shown]).tolist()


def test_scaled_decoding_changes_recipes_as_it_changes_online_views(
    twins: tuple[Store, Store],
) -> None:
    _, params = twins
    exact = batches(params, [Cached("dino-local", n=5)])
    scaled = batches(params, [Cached("dino-local", n=5)], scaled_decode=True)
    apart = [
        (one.views[0].pixels.float() - other.views[0].pixels.float()).abs().mean().item()
        for one, other in zip(exact, scaled, strict=True)
    ]
    assert max(apart) < 20
