"""Pickles of the TensorFlow era: files of the form described; no real one was at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.network_files import (
    EMBEDDED_SOURCE,
    Call,
    TensorFlowNetwork,
    Tensors,
    dump,
    modules,
    network,
    read,
    tensorflow_file,
    tensorflow_networks,
)
from viewstore.errors import CheckpointError
from viewstore.generators.gan.file import compared_images, read_generator
from viewstore.generators.stylegan2.network import StyleGAN2


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # mod_bias is stored less one, and gets it back: rounded twice
        close = {"rtol": 0, "atol": 3e-7 if name.endswith("affine.bias") else 0}
        np.testing.assert_allclose(found[name], value, err_msg=name, strict=True, **close)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_network_of_that_era_is_read_as_it_was_written(tmp_path: Path, protocol: int) -> None:
    data = tensorflow_file(protocol)
    found = read(tmp_path, data)
    assert_same(found.tensors, network())
    assert found.family == "stylegan2-tensorflow"
    assert "NVIDIA Source Code License" in found.licence_note
    assert found.module_src_sha256 == hashlib.sha256(EMBEDDED_SOURCE.encode()).hexdigest()
    assert found.source_sha256 == hashlib.sha256(data).hexdigest()
    assert len(found.notes) == 1
    assert "none was at hand" in found.notes[0]


def test_it_makes_the_images_that_its_network_made(tmp_path: Path) -> None:
    tensors = network()
    kwargs = {
        "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
        "synthesis_kwargs": {"architecture": "skip", "conv_clamp": None, "use_noise": True},
    }
    (tmp_path / "network.pkl").write_bytes(tensorflow_file())
    wanted = compared_images(StyleGAN2.from_tensors(tensors, kwargs))
    found = compared_images(read_generator(tmp_path / "network.pkl").network)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "orig": ({"architecture": "orig"}, {"architecture": "orig"}),
    "resnet": ({"architecture": "resnet"}, {"architecture": "resnet"}),
    "no noise": ({"use_noise": False}, {}),
    "one channel": ({"image_channels": 1}, {"num_channels": 1}),
    "four blocks": ({"channels": (6, 5, 4, 3)}, {"resolution": 32}),
    "another filter": (
        {"taps": np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16},
        {"resample_kernel": [1, 2, 1]},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_is_read(tmp_path: Path, name: str) -> None:
    ours, theirs = OTHERS[name]
    tensors = network(**ours)
    found = read(tmp_path, dump(tensorflow_networks(tensors, **theirs)))
    assert_same(found.tensors, tensors)
    assert found.kwargs["synthesis_kwargs"]["architecture"] == theirs.get("architecture", "skip")


def test_settings_decide_what_shapes_do_not(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        dump(tensorflow_networks(network(), mapping_lrmul=0.1, conv_clamp=256, fmap_base=8192)),
    )
    assert found.kwargs["mapping_kwargs"]["lr_multiplier"] == 0.1
    assert found.kwargs["synthesis_kwargs"]["conv_clamp"] == 256


def changed(change: Callable[[TensorFlowNetwork], object]) -> bytes:
    """Return a file whose Gs, or its part synthesis, was changed."""
    networks = tensorflow_networks(network())
    change(networks[2])
    return dump(networks)


def synthesis(gs: TensorFlowNetwork) -> dict[str, Any]:
    return gs.state["components"]["synthesis"].state  # type: ignore[no-any-return]


def with_variable(name: str, value: object) -> bytes:
    return changed(lambda gs: synthesis(gs)["variables"].append((name, value)))


def with_settings(**settings: object) -> bytes:
    return dump(tensorflow_networks(network(), **settings))


def cyclic(gs: TensorFlowNetwork) -> None:
    gs.state["components"]["synthesis"] = gs


STYLEGAN2 = "only StyleGAN2 is supported"
FILE = "expected a network-*.pkl of NVlabs/stylegan2, a tuple of the networks G, D and Gs"
REFUSALS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "one network": (
        lambda: dump(TensorFlowNetwork()),
        "the pickle does not hold three networks",
        FILE,
    ),
    "two networks": (
        lambda: dump((TensorFlowNetwork(), TensorFlowNetwork())),
        "the pickle does not hold three networks",
        FILE,
    ),
    "no parts": (
        lambda: dump((TensorFlowNetwork(), TensorFlowNetwork(), TensorFlowNetwork())),
        "Gs has no part mapping, as a StyleGAN2 has",
        STYLEGAN2,
    ),
    "no state": (
        lambda: changed(lambda gs: gs.state.pop("variables")),
        "is not described by settings, parts and variables",
        FILE,
    ),
    "a part of itself": (
        lambda: changed(cyclic),
        "Gs has a variable synthesis/dlatent_avg, which",
        FILE,
    ),
    "labels": (
        lambda: with_settings(label_size=10),
        "it is conditional (label_size 10), and networks of the TensorFlow era normalise z and "
        "labels together, which ours do not",
        "only unconditional networks of this kind are read",
    ),
    "labels without their size": (
        lambda: changed(
            lambda gs: (
                gs.state["components"]["mapping"]
                .state["variables"]
                .append(("LabelConcat/weight", np.ones((3, 8), np.float32)))
            )
        ),
        "Gs has a variable mapping/LabelConcat/weight, which StyleGAN2 does not",
        FILE,
    ),
    "the first StyleGAN": (
        lambda: with_variable("4x4/Const/StyleMod/bias", np.ones(3, np.float32)),
        "it is a StyleGAN, the first",
        STYLEGAN2,
    ),
    "activation": (
        lambda: with_settings(nonlinearity="relu"),
        "nonlinearity must be lrelu, got 'relu'",
        STYLEGAN2,
    ),
    "z as it is": (
        lambda: with_settings(normalize_latents=False),
        "normalize_latents must be True, got False",
        STYLEGAN2,
    ),
    "settings that disagree": (
        lambda: changed(lambda gs: gs.state["static_kwargs"].update(resolution=16)),
        "resolution of Gs is 16, that of a part is 8",
        FILE,
    ),
    "an object as setting": (
        lambda: with_settings(resolution=TensorFlowNetwork()),
        "Gs has the setting resolution, which is not a number",
        FILE,
    ),
    "no kernel": (
        lambda: with_settings(resample_kernel=[1, -1]),
        "resample_kernel must be a list of numbers, got [1, -1]",
        FILE,
    ),
    "mapping layers": (
        lambda: with_settings(mapping_layers=8),
        "num_layers is 8, but the tensors have 2 mapping layers",
        STYLEGAN2,
    ),
    "resolution": (
        lambda: with_settings(resolution=64),
        "img_resolution is 64, but the tensors say 8",
        STYLEGAN2,
    ),
    "an extra layer": (
        lambda: with_variable("8x8/Conv/weight", np.ones((3, 3, 4, 4), np.float32)),
        "Gs has a variable synthesis/8x8/Conv/weight, which StyleGAN2 does not",
        FILE,
    ),
    "a variable twice": (
        lambda: with_variable("noise0", np.ones((1, 1, 4, 4), np.float32)),
        "Gs has two tensors noise0",
        FILE,
    ),
    "no array": (
        lambda: with_variable("noise0", 3),
        "a variable of it is not a name and an array",
        FILE,
    ),
    "an array of objects": (
        lambda: with_variable("noise0", np.array([None])),
        "a numpy dtype is not a plain number",
        FILE,
    ),
    "big-endian": (
        lambda: with_variable("noise7", np.ones(3, ">f4")),
        "a numpy dtype is not a little-endian number",
        FILE,
    ),
    "integers": (
        lambda: with_variable("8x8/Conv1/gain", np.arange(3)),
        "tensor synthesis.b8.conv1.gain has no place in this skip network",
        STYLEGAN2,
    ),
    "flat weight": (
        lambda: changed(
            lambda gs: (
                gs.state["components"]["mapping"]
                .state["variables"]
                .append(("Dense2/weight", np.ones(3, np.float32)))
            )
        ),
        "a tensor must have 2 axes, got shape (3,)",
        FILE,
    ),
    "not finite": (
        lambda: changed(
            lambda gs: gs.state["variables"].__setitem__(
                0, ("dlatent_avg", np.full(8, np.nan, np.float32))
            )
        ),
        "tensor mapping.w_avg: it holds weights that are not finite",
        FILE,
    ),
    "another global": (
        lambda: changed(lambda gs: gs.state.update(extra=Call(os.getcwd))),
        "global posix.getcwd is not allowed",
        "this is not a StyleGAN2 file, or it is hostile: do not open it with other tools",
    ),
    "what the PyTorch release has": (
        lambda: changed(lambda gs: gs.state.update(extra=modules(network()))),
        "global torch_utils.persistence._reconstruct_persistent_obj is not allowed",
        "this is not a StyleGAN2 file, or it is hostile: do not open it with other tools",
    ),
    "bytes behind it": (
        lambda: tensorflow_file() + b"more",
        "4 bytes follow the end of the pickle",
        FILE,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_says_reason_and_remedy(tmp_path: Path, name: str) -> None:
    make, reason, fix = REFUSALS[name]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, make())
    assert reason in str(caught.value)
    assert str(caught.value).endswith("Nothing from the file was executed.")
    assert (caught.value.fix, caught.value.where) == (fix, str(tmp_path / "network"))


ARRAYS: dict[str, tuple[object, str]] = {
    "short of bytes": ((1, (4,), np.dtype("f4"), False, b"1234"), "shape (4,) has 4 bytes"),
    "a great one of none": (
        (1, (1 << 40, 1 << 40), np.dtype("f4"), False, b""),
        "shape (1099511627776, 1099511627776) has 0 bytes",
    ),
    "a negative length": ((1, (-1,), np.dtype("f4"), False, b""), "each a length"),
    "nine axes": ((1, (1,) * 9, np.dtype("f4"), False, b"1234"), "at most 8 axes"),
    "no bytes": ((1, (1,), np.dtype("f4"), False, [0]), "by a shape, a type and bytes"),
}


class FakeArray:
    """Pickles as an array with any state."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return *np.ones(1).__reduce__()[:2], self.state


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    state, reason = ARRAYS[name]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, with_variable("noise0", FakeArray(state)))
    assert reason in str(caught.value)


def test_arrays_in_columns_are_read(tmp_path: Path) -> None:
    def in_columns(gs: TensorFlowNetwork) -> None:
        variables = synthesis(gs)["variables"]
        variables[:] = [(name, np.array(value, order="F")) for name, value in variables]

    assert_same(read(tmp_path, changed(in_columns)).tensors, network())
