"""The ViewMaker against a loop over its layers, and the size of its changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape


def network(**shape: object) -> ViewMaker:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViewMaker(ViewMakerShape(**{"size": 16, **shape}))  # type: ignore[arg-type]


def drawn(maker: ViewMaker, count: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = maker.shape
    images = torch.rand(count, shape.channels, shape.size, shape.size, generator=generator)
    return images, torch.rand(count, maker.noise_numbers, generator=generator)


def by_hand(maker: ViewMaker, x: Tensor, noise: Tensor) -> Tensor:
    """The change that the page on operators prints, layer by layer, on the maker's weights."""
    weights = iter(list(maker.parameters()))
    side = maker.shape.size
    inner = (side // 4) ** 2

    def convolution(x: Tensor, kernel: int, stride: int = 1) -> Tensor:
        pad = (kernel // 2,) * 4
        return F.conv2d(F.pad(x, pad, mode="reflect"), next(weights), next(weights), stride)

    def norm(x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        spread = (x.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        gain, bias = next(weights), next(weights)
        return (x - mean) / spread * gain.view(-1, 1, 1) + bias.view(-1, 1, 1)

    def field(first: int, count: int, like: Tensor) -> Tensor:
        return noise[:, first : first + count].view(len(x), 1, *like.shape[2:])

    y = torch.cat([x, field(0, side**2, x)], 1)
    for kernel, stride in ((9, 1), (3, 2), (3, 2)):
        y = norm(convolution(y, kernel, stride)).relu()
    for block in range(3):
        y = torch.cat([y, field(side**2 + block * inner, inner, y)], 1)
        y = y + norm(convolution(norm(convolution(y, 3)).relu(), 3))
    for _ in range(2):
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = norm(convolution(y, 3)).relu()
    unit = convolution(y, 9).tanh()
    assert next(weights, None) is None
    means = torch.stack([each.abs().mean() for each in unit])
    return unit * 0.05 / (means + 1e-4).view(-1, 1, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_change_is_that_of_the_page(channels: int) -> None:
    maker = network(channels=channels).double()
    x, noise = (each.double() for each in drawn(maker))
    with torch.no_grad():
        torch.testing.assert_close(maker.change(x, noise), by_hand(maker, x, noise))
        for name, parameter in maker.named_parameters():  # other weights than those of the start
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(len(name))
            )
        torch.testing.assert_close(maker.change(x, noise), by_hand(maker, x, noise))


def test_layers_have_the_widths_of_the_page() -> None:
    found = [each for each in network().modules() if isinstance(each, nn.Conv2d)]
    assert [(each.in_channels, each.out_channels, each.kernel_size[0]) for each in found] == [
        (4, 32, 9), (32, 64, 3), (64, 128, 3),
        (129, 129, 3), (129, 129, 3), (130, 130, 3), (130, 130, 3), (131, 131, 3), (131, 131, 3),
        (131, 64, 3), (64, 32, 3), (32, 3, 9),
    ]  # fmt: skip
    assert {each.padding_mode for each in found} == {"reflect"}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.01, 0.5), dark=st.booleans())
def test_the_mean_change_of_each_image_is_eps(seed: int, eps: float, dark: bool) -> None:
    maker = network(eps=eps)
    x, noise = drawn(maker, seed=seed)
    with torch.no_grad():
        found = maker.change(x * (0.01 if dark else 1), noise).abs().mean((1, 2, 3))
    torch.testing.assert_close(found, torch.full((4,), eps), rtol=0, atol=1e-3)


def test_what_leaves_the_range_is_cut_off_if_asked_for() -> None:
    x, noise = drawn(network(), seed=3)
    x = x.round()  # values at both ends
    with torch.no_grad():
        clamped, free = network()(x, noise), network(clamp=False)(x, noise)
        torch.testing.assert_close(free, x + network().change(x, noise))
    assert bool(((free < 0) | (free > 1)).any())
    assert torch.equal(clamped, free.clamp(0, 1))


def test_a_view_is_a_function_of_its_own_image_and_noise() -> None:
    maker = network().double()
    x, noise = (each.double() for each in drawn(maker))
    with torch.no_grad():
        alone = maker(x[1:2], noise[1:2])
        torch.testing.assert_close(maker(x, noise)[1:2], alone, rtol=0, atol=1e-12)
        first, *others = torch.split(noise, [256, 16, 16, 16], dim=1)
        for place in range(4):  # every field of the noise is used
            fields = [first, *others]
            fields[place] = 1 - fields[place]
            assert not torch.equal(maker(x, torch.cat(fields, 1)), maker(x, noise))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"size": 30}, "a multiple of 4, got 30"),
        ({"size": 4}, "8 to 4096 px a side"),
        ({"size": 8192}, "8 to 4096 px a side"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\], got 0.0"),
        ({"eps": float("nan")}, "eps must be in"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**shape)
