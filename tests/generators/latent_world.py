"""A small random world for the tests of latent views: generator, encoder, sources, parent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from viewstore.format.columns import Column
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.gan.file import Origin, write_generator
from viewstore.generators.latent.inversion import Inversion, ResolvedInversion
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.generators.stylegan2.shape import Architecture
from viewstore.images.codec import make_codec
from viewstore.store.sample_views import StoredViews
from viewstore.train.encoder_file import Encoder, EncoderSettings, save_encoder
from viewstore.train.nets.network import seeded_network


def small_encoder(images: NDArray[np.uint8], *, in_channels: int = 1) -> Encoder:
    """Return a random encoder whose batch norms have seen `images`, uint8 [N, H, W, 3]."""
    settings = EncoderSettings(
        backbone="conv3",
        in_channels=in_channels,
        projector=(32, 24),
        size=images.shape[1],
        mean=(0.4,) * in_channels,
        std=(0.25,) * in_channels,
        policy="digits",
    )
    network = seeded_network(settings.network(), seed=1)
    encoder = Encoder(settings, network)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()
    encoder(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    network.eval()
    return encoder


def write_networks(folder: Path, *, samples: int) -> dict[str, Path]:
    """Write a small generator, its encoder and `images.npz` of `samples` images of two classes.

    Returns the files of both networks by role.
    """
    gan = small_gan()
    encoder = small_encoder(source_images(gan, 64))
    files = {role: folder / f"{role}.safetensors" for role in ("gan", "encoder")}
    write_generator(files["gan"], gan, Origin(family="test"), half=False)
    save_encoder(files["encoder"], encoder.settings, encoder.network)
    images, labels = source_images(gan, samples), np.arange(samples) % 2
    np.savez(folder / "images.npz", images=images, labels=labels)
    return files


def small_gan(
    *, channels: int = 1, seed: int = 0, classes: int = 0, widths: tuple[int, ...] = (12, 12, 12)
) -> StyleGAN2:
    """Return a generator with random weights whose images fill [-1, 1] and a little more.

    `widths`: Feature maps at 4, 8, 16, ... pixels.
    """
    shape = Architecture(
        z_dim=8,
        c_dim=classes,
        embed_width=8 if classes else 0,
        mapping_widths=(8, 8),
        channels=widths,
        image_channels=channels,
    )
    tensors = StyleGAN2(shape).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, value in tensors.items():
        if name.endswith("resample_filter"):
            row = torch.tensor([1.0, 3.0, 3.0, 1.0])
            value.copy_(torch.outer(row, row) / 64)
        elif name.endswith("affine.bias"):
            value.fill_(1)
        elif name.startswith("mapping.fc") and name.endswith("weight"):
            value.copy_(100 * torch.randn(value.shape, generator=generator))
        elif name.endswith("noise_strength"):
            value.fill_(0.1)
        elif name.endswith(("weight", "const")):
            value.copy_(torch.randn(value.shape, generator=generator))
    return StyleGAN2.from_tensors({name: tensors[name] * 1 for name in tensors}, shape.kwargs())


@dataclass(frozen=True)
class FixedParams(Mapping[str, Any]):
    """The params of a view set, in memory."""

    columns: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def rows(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        return self.columns[name][rows]

    take = rows


@dataclass(frozen=True)
class FixedPlan:
    columns: tuple[Column, ...]
    generator: Mapping[str, Any]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class FixedViewSet:
    """As much of a ViewSet as generators read of their parent."""

    name: str
    plan: FixedPlan
    params: FixedParams
    pixels: NDArray[np.uint8]  # [N, V, H, W, 3]
    of: str | None = None
    kind: str = "pixels"

    @property
    def roles(self) -> tuple[str, ...]:
        return ("generated",) * self.pixels.shape[1]

    @property
    def num_views(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[2]

    @property
    def width(self) -> int:
        return self.pixels.shape[3]

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return self.pixels[row]


def as_view_set(settings: ResolvedInversion, rendered: Iterable[Rendered]) -> FixedViewSet:
    """Return rendered rows 0..N-1 as a view set `recon`."""
    rows = sorted(rendered, key=lambda one: one.index)
    names = [column.name for column in settings.columns()]
    return FixedViewSet(
        name="recon",
        plan=FixedPlan(settings.columns(), {"args": {"psi": settings.psi}}),
        params=FixedParams({n: np.stack([one.params[n] for one in rows]) for n in names}),
        pixels=np.stack([one.pixels for one in rows]),
    )


class Opaque:
    """A generator whose images have no gradient, as those of an exported module."""

    differentiable = False

    def __init__(self, gan: StyleGAN2) -> None:
        self._gan = gan

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._gan, name)

    def to(self, device: str) -> Opaque:
        return Opaque(self._gan.to(device))

    def synthesis(self, latents: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled(), "this generator cannot be differentiated"
        return self._gan.synthesis(latents.detach())


@dataclass(frozen=True)
class World:
    """Sources that lie near the generator's images, and their inversion."""

    context: Context
    samples: tuple[Sample, ...]

    def with_codec(self, name: str) -> World:
        return replace(self, context=replace(self.context, codec=make_codec(name)))

    def with_models(self, **models: object) -> World:
        merged = {**self.context.models, **models}
        return replace(self, context=replace(self.context, models=merged))


def without_gradient(world: World) -> World:
    """Return a world whose generator cannot be differentiated."""
    return world.with_models(gan=Opaque(world.context.models["gan"]))


def source_images(gan: StyleGAN2, num: int, seed: int = 5) -> NDArray[np.uint8]:
    """Return `num` keyed images of `gan` with a little noise, uint8 [num, 16, 16, 3]."""
    images = gan.synthesis(gan.sample(num, seed, gan.classes_in_turn(num))).clamp(-1, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    levels = ((images + 0.02 * noise + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def make_world(*, num: int, channels: int = 1, max_steps: int = 40, classes: int = 0) -> World:
    """Return a world whose parent was inverted with few steps."""
    gan = small_gan(channels=channels, classes=classes)
    images = source_images(gan, num)
    encoder = small_encoder(source_images(gan, 64), in_channels=channels)
    context = Context(
        seed=3,
        view_set="views",
        num_samples=num,
        source_height=16,
        source_width=16,
        source_image=lambda row: images[row],
        codec=make_codec("raw"),
        models={"gan": gan, "encoder": encoder},
    )
    samples = tuple(Sample.of(row, images[row]) for row in range(num))
    settings = Inversion(max_steps=max_steps, shift_stop=0.05, slots=4).resolve(context)
    parent = as_view_set(settings, settings.make(context).render(samples))
    return world_on(context, parent, images)


def world_on(context: Context, parent: FixedViewSet, images: NDArray[np.uint8]) -> World:
    """Return a world whose samples start from the views of `parent`."""
    stored = [StoredViews(parent, row) for row in range(len(images))]  # type: ignore[arg-type]
    samples = (Sample.of(each.row, images[each.row], each) for each in stored)
    return World(replace(context, parent=parent), tuple(samples))  # type: ignore[arg-type]
