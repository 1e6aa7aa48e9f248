"""Row filters: what a text means, where it is wrong, and which rows of a real store it keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import viewstore
from tests.loaders.families import family_store
from tests.loaders.stores import digits_store
from tests.loaders.told import tell
from tests.viewstore.small_stores import round_before
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.store import matching
from viewstore.store.matching import matching_rows
from viewstore.store.store import Store
from viewstore.store.where import MAX_BYTES, Test, Truth, compare, join, parse

Test.__test__ = False  # type: ignore[attr-defined]  # it is no test of pytest's


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits with view sets `digits` (3 views) and `hard` (4 views), 5 shards."""
    return digits_store(tmp_path_factory.mktemp("where") / "store", seed=0)


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("distance < 0.35", "distance < 0.35"),
        ("a<1 or b<2 and c<3", "a < 1 or (b < 2 and c < 3)"),
        ("(a<1 or b<2) and c<3", "(a < 1 or b < 2) and c < 3"),
        ("not a = 1 and b != -2.5e-3", "not a = 1 and b != -0.0025"),
        ("not (a == 1 or b > .5)", "not (a = 1 or b > 0.5)"),
        ("any(w-search.distance<0.35 and flip=true)", None),
        ("all ( x_1 >= +3 )", "all(x_1 >= 3)"),
        ("label in ['a','b b',\"c'd\"]", "label in ['a', 'b b', 'c'd']"),
        ("loss is missing", "loss is missing"),
        ("loss is not missing", "not loss is missing"),
        ("9lives.flip = false", "9lives.flip = false"),
    ],
)
def test_a_text_is_understood(text: str, understood: str | None) -> None:
    expected = understood or "any(w-search.distance < 0.35 and flip = true)"
    assert str(parse(text)) == expected


def test_what_was_understood_means_the_same() -> None:
    for text in ("a<1 or b<2 and c<3", "not (a=1 or b>2)", "all(x in [1,2]) and y is not missing"):
        once = str(parse(text))
        assert str(parse(once)) == once


@pytest.mark.parametrize(
    ("text", "message", "mark"),
    [
        ("", "must have a column here, at character 1", ">>>"),
        ("distance <", "must have a number, a 'text', true or false here", "distance < >>>"),
        ("distance < < 3", "must have a number", "distance <  >>> < 3"),
        ("distance 3", "what is asked of distance: < <= = != >= > in is", "distance  >>> 3"),
        ("a < 1 b < 2", "must end here, or go on with 'and' or 'or'", "a < 1  >>> b < 2"),
        ("(a < 1", r"must have '\)' here, at character 7", "(a < 1 >>>"),
        ("any a < 1", r"must have '\(' here", "any  >>> a < 1"),
        ("a in 3", r"must have '\[' here", "a in  >>> 3"),
        ("a in [3", "must have ']' here", "a in [3 >>>"),
        ("a is 3", "must have 'missing' here", "a is  >>> 3"),
        ("a < 1 & b < 2", "cannot be understood from '& b < 2' on, at character 7", ">>> & b"),
        ("__import__('os').system('x')", "cannot be understood from .*system", ">>> .system"),
        ("a < 'open", "cannot be understood from", "a <  >>> 'open"),
        ("and < 3", "must have a column here", ">>> and < 3"),
        ("a < 1and b < 2", "cannot be understood from '1and b < 2'", "a <  >>> 1and"),
    ],
)
def test_an_error_points_at_its_place(text: str, message: str, mark: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert mark in str(caught.value.where)


def test_a_text_has_a_limit_of_size_terms_and_depth() -> None:
    with pytest.raises(ConfigError, match="at most 2048 bytes, got 2049"):
        parse("a" * (MAX_BYTES + 1))
    parse(" or ".join(["a<1"] * 64))
    with pytest.raises(ConfigError, match="at most 64 terms, 8 deep"):
        parse(" or ".join(["a<1"] * 65))
    parse("(" * 7 + "a<1" + ")" * 7)
    with pytest.raises(ConfigError, match="at most 64 terms, 8 deep"):
        parse("(" * 8 + "a<1" + ")" * 8)
    with pytest.raises(ConfigError, match="8 deep"):
        parse("not " * 8 + "a<1")


@given(st.text(alphabet="abn ot()[]<>=!'.,0123456789-_&\x00é", max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        understood = str(parse(text))
    except ConfigError:
        return
    assert str(parse(understood)) == understood


def test_columns_of_views_rows_and_source_are_compared(store: Store) -> None:
    hard = store.view_sets["hard"].params
    blur, flip = np.asarray(hard["solarize"]), np.asarray(hard["flip"])
    expected = {
        "flip = true": (flip == 1).any(axis=1),
        "all(flip = 1)": (flip == 1).all(axis=1),
        "any(flip = 0 and gray = 1)": ((flip == 0) & (hard["gray"] == 1)).any(axis=1),
        "flip = 0 and gray = 1": (flip == 0).any(axis=1) & (hard["gray"] == 1).any(axis=1),
        "not flip = true": ~(flip == 1).any(axis=1),
        "any(not flip = true)": (flip != 1).any(axis=1),
        "solarize >= 256 or label = 3": (blur >= 256).any(axis=1) | (store.labels == 3),
        "index < 20 and index != 3": (np.arange(70) < 20) & (np.arange(70) != 3),
        "label in [1, 2, 99]": np.isin(store.labels, [1, 2]),
        "any(label = 3 and flip = 1)": (store.labels == 3) & (flip == 1).any(axis=1),
        "height >= 8 and width < 99.5": np.ones(70, bool),
        "hard.status = 1": np.ones(70, bool),
    }
    for text, kept in expected.items():
        assert matching_rows(store, text).tolist() == np.flatnonzero(kept).tolist(), text


def test_labels_and_keys_are_asked_for_by_name(store: Store) -> None:
    name = store.label_names[4]
    assert (store.labels[matching_rows(store, f"label = '{name}'")] == 4).all()
    key = store.keys[33]
    assert matching_rows(store, f"key in ['{key}', 'none']").tolist() == [33]
    with pytest.raises(ConfigError, match="must name a label, got 'fuor'"):
        matching_rows(store, "label = 'fuor'")
    with pytest.raises(ConfigError, match="must ask of key = 'text', != or in"):
        matching_rows(store, "key < 'b'")


def test_a_number_is_compared_as_it_is_stored(store: Store) -> None:
    """0.1 is no float32: compared in float64, a stored 0.1 would not be <= 0.1."""
    stored = np.array([[0.1]], np.float32)
    test = parse("a <= 0.1")
    assert isinstance(test, Test)
    assert compare(test, stored, np.zeros((1, 1), bool), (0.1,)).is_true.all()
    half = np.array([[1.0]], np.float16)
    assert compare(test, half, np.zeros((1, 1), bool), (1e6,)).is_true.all()


def test_a_name_of_two_view_sets_must_be_chosen_unless_one_is_shown(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"status is meant: digits\.status or hard\.status"):
        matching_rows(store, "status = 1")
    assert len(matching_rows(store, "status = 1", ["hard"])) == 70
    with pytest.raises(ConfigError, match="is meant"):
        matching_rows(store, "status = 1", ["hard", "digits"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flp = 1", "must name a column, got 'flp'; did you mean 'flip'"),
        ("hart.flip = 1", "must name a view set of this store, got 'hart'; did you mean 'hard'"),
        ("hard.flp = 1", "must name a column of hard, got 'flp'; did you mean 'flip'"),
        (
            "hard.crop_box < 3",
            "single numbers; crop_box has 4 numbers a view, which the page Stats shows",
        ),
        ("flip = 'yes'", "must compare flip with numbers, got flip = 'yes'"),
        ("index < 0", "where keeps none of 70 rows: index < 0"),
        (
            "any(hard.flip = 1 and digits.status = 1)",
            r"must not go over the views of digits and hard in one any\(..\)",
        ),
    ],
)
def test_a_filter_that_does_not_fit_the_store_is_refused(
    store: Store, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        matching_rows(store, text)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """70 digits with two rounds of 4 views, quality of both and of the images, and scores."""
    out = tmp_path_factory.mktemp("told") / "store"
    family_store(out, {"cands": 4, "cands-r2": 4})
    for name, of in (("quality", "cands"), ("quality-r2", "cands-r2"), ("images", "source")):
        build(
            BuildRequest(
                generator="quality",
                view_set=name,
                after=round_before(out, name),
                out=out,
                settings={"of": of},
                workers=1,
            )
        )
    return tell(out, "scores", "cands")


def test_views_and_what_describes_them_are_gone_over_together(told: Store) -> None:
    flip = np.asarray(told.view_sets["cands"].params["flip"]) == 1
    flat = np.asarray(told.view_sets["quality"].params["luma_std"]) < 60
    bright = np.asarray(told.view_sets["images"].params["luma_std"])[:, 0]
    low = np.asarray(told.view_sets["scores"].params["score"]) < 3001
    expected = {
        "any(cands.flip = 1 and quality-r1.luma_std < 60)": (flip & flat).any(1),
        "not any(quality-r1.luma_std < 60 and cands.flip = 1)": ~(flip & flat).any(1),
        "all(scores.score < 3001 or quality-r1.luma_std < 60)": (low | flat).all(1),
        "any(images.luma_std < 80 and label < 5)": (bright < 80) & (told.labels < 5),
    }
    for text, kept in expected.items():
        assert 0 < kept.sum() < 70, text
        found = matching_rows(told, text, ["cands"])
        assert found.tolist() == np.flatnonzero(kept).tolist(), text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("any(cands.flip = 1 and quality-r2.luma_std < 60)", "cands and quality-r2"),
        ("all(cands-r2.flip = 1 and scores.score < 60)", "cands-r2 and scores"),
        ("all(quality-r1.twin = 1 and images.luma_std < 60)", "images and quality"),
    ],
)
def test_what_describes_other_views_is_not_gone_over_with_them(
    told: Store, text: str, names: str
) -> None:
    with pytest.raises(ConfigError, match=f"must not go over the views of {names} in one"):
        matching_rows(told, text, ["cands"])


def test_a_name_means_the_round_that_is_shown(told: Store) -> None:
    std = {
        name: np.asarray(told.view_sets[name].params["luma_std"])
        for name in ("quality", "quality-r2")
    }
    for shown, name in (
        (["cands"], "quality"),
        (["cands-r2"], "quality-r2"),
        ([], "quality-r2"),
    ):
        found = matching_rows(told, "all(quality.luma_std < 66)", shown)
        assert found.tolist() == np.flatnonzero((std[name] < 66).all(1)).tolist()


def test_what_was_never_written_is_found_by_missing_alone() -> None:
    values = np.array([[0.2, np.nan], [np.nan, np.nan], [0.9, 0.1]], np.float32)
    missing = np.isnan(values)
    test = parse("a < 0.5")
    assert isinstance(test, Test)
    truth = compare(test, values, missing, (0.5,))
    assert truth.over("any").is_true.ravel().tolist() == [True, False, True]
    assert truth.over("any").is_false.ravel().tolist() == [False, False, False]
    assert truth.over("all").is_true.ravel().tolist() == [False, False, False]
    assert truth.over("all").is_false.ravel().tolist() == [False, False, True]
    gone = parse("a is missing")
    assert isinstance(gone, Test)
    assert compare(gone, values, missing, ()).over("all").is_true.ravel().tolist() == [
        False,
        True,
        False,
    ]


@given(st.lists(st.sampled_from([True, False, None]), min_size=2, max_size=4))
def test_and_and_or_are_those_of_three_valued_logic(values: list[bool | None]) -> None:
    parts = [Truth(np.array([[v is True]]), np.array([[v is False]])) for v in values]
    both, one = join("and", parts), join("or", parts)
    assert bool(both.is_true[0, 0]) == all(v is True for v in values)
    assert bool(both.is_false[0, 0]) == any(v is False for v in values)
    assert bool(one.is_true[0, 0]) == any(v is True for v in values)
    assert bool(one.is_false[0, 0]) == all(v is False for v in values)


def test_blocks_change_nothing_and_only_named_columns_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "all(hard.blur < 3) and flip = 1 or key = 'x'"
    whole = matching_rows(store, text)
    monkeypatch.setattr(matching, "BLOCK_ROWS", 7)
    again = viewstore.open(store.root)
    assert matching_rows(again, text).tolist() == whole.tolist()
    read = {name for name, _ in again.view_sets["hard"].params._chunks}
    assert read == {"blur", "flip"}
    assert not again.view_sets["digits"].params._chunks


def test_rows_of_a_shard_that_is_not_built_are_missing(tmp_path: Path) -> None:
    request = BuildRequest(
        generator="digits",
        out=tmp_path / "part",
        source="digits",
        limit=70,
        shard_rows=16,
        settings={"height": 8, "width": 8, "views": 2},
        workers=1,
        only=(0, 3),
    )
    build(request)
    finalise(tmp_path / "part", allow_partial=True)
    store = viewstore.open(tmp_path / "part")
    (digits,) = store.view_sets.values()
    built = sorted(row for shard in digits.shards.values() for row in shard.rows)
    assert 0 < len(built) < 70
    assert matching_rows(store, "x_brightness > 0 or not x_brightness > 0").tolist() == built
    gone = matching_rows(store, "x_brightness is missing").tolist()
    assert sorted(built + gone) == list(range(70))
