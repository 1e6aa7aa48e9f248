"""Settings of a run from trees and layers of values: defaults, types, names, what counts."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewstore.errors import ConfigError
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.layers import DEFAULT_NAMES, Layer, flat, merged, read_layer
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.methods.table import METHODS
from viewstore.train.nets.network import NetworkSettings
from viewstore.train.strategies.table import STRATEGIES
from viewstore.train.values import typed, typed_settings

LEAST = {"views": ["simclr", "simclr"], "epochs": 1}


def of(**values: Any) -> PretrainConfig:  # noqa: ANN401
    """Return the settings of dotted names, their dots written __."""
    return PretrainConfig.of(LEAST | {key.replace("__", "."): v for key, v in values.items()})


def refused(**values: Any) -> str:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        of(**values)
    return str(caught.value)


def test_what_is_left_out_is_the_default() -> None:
    config = of()
    assert (config.method, config.strategy.name) == (METHODS["simclr"](), "standard")
    assert config.network == NetworkSettings()
    assert config.optim == OptimSettings()
    assert {key.split(".")[0] for key in DEFAULT_NAMES} == {
        "method", "strategy", "optim", "network",
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_head_is_the_methods_where_none_is_given(name: str) -> None:
    head = METHODS[name].HEAD
    network = of(method__name=name, network__backbone="vit-ti").network
    assert {key: getattr(network, key) for key in head} == head
    assert of(method__name=name, network__projector=[8, 4]).network.projector == (8, 4)


def test_rate_and_decay_are_the_optimizers_where_none_is_given() -> None:
    assert of(optim__name="adamw").optim == OptimSettings(name="adamw", lr=5e-4, weight_decay=0.04)
    assert of(optim__name="lars", optim__lr=1).optim.lr == 1.0
    assert of(optim__name="lars", optim__lr=1).optim.weight_decay == 1e-6


@pytest.mark.parametrize(
    "values",
    [
        {"std": [-1, 1, 1]},
        {"std": [0, 0, 0]},
        {"std": [1e-320, 1, 1]},
        {"std": [1, 1, 1e300]},
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.5]},
        {"std": [0.5, 0.5]},
        {"mean": []},
        {"mean": [1e300, 0, 0]},
        {"mean": [0.5] * 3, "network__in_channels": 1},
    ],
)
def test_statistics_are_a_usable_number_for_each_channel(values: dict[str, Any]) -> None:
    assert re.match("(mean|std) must (be in|have [13] values)", refused(**values))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "holdout", "size", "local_size"])
def test_whole_numbers_have_a_range(name: str) -> None:
    assert re.search(rf"must be at most \d+, got {10**23}$", refused(**{name: 10**23}))
    assert re.search(r"must be at least [12], got 0$", refused(**{name: 0}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"epochs": 1, "epochs": 2}', "twice"),
        ("a.json", b'{"optim": {"lr": 1, "lr": 2}}', "twice"),
        ("a.json", b"[1]", "must be a JSON object"),
        ("a.toml", b"x = 1\n" + b"#" * (1 << 20), "at most 1048576 bytes"),
        ("a.toml", b"\xff", "decode"),
    ],
)
def test_files_of_settings_that_are_none(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="settings cannot be read") as caught:
        read_layer(tmp_path / name)
    assert message in (caught.value.why or "")


def test_a_pipe_is_no_file_of_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ConfigError) as caught:
        read_layer(tmp_path / "a.json")
    assert caught.value.why == "it is no regular file"


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"epochs": 1}'), ("a.toml", "epochs = 1")])
def test_a_mark_of_byte_order_is_passed_over(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_layer(tmp_path / name).values == {"epochs": 1}


def every_kind() -> list[tuple[str, Any]]:
    kinds: list[tuple[str, Any]] = [("network", NetworkSettings), ("optim", OptimSettings)]
    kinds += [("method", kind) for kind in METHODS.own.values()]
    return kinds + [("strategy", kind) for kind in STRATEGIES.own.values()]


@pytest.mark.parametrize(("table", "kind"), every_kind())
def test_the_default_of_every_setting_is_of_the_type_that_is_read(table: str, kind: Any) -> None:  # noqa: ANN401
    made = kind()
    for item in fields(kind):
        name, value = item.name.rstrip("_"), getattr(made, item.name)
        assert typed_settings(f"{table}.", kind, {name: value}) == {item.name: value}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"strategy": {"name": "a2", "alpha": 0.25, "anchors": "first"}, "views": ["a", "a", "b"]},
        {"strategy": {"name": "hvp,a2", "n_views": 3, "a2": {"loss": "full"}}},
        {
            "method": {"name": "byol"},
            "optim": {"name": "lars", "bias_lr": 0.5},
            "mean": [0.1, 0.2, 0.3],
        },
        {"network": {"backbone": "vit-ti", "patch": 4, "drop_path": 0.1}, "holdout": 4},
    ],
)
def test_written_settings_are_read_again(values: dict[str, Any]) -> None:
    config = PretrainConfig.of(LEAST | values)
    assert PretrainConfig.of(json.loads(json.dumps(config.to_json()))) == config
    assert PretrainConfig.of(flat(config.to_json())) == config


def test_a_setting_of_two_parts_is_written_and_read_with_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Other(STRATEGIES["a2"]):  # type: ignore[misc,name-defined]
        NAME = "other"

    monkeypatch.setitem(STRATEGIES, "other", Other)
    given = {"name": "a2,other", "a2.alpha": 0.25, "other": {"alpha": 0.75}}
    config = PretrainConfig.of(LEAST | {"strategy": given})
    assert [vars(stage)["alpha"] for stage in config.strategy.stages] == [0.25, 0.75]
    assert config.to_json()["strategy"]["other.alpha"] == 0.75
    assert PretrainConfig.of(json.loads(json.dumps(config.to_json()))) == config
    message = "setting alpha belongs to a2 and other"
    assert message in refused(strategy__name="a2,other", strategy__alpha=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method__temperature": "warm"}, "method.temperature must be a finite number, got 'warm'"),
        ({"method__temperature": True}, "method.temperature must be a finite number, got True"),
        ({"method__temperature": float("nan")}, "must be a finite number, got nan"),
        ({"optim__nesterov": "true"}, "optim.nesterov must be true or false, got 'true'"),
        ({"batch_size": 4.0}, "batch_size must be a whole number, got 4.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"where": 5}, "where must be text, got 5"),
        ({"precision": "fp8"}, "precision must be fp32 or bf16 or fp16, got 'fp8'"),
        ({"strategy__pairs_per_sample": True}, "must be 1 or 2, got True"),
        (
            {"network__projector": "wide"},
            "network.projector must be whole numbers, separated by commas, got 'wide'",
        ),
        ({"network__projector": [8, 4.5]}, "whole numbers, separated by commas, got '8,4.5'"),
        ({"method__name": 3}, "method.name must be text, got 3"),
        ({"method": "byol"}, "method is a table of settings, got 'byol'"),
        ({"network": []}, "network is a table of settings, got []"),
        ({"optim__lrr": 1}, "optim has no setting 'lrr'; did you mean 'lr'?"),
        ({"optim__name": "sgdd"}, "optimizer must be one of sgd"),
        ({"network__bakbone": "x"}, "network has no setting 'bakbone'; did you mean 'backbone'?"),
        ({"method__alpha": 1}, "method simclr has no setting 'alpha'"),
        ({"strategy__hvp__n_views": 1}, "strategy standard has no setting 'hvp.n_views'"),
        ({"epoch": 1}, "there is no setting 'epoch'; did you mean 'epochs'?"),
        ({"temperature": 1}, "no setting 'temperature'; did you mean 'method.temperature'?"),
        ({"optm__lr": 1}, "there is no setting 'optm.lr'; did you mean 'optim.lr'?"),
        ({"xyzzy": 1}, "there is no setting 'xyzzy'; there are "),
        ({"epochs__x": 1}, "there is no setting 'epochs.x'; did you mean 'epochs'?"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_value_is_said_in_the_users_words(
    values: dict[str, Any], message: str
) -> None:
    assert message in refused(**values)


def test_views_must_be_named() -> None:
    with pytest.raises(ConfigError, match="the views of the run must be named") as caught:
        PretrainConfig.of({"epochs": 1})
    assert "--preset" in str(caught.value.fix)


@given(st.lists(st.integers(1, 9), min_size=1))
def test_a_tuple_may_be_written_as_text_or_as_a_list(widths: list[int]) -> None:
    kind = tuple[int, ...]
    found = {typed("w", kind, given) for given in (widths, tuple(widths), str(widths)[1:-1])}
    assert found == {tuple(widths)}
    assert typed("w", kind, widths[0]) == (widths[0],)


def test_a_tuple_of_some_length_has_that_length() -> None:
    assert typed("beta", tuple[float, float], [5, 3]) == (5.0, 3.0)
    assert typed("beta", tuple[float, float], "5, 3") == (5.0, 3.0)
    with pytest.raises(ConfigError, match="beta must be 2 finite numbers, separated by commas"):
        typed("beta", tuple[float, float], [5])


def test_none_is_a_value_where_there_may_be_none() -> None:
    assert of(optim__clip="none").optim.clip is None
    assert of(holdout=None).holdout is None
    assert "must be a whole number, got None" in refused(batch_size=None)


def test_later_layers_count_over_earlier_ones() -> None:
    values = merged(
        [
            Layer("preset a", {"method.name": "simclr", "optim.lr": 1.0, "epochs": 3, "seed": 1}),
            Layer("b.toml", {"optim.lr": 2.0, "method.temperature": 0.1}),
            Layer("the command line", {"seed": 2, "steps": 5}),
        ]
    )
    assert values == {
        "method.name": "simclr", "optim.lr": 2.0, "method.temperature": 0.1, "seed": 2, "steps": 5,
    }  # fmt: skip


def test_one_setting_of_a_strategy_is_one_whether_its_part_is_named() -> None:
    plain, dotted = {"strategy.n_views": 4}, {"strategy.hvp.n_views": 5}
    assert merged([Layer("a", plain), Layer("b", dotted)]) == dotted
    assert merged([Layer("a", dotted), Layer("b", plain)]) == plain
    assert merged([Layer("a", dotted), Layer("b", {"strategy.a2.n_views": 1})]).keys() == {
        "strategy.hvp.n_views", "strategy.a2.n_views",
    }  # fmt: skip
    both = {"strategy.name": "hvp", **plain, **dotted}
    with pytest.raises(ConfigError, match="setting n_views of hvp is given twice"):
        PretrainConfig.of(LEAST | both)


BEFORE = {
    "method.name": "byol", "strategy.name": "standard,a2", "strategy.alpha": 0.1, "views": ["a"],
    "optim.name": "lars", "optim.lr": 0.2, "network.backbone": "resnet50",
    "network.stem": "imagenet", "network.projector": [8], "epochs": 3, "steps": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("later", "gone"),
    [
        ({"strategy.name": "hvp"}, {"strategy.alpha", "views"}),
        ({"strategy.name": "a2"}, set()),
        ({"optim.name": "sgd"}, {"optim.lr"}),
        ({"optim.name": "lars"}, set()),
        ({"network.backbone": "conv3"}, {"network.stem"}),
        ({"steps": 4}, {"epochs"}),
        ({"steps": None}, set()),
        ({"method.name": "byol"}, set()),
    ],
)
def test_what_belongs_to_another_strategy_or_optimizer_does_not_count(
    later: dict[str, Any], gone: set[str]
) -> None:
    found = merged([Layer("preset a", BEFORE), Layer("the command line", later)])
    assert set(BEFORE) - set(found) == gone
    assert found == {k: v for k, v in BEFORE.items() if k not in gone} | later


def test_the_default_strategy_named_changes_nothing() -> None:
    layers = [Layer("a.toml", {"views": ["a"]}), Layer("b", {"strategy.name": "standard"})]
    assert merged(layers)["views"] == ["a"]


def test_another_method_than_that_of_an_earlier_layer_is_refused() -> None:
    base = Layer("preset byol-cifar10", {"method.name": "byol"})
    with pytest.raises(ConfigError) as caught:
        merged([base, Layer("a.toml", {}), Layer("the command line", {"method.name": "simsiam"})])
    assert str(caught.value) == (
        "preset byol-cifar10 is for method byol, and the command line names simsiam"
    )
    assert merged([Layer("a", {"epochs": 1}), base])["method.name"] == "byol"


def test_files_of_settings_are_read(tmp_path: Path) -> None:
    config = of(strategy__name="hvp", views=["simclr"] * 4, optim__name="lars")
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    layer = read_layer(tmp_path / "config.json")
    assert layer.name == str(tmp_path / "config.json")
    assert PretrainConfig.of(merged([layer])) == config
    (tmp_path / "a.toml").write_text("epochs = 2\nviews = 'a,b'\n[strategy]\nhvp.n_views = 3\n")
    assert read_layer(tmp_path / "a.toml").values == {
        "epochs": 2, "views": "a,b", "strategy.hvp.n_views": 3,
    }  # fmt: skip
    assert of(views="a, b").views == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: 1"),
        ("a.toml", "a ="),
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", "[" * 100_000),
        ("a.toml", "'optim.lr' = 1\n[optim]\nlr = 2"),
        ("b.toml", None),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(
    tmp_path: Path, name: str, text: str | None
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_layer(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    assert "config.json" in str(caught.value.fix)
