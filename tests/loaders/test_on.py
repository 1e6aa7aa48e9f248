"""Slots that are rendered on the pixels of another one: what they show, and where it lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

import viewstore
from tests.loaders.families import family_store, put, say_parents
from tests.loaders.stores import as_array, damage
from viewstore.errors import ConfigError, FormatError
from viewstore.format.columns import Column
from viewstore.images.colours import Pixels
from viewstore.images.policies import POLICIES, Drawn, policies
from viewstore.images.resize import Filter, resize
from viewstore.loaders import Cached, Mix, Online, ViewDataset, ViewLoader, keep_batch
from viewstore.loaders.batches.batch import Batch, View
from viewstore.randomness import Integers, Op, Stream
from viewstore.store.store import Store

SEED = 6
CHAIN = [
    Cached("hard", then="crop", size=10),
    Cached("hard", n=2),
    Online("simclr", on=0),
    Online("crop", on=3, size=7),
    Online("crop", on=4),
    Online("dino", n=2, on=1),
]


def make(store: Any, views: Any, **changes: Any) -> ViewLoader:  # noqa: ANN401
    return ViewLoader(store, views, **{"batch_size": 16, "num_threads": 0, "seed": SEED} | changes)


def first(store: Any, *views: Any, **changes: Any) -> Batch:  # noqa: ANN401
    with make(store, list(views), **changes) as loader:
        return next(iter(loader))


@dataclass(frozen=True)
class Inverted:
    """A policy of a user's own, which knows nothing of boxes and flips."""

    name: str = "inverted"
    role: str = "heavy"
    columns: tuple[Column, ...] = (Column(name="x_inverted", dtype="u1", shape=()),)
    whole_pixels: bool = False

    def for_size(self, height: int, width: int) -> Inverted:
        assert height == width
        return self

    def draw(
        self, stream: Stream, index: Integers, view: Integers, height: Integers, width: Integers
    ) -> Drawn:
        del height, width
        return {"x_inverted": (stream.uniform(Op.GRAY, index, view)[..., 0] < 0.5).astype(np.uint8)}

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        del filter
        view = np.empty((*size, 3), np.uint8) if out is None else out
        view[...] = resize(image, *size) ^ (255 * params["x_inverted"])
        return view


def by_hand(batch: Batch, slot: int, policy: Any, filter: Filter = "area") -> Pixels:  # noqa: ANN401
    """Return the views of a slot made anew: drawn for it, on the pixels of its parent slot."""
    view = batch.views[slot]
    below = as_array(batch.views[view.parent_slot].pixels)
    height, width = view.pixels.shape[2:]
    policy = policy.for_size(height, width)
    rows = batch.index.numpy()
    drawn = policy.draw(Stream(SEED, batch.epoch), rows, slot, *below.shape[1:3])
    made = []
    for place, image in enumerate(below):
        params = {name: column[place] for name, column in drawn.items()}
        made.append(policy.render(image, params, (height, width), filter))
    return np.stack(made)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_view_is_what_the_policy_makes_of_the_pixels_below(digits: Store, name: str) -> None:
    """Every policy on a stored view, a rendered one, an online one, and on one of these."""
    views = [Cached("hard"), Cached("hard", then="flip"), Online("moco", size=10)]
    filters: tuple[Filter, ...] = ("area", "linear", "area", "area")
    views += [Online(name, on=on, filter=f) for on, f in zip((0, 1, 2, 3), filters, strict=True)]
    pair = policies(name)
    uses = {"flip": 1, "moco": 1}.get(name, 0)
    batch = first(digits, *views)
    for number, filter in enumerate(filters):
        expected = by_hand(batch, 3 + number, pair[(uses + number) % len(pair)], filter)
        assert np.array_equal(as_array(batch.views[3 + number].pixels), expected)


def test_a_policy_without_boxes_shows_the_part_below(digits: Store) -> None:
    batch = first(digits, Cached("hard"), Online(Inverted(), on=0), Online(Inverted()))
    below, view, source = batch.views
    assert np.array_equal(as_array(view.pixels), by_hand(batch, 1, Inverted()))
    assert 0 < view.params["x_inverted"].sum() < 16
    assert view.params["crop_box"].equal(below.params["crop_box"])
    assert view.params["crop_local"].tolist() == [[0, 0, 12, 12]] * 16
    assert (view.role, source.role) == ("heavy", "heavy")
    assert "crop_box" not in source.params
    _, again = first(digits, Online(Inverted()), Online("flip", on=0)).views
    side = int(digits.table.height[0])
    assert again.params["crop_box"].tolist() == [[0, 0, side, side]] * 16


def test_a_view_says_what_it_was_rendered_on(digits: Store) -> None:
    with make(digits, CHAIN) as loader:
        slots, batch = loader.slots, next(iter(loader))
    assert [slot.parent_slot for slot in slots] == [-1, -1, -1, 0, 3, 4, 1, 1]
    for slot, view in zip(slots, batch.views, strict=True):
        assert view.parent_slot == slot.parent_slot
        assert (16, slot.channels, slot.height, slot.width) == view.pixels.shape
        assert sorted(slot.columns) == sorted(view.params)
        assert (slot.role, slot.kind) == (view.role, view.source.partition(":")[0])
        if slot.parent_slot >= 0:
            assert view.parent.equal(batch.views[slot.parent_slot].view)
            assert view.view.tolist() == [slot.number] * 16
    assert [slot.height for slot in slots] == [10, 12, 12, 10, 7, 7, 12, 12]
    assert [slot.role for slot in slots] == ["expert"] * 6 + ["global"] * 2


def test_local_views_are_smaller_than_those_below(photos: Store) -> None:
    with make(photos, [Cached("jpg"), Online("dino-local", on=0), Online("crop", on=1)]) as loader:
        assert [(slot.height, slot.width) for slot in loader.slots] == [
            (48, 40),
            (21, 17),
            (21, 17),
        ]
        assert [slot.role for slot in loader.slots] == ["expert", "local", "local"]


def test_chains_of_operators_make_heavy_views_of_a_slot_or_of_the_source(digits: Store) -> None:
    views = [Cached("hard"), Online("ra16", on=0), Online("dssl-byol-heavy", on=0), Online("ra16")]
    views += [Online("simclr+ra16"), Cached("digits", then="ra16")]
    with make(digits, views) as loader:
        slots, batch = loader.slots, next(iter(loader))
    roles = ["expert"] + ["heavy"] * 5
    assert [slot.role for slot in slots] == [view.role for view in batch.views] == roles
    assert [slot.parent_slot for slot in slots] == [-1, 0, 0, -1, -1, -1]


def test_generated_views_stay_generated(searched: Store) -> None:
    batch = first(searched, Cached("w-search"), Online("simclr", on=0), batch_size=4)
    assert [view.role for view in batch.views] == ["generated", "generated"]


Edges = NDArray[np.float64]  # where the edges of pixels lie along one side of the source, [n + 1]


def shown_part(edges: Edges, begin: float, length: float, size: int) -> Edges:
    """Return the edges of a crop of painted pixels, resized to `size`."""
    return np.interp(begin + length * np.arange(size + 1) / size, np.arange(len(edges)), edges)


def cropped(
    painted: tuple[Edges, Edges], box: Iterable[float], size: tuple[int, ...], *, flip: bool
) -> tuple[Edges, Edges]:
    """Return where the edges of a view lie whose box is in the pixels of the one below."""
    top, left, height, width = (float(each) for each in box)
    across = shown_part(painted[1], left, width, size[1])
    return shown_part(painted[0], top, height, size[0]), across[::-1] if flip else across


def box_of(painted: tuple[Edges, Edges]) -> list[float]:
    (top, bottom), (left, right) = (sorted((each[0], each[-1])) for each in painted)
    return [top, left, bottom - top, right - left]


@pytest.mark.parametrize("below", ["cached", "then", "online"])
def test_boxes_are_where_painted_coordinates_say(photos: Store, below: str) -> None:
    """The coordinates of the source are cropped, resized and mirrored as the pixels are."""
    base = {"cached": Cached("png"), "then": Cached("png", then="crop"), "online": Online("crop")}
    views = [base[below], Online("moco", on=0, size=31), Online("crop", on=1), Online("flip", on=2)]
    batch = first(photos, *views)
    stored = photos.view_sets["png"].params
    for place, row in enumerate(batch.index.tolist()):
        lowest = batch.views[0]
        whole = int(photos.table.height[row]), int(photos.table.width[row])
        painted = np.arange(whole[0] + 1.0), np.arange(whole[1] + 1.0)
        steps = [(view, view.params["crop_local"]) for view in batch.views[1:]]
        if below == "online":
            steps.insert(0, (lowest, lowest.params["crop_box"]))
        else:
            view = int(lowest.view[place])
            box, flip = stored["crop_box"][row, view], bool(stored["flip"][row, view])
            painted = cropped(painted, box, (48, 40), flip=flip)
        if below == "then":
            steps.insert(0, (lowest, lowest.params["crop_local"]))
        for view, local in steps:
            flip = bool(view.params["flip"][place])
            painted = cropped(painted, local[place].tolist(), view.pixels.shape[2:], flip=flip)
            found = view.params["crop_box"][place].tolist()
            assert found == pytest.approx(box_of(painted), abs=1e-3, rel=0)


def test_pixels_lie_where_boxes_say(tmp_path: Path) -> None:
    """Rows and columns of the source are numbered by its colours, to be found in each view."""
    for number in range(16):
        rows, columns = np.mgrid[: 200 + number, : 250 - number]
        image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
        (tmp_path / "source" / "c").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "source" / "c" / f"{number}.png")
    store = family_store(tmp_path / "store", {"small": 1}, source=str(tmp_path / "source"))
    views = [Online("medcrop", size=120), Online("medcrop", on=0), Online("flip", on=1, size=100)]
    for view in first(store, *views).views:
        pixels, size = as_array(view.pixels).astype(float), view.pixels.shape[-1]
        for place, (top, left, height, width) in enumerate(view.params["crop_box"].tolist()):
            centres = (np.arange(size) + 0.5) / size
            ys = top + height * centres - 0.5
            xs = left + width * centres - 0.5
            across = pixels[place, :, :, 1].mean(axis=0)
            assert np.abs(pixels[place, :, :, 0].mean(axis=1) - ys).max() < 2  # rounded 3 times
            assert min(np.abs(across - xs).max(), np.abs(across[::-1] - xs).max()) < 2


def test_a_slot_on_one_that_follows_shows_its_view(tmp_path: Path) -> None:
    store = family_store(tmp_path / "store", {"clean": 2, "dark": 6})
    say_parents(store, "dark", "clean", [0, 1, 0, 1, 0, 1])
    batch = first(store, Cached("clean"), Cached("dark", follow=0), Online("crop", on=1))
    clean, dark, cut = batch.views
    assert dark.parent.equal(clean.view)
    assert cut.parent.equal(dark.view)
    assert np.array_equal(as_array(cut.pixels), by_hand(batch, 2, policies("crop")[0]))


def test_a_slot_may_lie_on_a_mix(digits: Store) -> None:
    batch = first(digits, Mix({"hard": 1, "digits": 1}), Online("crop", on=0), batch_size=64)
    mixed, cut = batch.views
    assert np.array_equal(as_array(cut.pixels), by_hand(batch, 1, policies("crop")[0]))
    assert cut.parent.equal(mixed.view)
    for name, number in (("digits", 0), ("hard", 1)):
        mine = mixed.params["x_set"] == number
        box = digits.view_sets[name].params["crop_box"][batch.index[mine], mixed.view[mine]]
        local, wide = cut.params["crop_local"][mine].numpy(), box[:, 3]
        width = cut.params["crop_box"][mine][:, 3].numpy()
        assert np.allclose(width, local[:, 3] * wide / 12, atol=1e-4)


def whole(loader: ViewLoader) -> list[tuple[list[int], list[list[bytes]]]]:
    """Return rows, and of each view and sample what its pixels and its place are."""

    def of(view: View) -> list[bytes]:
        boxes = view.params["crop_box"].numpy()
        return [p.tobytes() + b.tobytes() for p, b in zip(view.pixels.numpy(), boxes, strict=True)]

    return [(batch.index.tolist(), [of(view) for view in batch.views]) for batch in loader]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("threads", [0, 1, 3, 8])
def test_ranks_and_threads_change_nothing(digits: Store, world: int, threads: int) -> None:
    with make(digits, CHAIN, batch_size=60) as loader:
        ((rows, views),) = whole(loader)
    for rank in range(world):
        share = slice(rank * 60 // world, (rank + 1) * 60 // world)
        cut = {"rank": rank, "world_size": world, "num_threads": threads}
        with make(digits, CHAIN, batch_size=60, **cut) as loader:
            ((mine, found),) = whole(loader)
        assert mine == rows[share]
        assert found == [each[share] for each in views]


def test_a_run_goes_on_where_it_stood(digits: Store) -> None:
    with make(digits, CHAIN) as loader:
        epochs = [whole(loader), whole(loader)]
        state = loader.batch(1, 1).state
    with make(digits, CHAIN, num_threads=2, seed=0) as resumed:
        resumed.load_state_dict(state)
        assert whole(resumed) == epochs[1][2:]
    with (
        make(digits, [*CHAIN[:-1], Online("dino", n=2, on=2)]) as other,
        pytest.warns(UserWarning, match="saved with other views"),
    ):
        other.load_state_dict(state)


def test_worker_processes_render_alike(digits: Store) -> None:
    with make(digits, CHAIN) as loader:
        batches = list(loader)
    dataset = ViewDataset(digits, CHAIN, batch_size=16, seed=SEED)
    loaded = DataLoader(
        dataset, batch_sampler=dataset.batches(), collate_fn=keep_batch, num_workers=1
    )
    for one, other in zip(batches, loaded, strict=True):
        for mine, theirs in zip(one.views, other.views, strict=True):
            assert mine.pixels.equal(theirs.pixels)
            assert mine.parent.equal(theirs.parent)
            assert mine.parent_slot == theirs.parent_slot
            assert mine.params["crop_box"].equal(theirs.params["crop_box"])


def test_several_stores_render_alike(digits: Store, tmp_path: Path) -> None:
    other = viewstore.open(shutil.copytree(digits.root, tmp_path / "other"))
    batch = first([digits, other], Cached("hard"), Online("crop", on=0), shuffle="none")
    one = first(digits, Cached("hard"), Online("crop", on=0), shuffle="none")
    assert batch.index.equal(one.index)
    assert batch.views[1].parent_slot == 0
    assert batch.views[1].parent.equal(batch.views[0].view)
    assert batch.views[1].params["crop_local"].dtype == one.views[1].params["crop_local"].dtype


def test_damaged_samples_are_black_on_top_too(copy: Store) -> None:
    damage(copy, "hard", 3)
    views = Cached("hard"), Online("crop", on=0)
    with pytest.raises(FormatError, match="hard"):
        first(copy, *views, shuffle="none")
    batch = first(copy, *views, shuffle="none", on_corrupt="quarantine", verify="always")
    assert batch.valid.tolist() == [row != 3 for row in range(16)]
    black = [[not image.any() for image in view.pixels] for view in batch.views]
    assert black == [[row == 3 for row in range(16)]] * 2


def test_the_status_of_a_view_is_that_of_the_one_below(tmp_path: Path) -> None:
    store = family_store(tmp_path / "store", {"some": 2})
    put(store, "some", "status", np.tile([1, 3], (70, 1)), np.uint8)
    below, view = first(store, Cached("some"), Online("crop", on=0), missing="fallback").views
    assert sorted(below.status.unique().tolist()) == [1, 3]
    assert view.status.equal(below.status)
    assert below.status.data_ptr() != view.status.data_ptr()


REFUSED: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (
        lambda: [Cached("hard", n=2), Online("crop", on=1)],
        {"photometric": "device"},
        "on=1 needs photometric='cpu'",
    ),
    (
        lambda: [Cached("hard"), Online("crop", on=1)],
        {},
        "on must name an earlier slot, got on=1 for slot 1",
    ),
    (
        lambda: [Online("crop", on=5), Cached("hard")],
        {},
        "on must name an earlier slot, got on=5 for slot 0",
    ),
    (lambda: Online("crop", on=-1), {}, "Online on must be at least 0, got -1"),
    (lambda: Online("crop", on=True), {}, "Online on must be a whole number, got True"),
]


@pytest.mark.parametrize(("views", "settings", "message"), REFUSED)
def test_what_cannot_be_rendered_on_is_refused(
    digits: Store, views: Callable[[], Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(digits, views(), **settings)
    assert (str(caught.value), caught.value.code) == (message, "VS101")


def test_online_slots_draw_what_they_drew_without_others_on_them(digits: Store) -> None:
    plain = first(digits, Cached("hard", n=2), Online("simclr"))
    linked = first(digits, Cached("hard", n=2), Online("simclr"), Online("crop", on=2))
    for one, other in zip(plain.views, linked.views, strict=False):
        assert one.pixels.equal(other.pixels)
