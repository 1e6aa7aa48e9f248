"""Heavy views: which view each is made of, what is recorded, and what the record gives again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.generators.standard_views import (
    StandardViews,
    context_of,
    samples_on,
    standard_views,
)
from viewstore.errors import ConfigError, FormatError
from viewstore.generators import make_settings
from viewstore.generators.contract import Context, Input, Rendered
from viewstore.generators.pixels.heavy import Heavy, ResolvedHeavy
from viewstore.images.operated import HEAVY
from viewstore.images.operators.recorded import operated, put_together
from viewstore.images.recipes import Renderer
from viewstore.images.resize import resize

NUM = 12
CHAINS = [name for name in HEAVY if name != "byol"]


def picture(row: int) -> Any:  # noqa: ANN401
    height, width = 40 + row, 50 - row
    rows, columns = np.mgrid[:height, :width]
    return (np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256).astype("u1")


def made(
    settings: Heavy,
    parent: StandardViews | None,
    count: int = NUM,
    **changes: Any,  # noqa: ANN401
) -> tuple[ResolvedHeavy, list[Rendered]]:
    """Return what settings resolve to, and the views of all rows."""
    context = context_of(picture, count, parent=parent, **changes)
    resolved = settings.resolve(context)
    return resolved, list(resolved.make(context).render(samples_on(picture, parent, count)))


def of_view(rendered: Rendered, view: int) -> dict[str, Any]:
    return {name: column[view] for name, column in rendered.params.items() if name != "status"}


@pytest.fixture(scope="module")
def parent() -> StandardViews:
    return standard_views(picture, NUM, views=3)


@pytest.mark.parametrize("name", CHAINS)
def test_a_heavy_view_is_its_operators_on_the_view_of_its_parent(
    parent: StandardViews, name: str
) -> None:
    resolved, views = made(Heavy(chain=name, views=4), parent)
    assert (resolved.height, resolved.width) == (32, 32)
    assert resolved.roles() == ("heavy",) * 4
    for rendered in views:
        assert rendered.pixels is not None
        for view in range(4):
            params = of_view(rendered, view)
            number = params["parent"]
            standard = parent[rendered.index][number]
            expected = put_together(operated(standard, params), params)
            assert np.array_equal(rendered.pixels[view], expected)
            box = parent.params["crop_box"][rendered.index, number]
            assert np.array_equal(params["crop_box"], box)
        assert rendered.params["status"].tolist() == [1] * 4


@pytest.mark.parametrize(("count", "of"), [(1, 3), (2, 3), (3, 3), (5, 3), (6, 3), (7, 2), (4, 1)])
def test_the_views_of_the_other_set_are_taken_equally_often(count: int, of: int) -> None:
    standard = standard_views(picture, NUM, views=of)
    context = context_of(picture, NUM, parent=standard, wants_pixels=False)
    resolved = Heavy(views=count).resolve(context)
    total: Counter[int] = Counter()
    rows = 400
    samples = [
        replace(samples_on(picture, standard, NUM)[row % NUM], index=row) for row in range(rows)
    ]
    for rendered in resolved.make(context).render(samples):
        taken = Counter(rendered.params["parent"].tolist())
        assert rendered.pixels is None
        assert set(taken) <= set(range(of))
        every = [taken[number] for number in range(of)]
        assert max(every) - min(every) <= 1
        total += taken
    expected = rows * count / of
    surplus = count % of / of
    tolerance = 4 * np.sqrt(rows * surplus * (1 - surplus)) + 1e-9
    assert all(abs(total[number] - expected) <= tolerance for number in range(of))


def test_from_the_sample_a_view_shows_the_whole_source_image() -> None:
    settings = Heavy(chain="paper", derive="from_sample", height=24, width=20)
    assert (settings.inputs(), settings.reads_source()) == ({}, True)
    _, views = made(settings, None)
    for rendered in views:
        image = picture(rendered.index)
        assert rendered.pixels is not None
        for view in range(2):
            params = of_view(rendered, view)
            assert params["parent"] == -1
            assert params["crop_box"].tolist() == [0, 0, *image.shape[:2]]
            expected = put_together(operated(resize(image, 24, 20), params), params)
            assert np.array_equal(rendered.pixels[view], expected)


def composed(box: Any, flip: bool, local: Any, side: int) -> list[float]:  # noqa: ANN401
    """Return the box of a crop of a crop as the format's page writes it."""
    (top, left, height, width), (y, x, tall, wide) = box.tolist(), local.tolist()
    x = side - x - wide if flip else x
    scale_y, scale_x = height / side, width / side
    return [top + y * scale_y, left + x * scale_x, tall * scale_y, wide * scale_x]


def test_a_second_crop_is_recorded_in_source_pixels_and_within_the_view(
    parent: StandardViews,
) -> None:
    _, views = made(Heavy(chain="byol", views=6), parent)
    smaller = mirrored = whole = 0
    for rendered in views:
        for view in range(6):
            params = of_view(rendered, view)
            place = rendered.index, params["parent"]
            box, flip = parent.params["crop_box"][place], parent.params["flip"][place] == 1
            assert params["crop_box"] == pytest.approx(
                composed(box, flip, params["crop_local"], 32), rel=1e-6
            )
            top, left, height, width = params["crop_box"].tolist()
            assert top >= box[0] - 1e-4
            assert left >= box[1] - 1e-4
            assert top + height <= box[0] + box[2] + 1e-4
            assert left + width <= box[1] + box[3] + 1e-4
            moved = not np.array_equal(params["jigsaw"], np.arange(16))
            assert moved == (params["ops"] == 255).all()
            assert moved <= (params["crop_local"].tolist() == [0, 0, 32, 32])
            smaller += height < box[2]
            mirrored += flip
            whole += moved
    assert min(smaller, mirrored, whole) > 3


@pytest.mark.parametrize("name", [*HEAVY])
def test_the_recipe_renders_the_views_from_what_is_recorded(
    parent: StandardViews, name: str
) -> None:
    resolved, views = made(Heavy(chain=name, views=4, n=None, height=28, width=30), parent)
    renderer = renderer_of(resolved)
    for rendered in views:
        assert rendered.pixels is not None
        stored = {
            column.name: np.frombuffer(
                np.asarray(rendered.params[column.name]).tobytes(), column.numpy_dtype
            ).reshape(column.shape)
            for column in resolved.columns()
        }
        params = {each: stored[each] for each in renderer.columns}
        assert renderer.check(params, np.full(4, 32), np.full(4, 32)) == []
        for view in range(4):
            one = {each: column[view] for each, column in params.items()}
            image = parent[rendered.index][one["parent"]]
            assert np.array_equal(renderer.render(image, one), rendered.pixels[view])


def renderer_of(resolved: ResolvedHeavy, **changes: Any) -> Renderer:  # noqa: ANN401
    """Return the renderer of a plan, whose args went through JSON."""
    spec = Heavy(**asdict(resolved)).recipe()
    args = json.loads(json.dumps({**spec.args, **changes}))
    recipe = {"name": spec.name, "version": spec.version, "args": args, "filter": spec.filter}
    columns = tuple(column.name for column in resolved.columns())
    return Renderer.of(recipe, columns, (resolved.height, resolved.width))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ops", 99),
        ("ops_args", np.nan),
        ("jigsaw", 3),
        ("crop_local", -1),
        ("crop_local", 40),
        ("flip", 2),
        ("blur", 1e9),
        ("jitter", np.nan),
        ("jitter_order", 7),
        ("gray", 2),
        ("solarize", 300),
    ],
)
def test_a_record_that_cannot_be_is_named(parent: StandardViews, column: str, value: Any) -> None:  # noqa: ANN401
    resolved, views = made(Heavy(chain="byol", n=2, views=4), parent)
    params = {name: np.array(each) for name, each in views[0].params.items() if name != "status"}
    params[column][2] = value
    found = renderer_of(resolved).check(params, np.full(4, 32), np.full(4, 32))
    named = [(name, where.tolist()) for name, where in found]
    assert named == [(column, [False, False, True, False])]


@pytest.mark.parametrize(
    "args",
    [
        {"operators": ["Rotate"]},
        {"operators": 7},
        {"operators": None},
        {"before": 1},
        {"box": "parent"},
        {"box": "crop_local"},
        {"box": None},
    ],
)
def test_a_recipe_of_other_operators_is_refused(parent: StandardViews, args: Any) -> None:  # noqa: ANN401
    resolved = Heavy().resolve(context_of(picture, NUM, parent=parent))
    with pytest.raises(FormatError, match="operators that are not known here") as caught:
        renderer_of(resolved, **args)
    assert caught.value.code == "VS204"


def test_views_that_were_not_made_are_not_started_from(parent: StandardViews) -> None:
    status = parent.params["status"].copy()
    status[:, 1] = 3
    status[4] = 3
    damaged = replace(parent, params=type(parent.params)({**parent.params, "status": status}))
    _, views = made(Heavy(views=5), damaged)
    for rendered in views:
        taken = Counter(rendered.params["parent"].tolist())
        if rendered.index == 4:
            assert rendered.params["status"].tolist() == [3] * 5
        else:
            assert sorted(taken.values()) == [2, 3]
            assert set(taken) == {0, 2}
            assert rendered.params["status"].tolist() == [1] * 5


def test_no_heavy_view_of_digits_is_flipped() -> None:
    digits = standard_views(picture, NUM, "digits", views=2)
    for name in HEAVY:
        _, views = made(Heavy(chain=name, views=4), digits)
        flipped = [rendered.params.get("flip", np.zeros(4)).any() for rendered in views]
        assert not any(flipped), name
    standard = standard_views(picture, NUM, views=2)
    _, views = made(Heavy(chain="byol", views=4), standard)
    assert any(rendered.params["flip"].any() for rendered in views)


def test_numbers_are_those_of_the_chain_and_0_where_it_has_none(parent: StandardViews) -> None:
    context = context_of(picture, NUM, parent=parent)
    found = {}
    for name in HEAVY:
        resolved = Heavy(chain=name).resolve(context)
        found[name] = (resolved.n, resolved.m, resolved.grid)
        assert Heavy(**asdict(resolved)).resolve(context) == resolved
    assert found == {
        "ra16": (2, 5, 0),
        "paper": (2, 5, 4),
        "paper3": (2, 5, 4),
        "either": (2, 5, 4),
        "randaugment": (2, 9, 0),
        "ua": (0, 0, 0),
        "jigsaw": (0, 0, 4),
        "byol": (8, 16, 4),
    }
    presets = [("ra16", 1, 1), ("ra16", 2, 1), ("ra16", 2, 5), ("ra16", 4, 10), ("ra16", 8, 16)]
    for chain, n, m in presets:
        preset = Heavy(chain=chain, n=n, m=m).resolve(context)
        assert {each.name: each.shape for each in preset.columns()}["ops"] == (2, n)
    for grid in (2, 4):
        (jigsaw,) = (
            each
            for each in Heavy(chain="jigsaw", grid=grid).resolve(context).columns()
            if each.name == "jigsaw"
        )
        assert jigsaw.shape == (2, grid * grid)


def test_other_generators_are_heavy_views_of_the_source() -> None:
    for name, chain in [("randaugment", "randaugment"), ("uniformaugment", "ua")]:
        settings = make_settings(name, {})
        assert isinstance(settings, Heavy)
        assert (settings.chain, settings.of_views) == (chain, False)
        assert make_settings(name, {"of": "dino"}).inputs() == {"parent": Input("dino")}
    small = context_of(lambda row: picture(0), 3, source_height=40, source_width=50)
    resolved = make_settings("jigsaw", {}).resolve(small)
    assert (resolved.height, resolved.width) == (40, 50)
    large = context_of(picture, 3)
    assert make_settings("jigsaw", {}).resolve(large).height == 224


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chain": "ra61"}, "there is no chain 'ra61' of operators; did you mean 'ra16'"),
        ({"chain": "ua", "m": 3}, "this chain has no m"),
        ({"chain": "jigsaw", "grid": 16}, r"grid must be in \[1, 15\], got 16"),
        ({"derive": "view"}, "heavy.derive must be one of from_view, from_sample, got 'view'"),
        ({"chain": "byol", "derive": "from_sample"}, "chain byol crops standard views"),
        ({"of": "dino", "derive": "from_sample"}, "derive=from_sample, got of=dino"),
        ({"views": 0}, r"heavy.views must be in \[1, 100\], got 0"),
        ({"height": 0}, "heavy.height and heavy.width must be >= 1, got 0"),
        ({"filter": "antialias"}, "filter must be one of area, linear, pil"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        make_settings("heavy", settings)


def test_a_view_set_to_start_from_must_be_there_and_of_source_images(
    parent: StandardViews,
) -> None:
    context: Context = context_of(picture, NUM)
    resolved = Heavy().resolve(context)
    with pytest.raises(ConfigError, match="heavy views start from the view set 'simclr', got none"):
        resolved.make(context)
    plan = SimpleNamespace(parent={"view_set": "recon"})
    derived = context_of(picture, NUM, parent=replace(parent, name="w-search", plan=plan))
    with pytest.raises(ConfigError, match="crops views of source images, w-search is made"):
        Heavy(chain="byol").resolve(derived)
    assert Heavy(chain="paper").resolve(derived).height == 32
