"""CutMix views: boxes, partners and shares as they are recorded, against the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.generators.standard_views import context_of, samples_on, standard_views
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.errors import ConfigError
from viewstore.generators import make_settings
from viewstore.generators.contract import Rendered
from viewstore.generators.pixels.cutmix import CutMix
from viewstore.store.store import open_store
from viewstore.store.verify import verify

COUNT, VIEWS = 40, 3


def picture(row: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(row)
    return generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)


PARENT = standard_views(picture, COUNT, views=VIEWS)


def rendered(parent: Any = PARENT, **changes: Any) -> list[Rendered]:  # noqa: ANN401
    context = replace(context_of(picture, COUNT, parent=parent), **changes)
    generator = make_settings("cutmix", {}).resolve(context).make(context)
    return list(generator.render(samples_on(picture, parent, COUNT)))


def test_each_view_is_its_own_outside_of_the_box_and_the_partners_inside() -> None:
    views = rendered()
    partners = set()
    for one in views:
        params = one.params
        assert one.pixels is not None
        assert params["parent"].tolist() == list(range(VIEWS))
        assert (params["status"] == 1).all()
        for view in range(VIEWS):
            x0, y0, x1, y1 = params["mix_box"][view]
            partner = int(params["mix_partner"][view])
            partners.add(partner)
            kept = 0
            for y in range(32):
                for x in range(32):
                    inside = x0 <= x < x1 and y0 <= y < y1
                    kept += not inside
                    row = partner if inside else one.index
                    assert (one.pixels[view, y, x] == PARENT.pixels[row, view, y, x]).all()
            assert params["mix_lambda"][view] == np.float32(kept / 32**2)
            assert params["mix_lambda"][view] >= params["mix_lambda0"][view] - 0.07
    assert len(partners) > COUNT / 2


def test_views_are_keyed_by_seed_sample_and_view() -> None:
    first, other = rendered(), rendered(seed=4)
    for name in ("mix_lambda0", "mix_partner", "mix_box"):
        values = [np.stack([one.params[name] for one in each]) for each in (first, other)]
        assert (values[0] != values[1]).any(1).mean() > 0.5
    shares = np.stack([one.params["mix_lambda0"] for one in first])
    assert len(np.unique(shares)) == shares.size


def test_partners_are_rows_whose_view_was_made() -> None:
    status = np.ones((COUNT, VIEWS), np.uint8)
    status[: COUNT // 2, 1] = 4
    damaged = replace(PARENT, params=type(PARENT.params)({**PARENT.params, "status": status}))
    views = rendered(damaged)
    for one in views:
        assert (one.params["mix_partner"][1] >= COUNT // 2).all()
        assert one.params["status"].tolist() == [1, 3 if one.index < COUNT // 2 else 1, 1]
        assert one.pixels is not None
        assert one.pixels[1].any() == (one.index >= COUNT // 2)


def test_another_size_than_the_mixed_views_have_is_refused() -> None:
    context = context_of(picture, COUNT, parent=PARENT)
    with pytest.raises(ConfigError, match=r"cutmix\.height must be that of simclr, 32, got 64"):
        CutMix(height=64).resolve(context)


def test_a_store_of_mixed_views_is_whole_and_any_row_makes_it_stale(tmp_path: Path) -> None:
    build_small(tmp_path / "s", write_npz(tmp_path / "images.npz"))
    for _ in range(2):
        built = build_small(tmp_path / "s", None, generator="cutmix", settings={}, shard_rows=None)
    assert built.samples == 0
    store = open_store(tmp_path / "s")
    mixed = store.view_sets["cutmix"]
    assert (mixed.plan.reach, mixed.roles, mixed.of) == ("set", ("cutmix", "cutmix"), "simclr")
    assert not list(verify(tmp_path / "s", level="content"))
    row = 3
    partner, (x0, y0, x1, y1) = mixed.params["mix_partner"][row, 1], mixed.params["mix_box"][row, 1]
    standard = store.view_sets["simclr"]
    assert (mixed[row][1][y0:y1, x0:x1] == standard[partner][1][y0:y1, x0:x1]).all()
