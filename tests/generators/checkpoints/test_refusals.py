"""Checkpoints that are refused: each refusal says file, reason and remedy."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.generators.network_files import (
    FILTER,
    KWARGS,
    Module,
    dump,
    modules,
    network,
    read,
    rosinality_checkpoint,
    snapshot,
    torch_file,
)
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.read import read_checkpoint


def without(name: str) -> bytes:
    tensors = network()
    del tensors[name]
    return dump(snapshot(modules(tensors)))


def with_tensor(name: str, value: np.ndarray) -> bytes:
    return dump(snapshot(modules(network() | {name: value})))


def with_kwargs(**changes: object) -> bytes:
    return dump(snapshot(modules(network(), KWARGS | changes)))


def rosinality_with(changes: dict[str, torch.Tensor | None]) -> bytes:
    checkpoint = rosinality_checkpoint(network())
    state = checkpoint["g_ema"]
    assert isinstance(state, OrderedDict)
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return torch_file(checkpoint)


def alias_free() -> bytes:
    generator = modules(network())
    generator.state["_modules"]["synthesis"].state["_modules"] = {"L0_36_512": Module()}
    return dump(snapshot(generator))


def not_a_number(value: float) -> bytes:
    const = network()["synthesis.b4.const"]
    const[1, 2, 3] = value
    return with_tensor("synthesis.b4.const", const)


PICKLE = "expected a network-snapshot-*.pkl of stylegan2-ada-pytorch"
TORCH = "expected a checkpoint of rosinality's stylegan2-pytorch, with g_ema"
ANY = (
    "expected a network-snapshot-*.pkl of stylegan2-ada-pytorch, a .pt of rosinality's "
    "stylegan2-pytorch, or a file that viewstore gan wrote"
)
FAMILY = "only StyleGAN2 is supported"
REFUSALS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "it is an empty file", ANY),
    "html": (
        lambda: b"<!DOCTYPE html>",
        "it is an HTML or XML page",
        "download the file itself, not the page about it",
    ),
    "gzip": (lambda: b"\x1f\x8b\x08", "it is a gzip file", "unpack it first"),
    "lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1",
        "it is a Git LFS pointer, not the file itself",
        "fetch the file itself: git lfs pull",
    ),
    "safetensors": (
        lambda: b"\x02\0\0\0\0\0\0\0{}",
        "it is a safetensors file that viewstore did not write",
        ANY,
    ),
    "text": (
        lambda: b"(dp0\n.",
        "it is neither a torch file nor a pickle of protocol 2 or newer",
        ANY,
    ),
    "list": (lambda: dump([1]), "the pickle holds a list, not a dict", PICKLE),
    "no G_ema": (lambda: dump({"G": 1}), "the pickle holds G, but no G_ema", PICKLE),
    "number": (lambda: dump({"G_ema": 3}), "G_ema is a int, not a network", PICKLE),
    "StyleGAN3": (alias_free, "it is a StyleGAN3 or a StyleGAN-XL", FAMILY),
    "StyleGAN3 by its settings": (
        lambda: with_kwargs(magnitude_ema_beta=0.999),
        "it is a StyleGAN3 or a StyleGAN-XL",
        FAMILY,
    ),
    "R3GAN": (
        lambda: dump(snapshot(modules({"Model.weight": FILTER}))),
        "G_ema has the parts Model, not mapping and synthesis; it may be an R3GAN",
        FAMILY,
    ),
    "persistence": (
        lambda: dump(snapshot(Module(version=5))),
        "persistence version must be 6, got 5",
        PICKLE,
    ),
    "missing": (
        lambda: without("mapping.w_avg"),
        "tensor mapping.w_avg is missing; its shape would be (8,)",
        FAMILY,
    ),
    "extra": (
        lambda: with_tensor("mapping.fc0.gain", FILTER),
        "tensor mapping.fc0.gain has no place in this skip network",
        FAMILY,
    ),
    "misshapen": (
        lambda: with_tensor("synthesis.b8.conv1.noise_const", FILTER),
        "tensor synthesis.b8.conv1.noise_const must have shape (8, 8), got (4, 4)",
        FAMILY,
    ),
    "mapping layers": (
        lambda: with_kwargs(mapping_kwargs={"num_layers": 8}),
        "num_layers is 8, but the tensors have 2 mapping layers",
        FAMILY,
    ),
    "activation": (
        lambda: with_kwargs(synthesis_kwargs={"activation": "relu"}),
        "activation must be 'lrelu', got 'relu'",
        FAMILY,
    ),
    "foreign setting": (
        lambda: with_kwargs(synthesis_kwargs={"kernel": 5}),
        "synthesis_kwargs argument 'kernel' is not one that StyleGAN2 has",
        FAMILY,
    ),
    "object as setting": (
        lambda: with_kwargs(z_dim=Module()),
        "G_ema has the setting z_dim, which is not a number",
        PICKLE,
    ),
    "two filters": (
        lambda: with_tensor("synthesis.b8.conv0.resample_filter", FILTER * 2),
        "synthesis.b8.conv0.resample_filter differs from the other resampling filters",
        PICKLE,
    ),
    "nan": (
        lambda: not_a_number(np.nan),
        "tensor synthesis.b4.const: it holds weights that are not finite",
        PICKLE,
    ),
    "inf": (
        lambda: not_a_number(np.inf),
        "tensor synthesis.b4.const: it holds weights that are not finite",
        PICKLE,
    ),
    "integers": (
        lambda: with_tensor("mapping.w_avg", np.arange(8)),
        "tensor mapping.w_avg: weights must be floating point, got i8",
        PICKLE,
    ),
    "no generator": (
        lambda: torch_file({"d": {}}),
        "the file holds neither g_ema nor g as a dict",
        TORCH,
    ),
    "no noise": (
        lambda: rosinality_with({"noises.noise_1": None}),
        "noises.* is missing for synthesis.b8.conv0",
        "save the whole state_dict of g_ema: without its noise the images differ",
    ),
    "foreign name": (
        lambda: rosinality_with({"convs.0.conv.gain": torch.ones(1)}),
        "g_ema has a tensor convs.0.conv.gain, which StyleGAN2 does not",
        TORCH,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_file_reason_and_remedy(tmp_path: Path, name: str) -> None:
    make, reason, fix = REFUSALS[name]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, make())
    path = tmp_path / "network"
    assert str(caught.value) == (
        f"cannot read {path} as a StyleGAN2 network: {reason}. Nothing from the file was executed."
    )
    assert (caught.value.fix, caught.value.where, caught.value.why) == (fix, str(path), reason)
    assert caught.value.code == "VS210"


def test_a_torn_torch_file_is_not_told_to_be_a_pickle(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is cut short") as caught:
        read(tmp_path, torch_file(rosinality_checkpoint(network()), legacy=True)[:-1])
    assert caught.value.fix == TORCH


def test_unreadable_path_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it cannot be opened: No such file or directory"):
        read_checkpoint(tmp_path / "absent.pkl")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        read_checkpoint(tmp_path)
