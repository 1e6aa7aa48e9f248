"""Outputs and gradients against the public implementations, through our readers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from viewstore.generators.gan.file import read_generator, write_generator
from viewstore.generators.stylegan2.network import StyleGAN2

W_TOLERANCE = 1e-6
IMAGE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-4


def arrays(path: Path) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored if key != "meta_json"}


@pytest.fixture(scope="module")
def ada(gan_fixtures: Path) -> tuple[StyleGAN2, Mapping[str, Any]]:
    return read_generator(gan_fixtures / "nv_cifar32_uncond.pkl").network, arrays(
        gan_fixtures / "nv_cifar32_uncond.npz"
    )


@pytest.fixture(scope="module")
def rosinality(gan_fixtures: Path) -> tuple[StyleGAN2, Mapping[str, Any]]:
    return read_generator(gan_fixtures / "rosinality_32.pt").network, arrays(
        gan_fixtures / "rosinality_32.npz"
    )


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def gradient_error(network: StyleGAN2, wanted: Mapping[str, Any]) -> float:
    w = wanted["wplus"].clone().requires_grad_()
    (network.synthesis(w) * wanted["grad_v"]).sum().backward()
    assert w.grad is not None
    return float((w.grad - wanted["grad_w"]).norm() / wanted["grad_w"].norm())


def test_ada_codes_are_the_reference(ada: tuple[StyleGAN2, Mapping[str, Any]]) -> None:
    network, wanted = ada
    z = wanted["z"]
    assert largest(network.mapping(z), wanted["w_psi1"]) <= W_TOLERANCE
    assert largest(network.mapping(z, psi=0.7), wanted["w_psi07"]) <= W_TOLERANCE
    partly = network.mapping(z, psi=0.5, cutoff=4)
    assert largest(partly, wanted["w_psi05_cut4"]) <= W_TOLERANCE


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_ada_images_are_the_reference(
    ada: tuple[StyleGAN2, Mapping[str, Any]], noise: str, fused: bool
) -> None:
    network, wanted = ada
    images = network.synthesis(wanted["wplus"], noise=noise, fused=fused)
    name = f"img_w_{noise}_fp32" + ("" if fused else "_unfused")
    assert largest(images, wanted[name]) <= IMAGE_TOLERANCE


@pytest.mark.parametrize(
    ("psi", "name"), [(1.0, "img_z_const_fp32"), (0.7, "img_z_psi07_const_fp32")]
)
def test_ada_images_from_z_are_the_reference(
    ada: tuple[StyleGAN2, Mapping[str, Any]], psi: float, name: str
) -> None:
    network, wanted = ada
    images = network.synthesis(network.mapping(wanted["z"], psi=psi))
    assert largest(images, wanted[name]) <= IMAGE_TOLERANCE


def test_ada_gradient_is_the_reference(ada: tuple[StyleGAN2, Mapping[str, Any]]) -> None:
    assert gradient_error(*ada) <= GRADIENT_TOLERANCE


def test_rosinality_codes_are_the_reference(
    rosinality: tuple[StyleGAN2, Mapping[str, Any]],
) -> None:
    network, wanted = rosinality
    assert largest(network.mapping(wanted["z"])[:, 0], wanted["w"]) <= W_TOLERANCE


@pytest.mark.parametrize("noise", ["const", "none"])
def test_rosinality_images_are_the_reference(
    rosinality: tuple[StyleGAN2, Mapping[str, Any]], noise: str
) -> None:
    network, wanted = rosinality
    images = network.synthesis(wanted["wplus"], noise=noise)
    assert largest(images, wanted[f"img_w_{noise}"]) <= IMAGE_TOLERANCE


def test_rosinality_truncated_images_are_the_reference(
    rosinality: tuple[StyleGAN2, Mapping[str, Any]],
) -> None:
    network, wanted = rosinality
    average = wanted["latent_avg"]
    images = network.synthesis(average + 0.7 * (wanted["wplus"] - average))
    assert largest(images, wanted["img_w_psi07_const"]) <= IMAGE_TOLERANCE
    images = network.synthesis(network.mapping(wanted["z"]))
    assert largest(images, wanted["img_z_const"]) <= IMAGE_TOLERANCE


def test_rosinality_gradient_is_the_reference(
    rosinality: tuple[StyleGAN2, Mapping[str, Any]],
) -> None:
    assert gradient_error(*rosinality) <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("name", ["nv_cifar32_uncond.pkl", "rosinality_32.pt"])
def test_conversion_keeps_the_network_and_its_licence(
    gan_fixtures: Path, name: str, tmp_path: Path
) -> None:
    found = read_generator(gan_fixtures / name)
    write_generator(tmp_path / "gan", found.network, found.origin, half=False)
    again = read_generator(tmp_path / "gan")
    assert again.network.fingerprint == found.network.fingerprint
    assert again.origin == found.origin
    assert again.origin.licence_note


def test_format_is_told_by_content(gan_fixtures: Path, tmp_path: Path) -> None:
    disguised = tmp_path / "gan.safetensors"
    disguised.write_bytes((gan_fixtures / "rosinality_32.pt").read_bytes())
    assert read_generator(disguised).origin.family == "rosinality"
