"""Batches of real stores: what is in them, in which order, and that nothing else changes them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loaders.stores import NUM_DIGITS, as_array
from viewstore.errors import ConfigError, UnavailableError
from viewstore.images.policies import policies
from viewstore.images.resize import FILTERS, Filter
from viewstore.loaders import Batch, Cached, Online, ViewLoader
from viewstore.store.store import Store

VIEWS = "hard,hard,online:digits,simclr"


def make(store: Store, views: Any = VIEWS, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, views, **{"batch_size": 16, "num_threads": 0, **changes})


def trace(batch: Batch) -> list[str]:
    """Return a digest of everything a batch says of each of its samples."""
    digests = []
    for place in range(len(batch)):
        found = hashlib.sha256(repr((int(batch.index[place]), int(batch.label[place]))).encode())
        found.update(b"%d" % bool(batch.valid[place]))
        for view in batch.views:
            found.update(view.pixels[place].numpy().tobytes())
            for name in sorted(view.params):
                found.update(view.params[name][place].numpy().tobytes())
        digests.append(found.hexdigest())
    return digests


def traces(loader: ViewLoader, epochs: int = 1) -> list[list[str]]:
    return [trace(batch) for _ in range(epochs) for batch in loader]


def test_cached_slots_hold_the_stored_views_and_their_params(digits: Store) -> None:
    views = digits.view_sets["hard"]
    for batch in make(digits, "hard,hard", seed=3):
        for view in batch.views:
            assert view.source == "cached:hard"
            assert view.role == "expert"
            assert sorted(view.params) == sorted(views.params)
            for place, (row, number) in enumerate(
                zip(batch.index.tolist(), view.view.tolist(), strict=True)
            ):
                assert np.array_equal(as_array(view.pixels)[place], views[row][number])
                for name, values in view.params.items():
                    stored = views.params[name][row, number]
                    assert np.array_equal(values[place].numpy(), stored)
        first, second = batch.views
        assert not (first.view == second.view).any()


@pytest.mark.parametrize("name", ["jpg", "png"])
def test_encoded_view_sets_hold_the_stored_views(photos: Store, name: str) -> None:
    views = photos.view_sets[name]
    seen = 0
    for batch in make(photos, f"{name},{name}", batch_size=11):
        for view in batch.views:
            for place, row in enumerate(batch.index.tolist()):
                stored = views[row][int(view.view[place])]
                assert np.array_equal(as_array(view.pixels)[place], stored)
                seen += 1
    assert seen == 2 * photos.num_samples


@pytest.mark.parametrize("resize_filter", FILTERS)
def test_online_views_are_replayed_by_their_params(photos: Store, resize_filter: Filter) -> None:
    asked = [
        Online("moco", n=2, size=40, filter=resize_filter),
        Online("dino-local", size=20, filter=resize_filter),
    ]
    for batch in make(photos, asked, batch_size=11):
        assert [view.role for view in batch.views] == ["expert", "expert", "local"]
        for view, name in zip(batch.views, ("moco", "moco", "dino-local"), strict=True):
            (policy,) = policies(name)
            side = view.pixels.shape[-1]
            for place, row in enumerate(batch.index.tolist()):
                params = {key: values[place].numpy() for key, values in view.params.items()}
                image = photos.source.image(row)
                replayed = policy.render(image, params, (side, side), resize_filter)
                assert np.array_equal(as_array(view.pixels)[place], replayed)


def test_pixels_are_channels_last_bytes_with_labels_and_rows(digits: Store) -> None:
    batch = next(iter(make(digits)))
    for view in batch.views:
        assert view.pixels.shape == (16, 3, 12, 12)
        assert view.pixels.dtype == torch.uint8
        assert view.pixels.is_contiguous(memory_format=torch.channels_last)
        assert view.params["crop_box"].shape == (16, 4)
        assert view.params["crop_box"].dtype == torch.float32
        assert view.status.tolist() == [1] * 16
        assert view.parent.tolist() == [-1] * 16
    assert batch.index.dtype == batch.label.dtype == torch.int64
    assert batch.label.tolist() == digits.labels[batch.index].tolist()
    assert batch.valid.all()
    assert batch.weight == 1


def test_two_slots_of_a_policy_are_drawn_apart_and_every_epoch_anew(digits: Store) -> None:
    loader = make(digits, "online:digits,online:digits", shuffle="none")
    first, second = next(iter(loader)), None
    loader.set_epoch(1)
    second = next(iter(loader))
    boxes = [view.params["crop_box"] for batch in (first, second) for view in batch.views]
    for one in range(4):
        for other in range(one):
            assert not torch.equal(boxes[one], boxes[other])


def test_a_pair_of_dino_views_has_both_policies_wherever_its_slots_are(photos: Store) -> None:
    asked = [Online("dino", size=24), Cached("png"), Online("dino", size=24)]
    solarized = np.zeros(3, bool)
    for batch in make(photos, asked, batch_size=22, seed=1):
        for slot in (0, 2):
            solarized[slot] = bool((batch.views[slot].params["solarize"].int() < 256).any())
    assert solarized.tolist() == [False, False, True]


def test_an_epoch_has_every_row_once_and_the_next_one_another_order(digits: Store) -> None:
    loader = make(digits, "hard", tail="keep")
    epochs = [[row for batch in loader for row in batch.index.tolist()] for _ in range(3)]
    assert loader.epoch == 3
    for rows in epochs:
        assert sorted(rows) == list(range(NUM_DIGITS))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_cached_view_set_is_used_up_evenly_over_epochs(digits: Store) -> None:
    loader = make(digits, "hard", tail="keep")
    used = np.zeros((NUM_DIGITS, 4), int)
    for _ in range(4):
        for batch in loader:
            used[batch.index, batch.views[0].view] += 1
    assert (used == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_and_prefetch_change_no_bit(digits: Store, threads: int) -> None:
    alone = traces(make(digits, batch_size=64, tail="pad"), epochs=2)
    with make(digits, batch_size=64, tail="pad", num_threads=threads, prefetch=threads) as loader:
        assert traces(loader, epochs=2) == alone


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("tail", ["drop", "pad", "keep"])
def test_ranks_together_read_the_same_global_batches(
    digits: Store,
    world: int,
    tail: Any,  # noqa: ANN401
) -> None:
    whole = traces(make(digits, "hard,simclr", batch_size=12, tail=tail))
    ranks = [
        traces(make(digits, "hard,simclr", batch_size=12, tail=tail, rank=r, world_size=world))
        for r in range(world)
    ]
    assert [[s for rank in step for s in rank] for step in zip(*ranks, strict=True)] == whole


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 9), st.sampled_from([1, 2, 4]), st.integers(0, 2))
def test_a_resumed_loader_gives_the_rest_bit_for_bit(
    digits: Store, stop: int, world: int, threads: int
) -> None:
    """Stopped anywhere in two epochs, resumed on another number of ranks and threads."""
    whole = traces(make(digits, batch_size=12), epochs=2)
    first = make(digits, batch_size=12)
    state = first.state_dict()
    for _, batch in zip(range(stop), (b for _ in range(2) for b in first), strict=False):
        state = batch.state
    state = json.loads(json.dumps(state))
    ranks = []
    for rank in range(world):
        with make(
            digits, batch_size=12, rank=rank, world_size=world, num_threads=threads
        ) as resumed:
            resumed.load_state_dict(state)
            ranks.append(traces(resumed, epochs=2 - resumed.epoch))
    rest = [[s for rank in step for s in rank] for step in zip(*ranks, strict=True)]
    assert rest == whole[stop:]


def test_a_loader_left_in_mid_epoch_goes_on_there(digits: Store) -> None:
    whole = traces(make(digits))
    loader = make(digits, num_threads=2)
    left = []
    for batch in loader:
        left.append(trace(batch))
        if len(left) == 2:
            break
    assert loader.state_dict() == batch.state
    assert loader.state_dict()["step"] == 2  # prefetched batches do not count
    assert left + traces(loader) == whole
    assert loader.epoch == 1
    loader.close()


def test_a_state_after_the_last_batch_is_the_next_epoch(digits: Store) -> None:
    batches = list(make(digits))
    assert (batches[-1].state["epoch"], batches[-1].state["step"]) == (1, 0)
    assert len(json.dumps(batches[0].state, separators=(",", ":"))) < 200


def test_the_seed_of_a_state_is_taken_over(digits: Store) -> None:
    whole = traces(make(digits, seed=7))
    loader = make(digits, seed=1)
    loader.load_state_dict(make(digits, seed=7).state_dict())
    assert traces(loader) == whole


def test_seek_and_set_epoch_go_anywhere(digits: Store) -> None:
    whole = traces(make(digits), epochs=3)
    loader = make(digits)
    loader.seek(2, 1)
    assert traces(loader) == whole[2 * len(loader) + 1 :]
    loader.seek(1, 2)
    loader.set_epoch(1)  # within it already: a resume is kept
    assert traces(loader) == whole[len(loader) + 2 : 2 * len(loader)]
    loader.set_epoch(0)
    assert traces(loader) == whole[: len(loader)]
    with pytest.raises(ConfigError, match=r"step in \[0, 4\], got \(0, 5\)"):
        loader.seek(0, 5)


def test_a_list_of_batches_keeps_them_all(digits: Store) -> None:
    """A ring of buffers would overwrite the first with the last."""
    with make(digits, num_threads=2) as loader:
        kept = list(loader)
    assert [trace(batch) for batch in kept] == traces(make(digits))


def test_delivered_pixels_belong_to_the_caller(digits: Store) -> None:
    loader = make(digits, shuffle="none")
    for batch in loader:
        for view in batch.views:
            view.pixels.zero_()
            view.params["crop_box"].zero_()
    loader.seek(0)
    assert traces(loader) == traces(make(digits, shuffle="none"))


def test_padding_is_marked_and_repeats_the_start(digits: Store) -> None:
    batches = list(make(digits, "hard", tail="pad"))
    assert len(batches) == 5
    assert batches[-1].valid.tolist() == [True] * 6 + [False] * 10
    assert batches[-1].index[6:].tolist() == batches[0].index[:10].tolist()


def test_an_uneven_cut_weighs_its_batches(digits: Store) -> None:
    first, second = (
        next(iter(make(digits, "hard", batch_size=15, rank=rank, world_size=2, uneven=True)))
        for rank in (0, 1)
    )
    assert (len(first), len(second)) == (8, 7)
    assert first.weight * 8 / 16 + second.weight * 7 / 14 == pytest.approx(1.0, abs=1e-12)
    assert (first.weight, second.weight) == (16 / 15, 14 / 15)


def test_a_row_filter_orders_its_rows_alone(digits: Store) -> None:
    kept = np.arange(0, NUM_DIGITS, 3)
    loader = make(digits, "hard", batch_size=8, tail="keep", rows=kept)
    rows = [row for batch in loader for row in batch.index.tolist()]
    assert sorted(rows) == kept.tolist()
    assert rows != kept.tolist()
    with pytest.raises(ConfigError, match="has another row filter"):
        make(digits, "hard", batch_size=8, tail="keep").load_state_dict(loader.state_dict())


def test_rows_that_match_are_ordered_alone_and_are_part_of_the_state(digits: Store) -> None:
    flip = np.asarray(digits.view_sets["hard"].params["flip"])
    kept = np.flatnonzero((flip == 1).all(axis=1) & (digits.labels > 2))
    loader = make(digits, "hard", batch_size=2, tail="keep", where="all(flip = 1) and label > 2")
    rows = [row for batch in loader for row in batch.index.tolist()]
    assert sorted(rows) == kept.tolist()
    by_number = make(digits, "hard", batch_size=2, tail="keep", rows=kept)
    assert (
        by_number.state_dict()
        == make(
            digits, "hard", batch_size=2, tail="keep", rows=kept, where="index >= 0"
        ).state_dict()
    )
    with pytest.raises(ConfigError, match="has another row filter"):
        make(
            digits, "hard", batch_size=2, tail="keep", where="all(flip = 1) and label > 6"
        ).load_state_dict(loader.state_dict())
    with pytest.raises(ConfigError, match="rows and where must have a row in common"):
        make(digits, "hard", batch_size=1, rows=[3], where="index < 3")


def test_any_batch_can_be_made_alone(digits: Store) -> None:
    batches = list(make(digits))
    loader = make(digits, num_threads=1)
    for step in (3, 0, 2):
        assert trace(loader.batch(0, step)) == trace(batches[step])
    assert loader.state_dict() == make(digits).state_dict()
    with pytest.raises(ConfigError, match=r"a step in \[0, 3\], got \(0, 4\)"):
        loader.batch(0, 4)
    loader.close()


@pytest.mark.parametrize(
    "rows", [[], [1, 1], [-1, 2], [0, 70], [0.5], [[1], [2, 3]], [True, False], [False] * 70]
)
def test_a_row_filter_that_makes_no_sense_is_refused(
    digits: Store,
    rows: Any,  # noqa: ANN401
) -> None:
    with pytest.raises(ConfigError, match="rows must be"):
        make(digits, rows=rows)


def test_rows_are_a_mask_or_numbers_in_any_order(digits: Store) -> None:
    """They select: the order of an epoch is that of `shuffle`."""
    mask = np.zeros(NUM_DIGITS, bool)
    mask[[3, 9, 50]] = True
    found = [
        [batch.index.tolist() for batch in make(digits, "hard", rows=rows, batch_size=3)]
        for rows in ([3, 9, 50], [50, 3, 9], mask, mask.tolist())
    ]
    assert len(found) == 4
    assert all(each == found[0] for each in found)


def test_block_and_no_shuffle_deliver_every_row(digits: Store) -> None:
    for shuffle in ("block:2", "none"):
        loader = make(digits, "hard", shuffle=shuffle, tail="keep")
        rows = [row for batch in loader for row in batch.index.tolist()]
        assert sorted(rows) == list(range(NUM_DIGITS))
        assert (rows == sorted(rows)) == (shuffle == "none")


def test_batches_are_moved_to_the_device_that_is_asked_for(digits: Store) -> None:
    batch = next(iter(make(digits, device="meta")))
    assert {view.pixels.device.type for view in batch.views} == {"meta"}
    assert batch.index.device.type == "meta"


def test_an_unknown_device_is_refused(digits: Store) -> None:
    with pytest.raises(ConfigError, match="device must be one that torch knows, got 'gpu7'"):
        make(digits, device="gpu7")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("changes", [{"pin": True}, {"device": "cuda:0"}])
def test_a_device_that_is_not_there_is_refused_at_once(
    digits: Store, changes: dict[str, Any]
) -> None:
    with pytest.raises(UnavailableError, match="needs a CUDA device, torch finds none"):
        make(digits, **changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_the_device_are_the_same(digits: Store) -> None:
    whole = traces(make(digits))
    loader = make(digits, device="cuda:0", pin=True, num_threads=2)
    moved = [batch.to("cpu") for batch in loader if batch.index.is_cuda]
    assert [trace(batch) for batch in moved] == whole
    loader.close()


def test_another_batch_size_of_a_state_is_refused_and_other_views_warn(digits: Store) -> None:
    state = make(digits, "hard").state_dict()
    with pytest.raises(ConfigError, match="has another batch_size: it was saved with G 16"):
        make(digits, "hard", batch_size=8).load_state_dict(state)
    with pytest.warns(UserWarning, match="saved with other views"):
        make(digits, "simclr").load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"seed must be in \[0, 2\^53\), got -1"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
        ({"missing": "skip"}, "missing must be one of raise, fallback, resample, got 'skip'"),
        ({"verify": "never"}, "verify must be first, always or off, got 'never'"),
        ({"views": []}, "views must name at least one view"),
        ({"batch_size": 71}, "batch_size must be at most the 70 rows"),
        ({"world_size": 3, "rank": 0}, "use batch_size 15 or 18"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    digits: Store, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(digits, **changes)
