"""Checkpoints of others: what is read from them."""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.network_files import (
    EMBEDDED_SOURCE,
    FILTER,
    KWARGS,
    Tensors,
    ada_file,
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


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def test_fixture_pickle_has_the_canonical_names_and_shapes(gan_fixtures: Path) -> None:
    found = read_checkpoint(gan_fixtures / "nv_cifar32_uncond.pkl")
    expected: dict[str, tuple[int, ...]] = {
        "mapping.w_avg": (64,),
        "mapping.fc0.weight": (64, 64),
        "mapping.fc0.bias": (64,),
        "mapping.fc1.weight": (64, 64),
        "mapping.fc1.bias": (64,),
        "synthesis.b4.const": (64, 4, 4),
    }
    for size, inputs, outputs in ((4, 0, 64), (8, 64, 64), (16, 64, 64), (32, 64, 32)):
        block = f"synthesis.b{size}"
        expected[f"{block}.resample_filter"] = (4, 4)
        layers = {"conv0": (outputs, inputs, 3), "conv1": (outputs, outputs, 3)}
        for layer, (o, i, k) in (layers | {"torgb": (3, outputs, 1)}).items():
            if i == 0:
                continue
            expected[f"{block}.{layer}.weight"] = (o, i, k, k)
            expected[f"{block}.{layer}.bias"] = (o,)
            expected[f"{block}.{layer}.affine.weight"] = (i, 64)
            expected[f"{block}.{layer}.affine.bias"] = (i,)
            if layer != "torgb":
                expected[f"{block}.{layer}.noise_const"] = (size, size)
                expected[f"{block}.{layer}.noise_strength"] = ()
    assert {name: value.shape for name, value in found.tensors.items()} == expected
    assert {value.dtype for value in found.tensors.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found.tensors["synthesis.b32.resample_filter"], FILTER)
    assert found.kwargs["synthesis_kwargs"] == {
        "architecture": "skip",
        "conv_clamp": 256,
        "use_noise": True,
        "channel_base": 1024,
        "channel_max": 64,
        "num_fp16_res": 4,
    }
    assert found.kwargs["mapping_kwargs"] == {"num_layers": 2, "lr_multiplier": 0.01}


def test_fixture_checkpoint_holds_what_torch_reads_from_it(gan_fixtures: Path) -> None:
    path = gan_fixtures / "rosinality_32.pt"
    found = read_checkpoint(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True)["g_ema"]
    pairs = {
        "mapping.fc7.bias": state["style.8.bias"],
        "synthesis.b4.const": state["input.input"][0],
        "synthesis.b4.conv1.noise_const": state["noises.noise_0"][0, 0],
        "synthesis.b32.conv0.weight": state["convs.4.conv.weight"][0],
        "synthesis.b32.conv1.noise_strength": state["convs.5.noise.weight"][0],
        "synthesis.b32.conv1.noise_const": state["noises.noise_6"][0, 0],
        "synthesis.b8.torgb.bias": state["to_rgbs.0.bias"][0, :, 0, 0],
        "synthesis.b16.torgb.affine.bias": state["to_rgbs.1.conv.modulation.bias"],
        "synthesis.b4.resample_filter": state["to_rgbs.2.upsample.kernel"] / 4,
    }
    for name, value in pairs.items():
        np.testing.assert_array_equal(found.tensors[name], value.numpy(), err_msg=name)
    # 81 tensors and the average, less 6 kernels that become one filter for each of 4 blocks.
    assert len(found.tensors) == 80
    assert found.kwargs["img_resolution"] == 32
    assert found.family == "rosinality"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_gives_the_arrays_that_were_written(tmp_path: Path, protocol: int) -> None:
    assert_same(read(tmp_path, ada_file(protocol)).tensors, network())


OTHER_NETWORKS: dict[str, dict[str, Any]] = {
    "orig": {"architecture": "orig"},
    "resnet": {"architecture": "resnet"},
    "no noise": {"use_noise": False},
    "one channel": {"image_channels": 1},
    "conditional": {"c_dim": 5},
    "filter per axis": {"taps": np.arange(1, 9, dtype=np.float32) / 36},
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_every_architecture_is_read(tmp_path: Path, name: str) -> None:
    options = OTHER_NETWORKS[name]
    synthesis = {k: v for k, v in options.items() if k in ("architecture", "use_noise")}
    kwargs = KWARGS | {"synthesis_kwargs": synthesis, "c_dim": options.get("c_dim", 0)}
    kwargs["img_channels"] = options.get("image_channels", 3)
    tensors = network(**options)
    found = read(tmp_path, dump(snapshot(modules(tensors, kwargs))))
    assert_same(found.tensors, tensors)
    expected = {"architecture": "skip", "conv_clamp": None, "use_noise": True} | synthesis
    assert found.kwargs["synthesis_kwargs"] == expected


def test_filters_of_layers_become_the_one_of_their_block(tmp_path: Path) -> None:
    layers = {f"synthesis.b8.{layer}.resample_filter": FILTER for layer in ("conv0", "conv1")}
    found = read(tmp_path, dump(snapshot(modules(network() | layers))))
    assert_same(found.tensors, network())


def test_only_layers_that_resample_must_agree_in_their_filter(tmp_path: Path) -> None:
    """conv1 keeps the default filter, of another size even, in networks that have another one."""
    own = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    tensors = network(taps=own)
    used = {"synthesis.b8.conv0.resample_filter": own}
    idle = {f"synthesis.b{size}.conv1.resample_filter": FILTER for size in (4, 8)}
    found = read(tmp_path, dump(snapshot(modules(tensors | used | idle))))
    assert_same(found.tensors, tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    rounded = {name: torch.as_tensor(value).to(dtype) for name, value in network().items()}
    found = read(tmp_path, dump(snapshot(modules(rounded))))
    assert_same(found.tensors, {name: value.float().numpy() for name, value in rounded.items()})


def test_strides_are_followed(tmp_path: Path) -> None:
    tensors = network()
    written: dict[str, Any] = dict(tensors)
    weight = torch.as_tensor(tensors["synthesis.b8.conv1.weight"])
    written["synthesis.b8.conv1.weight"] = weight.contiguous(memory_format=torch.channels_last)
    # A slice of a longer storage: offset and numel differ from the tensor's own.
    longer = torch.cat([torch.full((3,), 9.0), torch.as_tensor(tensors["mapping.w_avg"])])
    written["mapping.w_avg"] = longer[3:]
    found = read(tmp_path, dump(snapshot(modules(written)))).tensors
    assert_same(found, tensors)
    assert found["synthesis.b8.conv1.weight"].flags.c_contiguous


def test_origin_is_recorded(tmp_path: Path) -> None:
    data = ada_file()
    found = read(tmp_path, data)
    assert found.family == "stylegan2-ada-pytorch"
    assert found.source_sha256 == hashlib.sha256(data).hexdigest()
    assert found.module_src_sha256 == hashlib.sha256(EMBEDDED_SOURCE.encode()).hexdigest()
    assert "non-commercial" in found.licence_note
    assert found.notes == ()


def test_constructor_arguments_may_be_positional(tmp_path: Path) -> None:
    generator = modules(network())
    generator.state["_init_args"] = (8, 0, 8, 8, 3)
    generator.state["_init_kwargs"] = {"mapping_kwargs": {"num_layers": 2}}
    found = read(tmp_path, dump(snapshot(generator)))
    assert found.kwargs["img_resolution"] == 8
    generator.state["_init_args"] = (9, 0, 8, 8, 3)
    with pytest.raises(CheckpointError, match="z_dim is 9, but the tensors say 8"):
        read(tmp_path, dump(snapshot(generator)))


@pytest.mark.parametrize("legacy", [False, True])
def test_both_containers_of_torch_give_the_same_network(tmp_path: Path, legacy: bool) -> None:
    data = torch_file(rosinality_checkpoint(network()), legacy=legacy)
    found = read(tmp_path, data)
    assert_same(found.tensors, network())
    assert found.notes == ()
    assert found.module_src_sha256 is None


def test_missing_average_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    checkpoint = rosinality_checkpoint(network())
    del checkpoint["latent_avg"]
    first, second = (read(tmp_path, torch_file(checkpoint)) for _ in range(2))
    assert_same(first.tensors, second.tensors)
    assert first.notes == ("the file has no latent_avg: the mean of 4096 keyed codes is used",)
    # Against the mapping of the paper, in float64, on normal deviates of another source.
    x = np.random.default_rng(0).normal(size=(100_000, 8))
    x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-8)
    tensors = network()
    for i in range(2):
        x = x @ tensors[f"mapping.fc{i}.weight"].T * 0.01 / np.sqrt(8)
        x = x + tensors[f"mapping.fc{i}.bias"] * 0.01
        x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
    spread = x.std(0) / np.sqrt(4096)
    assert (abs(first.tensors["mapping.w_avg"] - x.mean(0)) < 5 * spread).all()


def test_network_without_averaging_is_read_with_a_note(tmp_path: Path) -> None:
    checkpoint = rosinality_checkpoint(network())
    checkpoint["g"] = checkpoint.pop("g_ema")
    assert read(tmp_path, torch_file(checkpoint)).notes == (
        "the file has no g_ema: its g is used, without averaging",
    )


def without_noises() -> dict[str, Any]:
    """Return a checkpoint as the published 256 px ones are."""
    checkpoint = rosinality_checkpoint(network())
    state = checkpoint["g_ema"]
    assert isinstance(state, dict)
    checkpoint["g_ema"] = {k: v for k, v in state.items() if not k.startswith("noises.")}
    return checkpoint


def test_noise_that_a_file_lacks_is_keyed_and_said_in_one_line(tmp_path: Path) -> None:
    first = read(tmp_path, torch_file(without_noises()))
    again = read(tmp_path, torch_file(without_noises(), legacy=True))
    assert first.notes == ("the file has no noises.*: keyed noise is used, always the same",)
    assert_same(first.tensors, again.tensors)
    expected = network()
    drawn = [name for name in expected if name.endswith("noise_const")]
    assert_same(
        {name: value for name, value in first.tensors.items() if name not in drawn},
        {name: value for name, value in expected.items() if name not in drawn},
    )
    noise = [first.tensors[name] for name in sorted(drawn)]
    assert [each.shape for each in noise] == [(4, 4), (8, 8), (8, 8)]
    together = np.concatenate([each.ravel() for each in noise])
    assert abs(together.mean()) < 0.3
    assert 0.8 < together.std() < 1.2
    assert len(np.unique(together)) == len(together)  # each layer has its own


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_plain_state_dict_is_read(tmp_path: Path, prefix: str) -> None:
    state = rosinality_checkpoint(network())["g_ema"]
    assert isinstance(state, dict)
    found = read(tmp_path, torch_file({prefix + name: value for name, value in state.items()}))
    assert found.notes[0] == "the file is a plain state_dict: it is used as the averaged generator"
    expected = network() | {"mapping.w_avg": found.tensors["mapping.w_avg"]}
    assert_same(found.tensors, expected)


def test_names_of_data_parallel_are_read(tmp_path: Path) -> None:
    checkpoint = rosinality_checkpoint(network())
    state = checkpoint["g_ema"]
    assert isinstance(state, dict)
    checkpoint["g_ema"] = {f"module.{name}": value for name, value in state.items()}
    assert_same(read(tmp_path, torch_file(checkpoint)).tensors, network())


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_values_among_the_settings_are_passed_over(tmp_path: Path, legacy: bool) -> None:
    checkpoint = rosinality_checkpoint(network())
    checkpoint["args"] = argparse.Namespace(
        device=torch.device("cuda", 0), path=Path("data") / "lmdb", dtype=torch.float32
    )
    assert_same(read(tmp_path, torch_file(checkpoint, legacy=legacy)).tensors, network())


def test_pickles_are_read_without_torch_or_the_modules_they_name(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(ada_file())
    code = (
        "import sys; from pathlib import Path\n"
        "from viewstore.generators.checkpoints.read import read_checkpoint\n"
        "read_checkpoint(Path(sys.argv[1]))\n"
        "print(*sorted({'torch', 'torch_utils', 'dnnlib', 'training'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"
