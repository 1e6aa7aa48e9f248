"""Expert view sets: settings, sizes, columns, and views that their stored params replay."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from viewstore.errors import ConfigError
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.pixels.expert import Expert
from viewstore.images.policies import policies
from viewstore.images.raw import Raw

SIZES = [(40, 50), (50, 40), (33, 33), (64, 48)]


def picture(row: int) -> Any:  # noqa: ANN401
    height, width = SIZES[row % len(SIZES)]
    rows, columns = np.mgrid[:height, :width]
    return (np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256).astype("u1")


def context(
    seed: int = 0, height: int | None = None, width: int | None = None, *, view_set: str = "views"
) -> Context:
    return Context(
        seed=seed,
        view_set=view_set,
        num_samples=100,
        source_height=height,
        source_width=width,
        source_image=picture,
        codec=Raw(),
    )


def render(settings: Expert, rows: list[int], seed: int = 0) -> dict[int, Rendered]:
    given = context(seed)
    generator = settings.resolve(given).make(given)
    return {
        one.index: one for one in generator.render(Sample.of(row, picture(row)) for row in rows)
    }


@pytest.mark.parametrize("policy", ["simclr", "byol", "dino", "dino-local", "digits"])
def test_stored_params_replay_every_view(policy: str) -> None:
    settings = Expert(policy=policy, views=3, height=32, width=24)
    for row, one in render(settings, list(range(5))).items():
        for view in range(3):
            pair = policies(policy)
            made_by = pair[view % len(pair)].for_size(32, 24)
            stored = {name: column[view] for name, column in one.params.items()}
            replayed = made_by.render(picture(row), stored, (32, 24), "area")
            assert np.array_equal(replayed, one.pixels[view])


def test_a_view_does_not_depend_on_the_samples_before_it() -> None:
    settings = Expert(views=2, height=16, width=16)
    many = render(settings, list(range(70)))
    alone = render(settings, [69])
    assert np.array_equal(many[69].pixels, alone[69].pixels)
    assert np.array_equal(many[69].params["crop_box"], alone[69].params["crop_box"])


def test_columns_are_what_is_rendered() -> None:
    settings = Expert(policy="byol", views=4, height=16, width=16)
    one = render(settings, [0])[0]
    columns = settings.resolve(context()).columns()
    assert [column.name for column in columns] == sorted(one.params)
    for column in columns:
        assert one.params[column.name].shape == column.shape
        assert one.params[column.name].dtype == column.numpy_dtype
    assert one.params["status"].tolist() == [1, 1, 1, 1]


def test_another_seed_gives_other_views() -> None:
    settings = Expert(views=2, height=16, width=16)
    first, second = render(settings, [3], seed=0)[3], render(settings, [3], seed=1)[3]
    assert not np.array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize(
    ("policy", "source", "expected"),
    [
        ("simclr", (32, 32), (32, 32)),
        ("simclr", (None, None), (224, 224)),
        ("simclr", (375, 500), (224, 224)),
        ("dino-local", (None, None), (96, 96)),
        ("dino-local", (32, 32), (14, 14)),
    ],
)
def test_the_size_follows_the_source_where_it_is_small(
    policy: str, source: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    resolved = Expert(policy=policy).resolve(context(0, *source))
    assert (resolved.height, resolved.width) == expected


def test_a_given_size_is_kept() -> None:
    resolved = Expert(height=48, width=40).resolve(context())
    assert (resolved.height, resolved.width) == (48, 40)


def test_views_of_dino_alternate_and_keep_their_role() -> None:
    settings = Expert(policy="dino", views=4, height=64, width=64)
    drawn = [one.params for one in render(settings, list(range(60))).values()]
    solarized = np.array([params["solarize"] for params in drawn]) < 256
    assert not solarized[:, ::2].any()
    assert solarized[:, 1::2].any()
    assert settings.resolve(context()).roles() == ("global",) * 4
    assert Expert(policy="dino-local").resolve(context()).roles() == ("local", "local")
    assert Expert().resolve(context()).roles() == ("expert", "expert")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "simclir"}, "did you mean 'simclr'"),
        ({"views": 0}, r"expert.views must be in \[1, 100\], got 0"),
        ({"height": 0}, "must be >= 1, got 0"),
        ({"filter": "cubic"}, "filter must be one of"),
        ({"filter": "antialias"}, "filter must be one of area, linear, pil, got"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=message):
        Expert(**settings)


def test_view_sets_of_one_seed_are_not_the_same_pictures() -> None:
    """Neither their crops nor their flips have more in common than chance."""

    def boxes(view_set: str, round: int = 1) -> Any:  # noqa: ANN401
        given = replace(context(view_set=view_set), round=round)
        generator = Expert(policy="simclr", views=4, height=8, width=8).resolve(given).make(given)
        rendered = generator.render(Sample.of(row, picture(0)) for row in range(50))
        return np.stack([one.params["crop_box"] for one in rendered])

    first = boxes("moco")
    assert np.array_equal(first, boxes("moco"))
    for other in (boxes("simsiam"), boxes("moco", round=2), boxes("moco2")):
        assert (first == other).all(axis=-1).mean() < 0.05
