"""Frozen networks that make views keep their numbers in a file; one that lies is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.train.maker_file import KINDS, load_maker, save_maker
from viewstore.train.nets.spatial_transformer import TransformerShape
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape

SHAPES: dict[str, Any] = {
    "viewmaker": ViewMakerShape(size=8, eps=0.125, clamp=False),
    "stn": TransformerShape(size=16, local_size=6, n_locals=1, mode="affine", bounded=True),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def network_of(kind: str) -> Any:  # noqa: ANN401
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind][1](SHAPES[kind])


def written(path: Path, kind: str) -> Path:
    save_maker(path, kind, network_of(kind), {"command": "by hand"})
    return path


def test_every_kind_is_tried() -> None:
    assert set(SHAPES) == set(KINDS)


@kinds
def test_a_network_comes_back_from_its_file(tmp_path: Path, kind: str) -> None:
    before = network_of(kind)
    found: Any = load_maker(written(tmp_path / "a", kind), kind)
    assert asdict(found.shape) == asdict(SHAPES[kind])
    assert all(map(torch.equal, before.state_dict().values(), found.state_dict().values()))
    assert not found.training
    assert not any(each.requires_grad for each in found.parameters())
    assert (tmp_path / "a").read_bytes() == written(tmp_path / "b", kind).read_bytes()
    said = read_with_config(tmp_path / "a", kind).config["provenance"]
    assert said == {"command": "by hand"}


def test_a_view_maker_from_its_file_makes_the_same_views(tmp_path: Path) -> None:
    found = load_maker(written(tmp_path / "a", "viewmaker"), "viewmaker")
    assert isinstance(found, ViewMaker)
    x, noise = torch.rand(2, 3, 8, 8), torch.rand(2, found.noise_numbers)
    assert torch.equal(found(x, noise), network_of("viewmaker")(x, noise).detach())


@kinds
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, kind: str) -> None:
    network = network_of(kind)
    name, parameter = next(iter(network.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = torch.nan
    with pytest.raises(ConfigError, match=f"weight {name} of {kind} must be finite"):
        save_maker(tmp_path / "a", kind, network, {})
    assert not (tmp_path / "a").exists()


Change = Callable[[dict[str, Tensor], dict[str, Any]], object]
LIES: dict[str, tuple[Change, str]] = {
    "a shape": (lambda t, c: t.update(first(t, lambda w: w[:-1])), "must have shape"),
    "a missing weight": (lambda t, c: t.pop(sorted(t)[0]), "they differ in"),
    "another weight": (lambda t, c: t.update(other=torch.zeros(2)), "they differ in other"),
    "a weight that is no number": (
        lambda t, c: t.update(first(t, lambda w: w * torch.nan)), "must be finite",
    ),
    "whole numbers": (lambda t, c: t.update(first(t, lambda w: w.long())), "float16 or float32"),
    "a missing setting": (lambda t, c: c.pop("size"), "they differ in size"),
    "another setting": (lambda t, c: c.update(other=1), "they differ in other"),
    "a size of another type": (lambda t, c: c.update(size="8"), "whole number"),
    "a size below all": (lambda t, c: c.update(size=-4), "got -4"),
    "a size beyond memory": (lambda t, c: c.update(size=10**9), "got 1000000000"),
    "provenance of another type": (lambda t, c: c.update(provenance=1), "must be an object"),
}  # fmt: skip


def first(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    name = sorted(tensors)[0]
    return {name: change(tensors[name])}


@kinds
@pytest.mark.parametrize("lie", list(LIES))
def test_a_file_that_lies_is_refused(tmp_path: Path, kind: str, lie: str) -> None:
    file = read_with_config(written(tmp_path / "a", kind), kind)
    change, message = LIES[lie]
    tensors, config = dict(file.tensors), dict(file.config)
    change(tensors, config)
    write_with_config(tmp_path / "b", kind, tensors, config)
    with pytest.raises(CheckpointError, match=f"{kind} file is damaged") as caught:
        load_maker(tmp_path / "b", kind)
    assert message in str(caught.value)
    assert caught.value.where == str(tmp_path / "b")


@kinds
def test_what_is_no_such_file_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"cannot read the {kind} file"):
        load_maker(tmp_path / "nothing", kind)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_maker(tmp_path / "text", kind)
    write_with_config(tmp_path / "encoder", "encoder", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match=f"not a viewstore {kind} file"):
        load_maker(tmp_path / "encoder", kind)
