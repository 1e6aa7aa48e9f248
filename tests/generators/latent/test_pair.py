"""Pairs of modules of torch.export in place of GAN and inverter, from the files to built views."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import viewstore
from tests.generators.latent_world import (
    World,
    as_view_set,
    small_encoder,
    small_gan,
    world_on,
)
from tests.generators.network_files import network as file_network
from tests.generators.network_files import rosinality_checkpoint, torch_file
from tests.generators.pairs import (
    SIDE,
    WIDTH,
    NoGradient,
    SmallDecoder,
    export,
    keyed,
    write_pair,
)
from tests.viewstore.commands import run
from viewstore.build.roles import load_model
from viewstore.errors import CheckpointError, ConfigError
from viewstore.format.columns import Status
from viewstore.generators.checkpoints.exported import is_module
from viewstore.generators.contract import Context, Rendered, Sample
from viewstore.generators.gan.inverter import Inverter, InverterShape
from viewstore.generators.latent.inversion import Inversion
from viewstore.generators.latent.pair import ExportedDecoder, read_decoder, read_encoder
from viewstore.generators.latent.perturb import WPerturb
from viewstore.generators.latent.search import WSearch
from viewstore.images.codec import make_codec
from viewstore.train.encoder_file import save_encoder

ROWS = 5


def pair_world(folder: Path, *, gradient: bool = True) -> World:
    """Return a world of a pair whose parent is what its encoder says."""
    files = write_pair(folder, gradient=gradient)
    decoder, encoder = read_decoder(files["gan"]), read_encoder(files["inverter"])
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(ROWS + 32, decoder.num_codes, decoder.w_dim, generator=generator)
    made = decoder.synthesis(latents).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    images = made.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    context = Context(
        seed=3,
        view_set="views",
        num_samples=ROWS,
        source_height=decoder.res,
        source_width=decoder.res,
        source_image=lambda row: images[row],
        codec=make_codec("raw"),
        models={
            "gan": decoder,
            "inverter": encoder,
            "encoder": small_encoder(images, in_channels=decoder.channels),
        },
        whole_source=lambda: (len(images), lambda row: images[row]),
    )
    settings = Inversion(max_steps=0, shift_stop=0.05, slots=2).resolve(context)
    rendered = settings.make(context).render(Sample.of(row, images[row]) for row in range(ROWS))
    parent = as_view_set(settings, rendered)
    args = {"psi": settings.psi, "latents": settings.latents}
    parent = replace(parent, plan=replace(parent.plan, generator={"args": args}))
    return world_on(context, parent, images[:ROWS])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return pair_world(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize("codes", [None, 3])
def test_a_pair_takes_any_number_of_rows_however_it_was_exported(
    tmp_path: Path, rows: int | None, codes: int | None
) -> None:
    files = write_pair(tmp_path, codes=codes, channels=3, rows=rows)
    decoder, encoder = read_decoder(files["gan"]), read_encoder(files["inverter"])
    assert (decoder.res, decoder.channels) == (SIDE, 3)
    assert (decoder.num_codes, decoder.w_dim, decoder.differentiable) == (codes or 1, WIDTH, True)
    expected = keyed(SmallDecoder(codes=codes, channels=3))
    for count in (1, 2, 4, 7):
        latents = torch.randn(count, codes or 1, WIDTH, requires_grad=True)
        images = decoder.synthesis(latents)
        assert torch.allclose(images, expected(latents), atol=1e-5)
        (gradient,) = torch.autograd.grad(images.sum(), latents)
        assert gradient.abs().sum(dim=(1, 2)).min() > 0
        assert encoder(images.detach()).shape == latents.shape


def test_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    """Both are zip archives, and a suffix says nothing."""
    decoder = write_pair(tmp_path)["gan"].rename(tmp_path / "decoder.pkl")
    stylegan = tmp_path / "stylegan.pt2"
    stylegan.write_bytes(torch_file(rosinality_checkpoint(file_network())))
    assert (is_module(decoder), is_module(stylegan)) == (True, False)
    assert isinstance(load_model("gan", decoder), ExportedDecoder)
    assert not isinstance(load_model("gan", stylegan), ExportedDecoder)
    (tmp_path / "cut.pt2").write_bytes(decoder.read_bytes()[:-40])
    with pytest.raises(CheckpointError):
        load_model("gan", tmp_path / "cut.pt2")


class Gives(nn.Module):
    """Gives images of another shape than a decoder's."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(WIDTH, int(np.prod(shape)))

    def forward(self, w: Tensor) -> Tensor:
        return self.layer(w).unflatten(1, self.shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 8, 12), r"it gives \[any, 3, 8, 12\], a decoder square images of 1 or 3 channels"),
        ((4, 8, 8), r"it gives \[any, 4, 8, 8\]"),
        ((8, 8), r"it gives \[any, 8, 8\]"),
    ],
)
def test_a_decoder_must_give_images(tmp_path: Path, shape: tuple[int, ...], expected: str) -> None:
    path = export(tmp_path / "d.pt2", Gives(*shape).eval(), (WIDTH,), rows=None)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_decoder(path)
    assert "torch.export.export(module.eval().cpu()" in str(caught.value.fix)


def test_a_decoder_given_as_inverter_and_the_other_way_round(tmp_path: Path) -> None:
    files = write_pair(tmp_path)
    with pytest.raises(CheckpointError, match=r"it takes \[any, 12\], an encoder images"):
        read_encoder(files["gan"])
    with pytest.raises(CheckpointError, match=r"\[any, 1, 16, 16\], a decoder latents \[N, D\]"):
        read_decoder(files["inverter"])


class Usual(nn.Module):
    """The layers that decoders are made of, and a codebook of vectors as a VQ-VAE has it."""

    def __init__(self, *, codebook: bool) -> None:
        super().__init__()
        self.book = nn.Embedding(5, WIDTH) if codebook else None
        self.first = nn.Linear(WIDTH, 16 * 16)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, w: Tensor) -> Tensor:
        if self.book is not None:
            apart = (w.unsqueeze(1) - self.book.weight).square().sum(-1)
            w = self.book(apart.argmin(1))
        x = self.norm(self.up(self.first(w).view(-1, 16, 4, 4))).sigmoid()
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest-exact")
        x = nn.functional.interpolate(x, size=(8, 8), mode="bicubic", antialias=True)
        x = nn.functional.pixel_shuffle(self.last(nn.functional.silu(x)), 2)
        return x * torch.rsqrt(x.square().mean((1, 2, 3), keepdim=True) + 1e-8)


@pytest.mark.parametrize("codebook", [False, True])
def test_decoders_of_the_usual_layers_are_read(tmp_path: Path, codebook: bool) -> None:
    network = keyed(Usual(codebook=codebook))
    decoder = read_decoder(export(tmp_path / "d.pt2", network, (WIDTH,), rows=None))
    assert decoder.differentiable is not codebook
    latents = torch.randn(5, 1, WIDTH)
    assert torch.allclose(decoder.synthesis(latents), network(latents[:, 0]), atol=1e-5)


class Averages(nn.Module):
    """Gives one row for all, not one for each."""

    def forward(self, w: Tensor) -> Tensor:
        return w.mean(0, keepdim=True)


def test_a_module_that_gives_no_row_for_each_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "d.pt2", Averages().eval(), (WIDTH,), rows=3)
    with pytest.raises(CheckpointError, match=r"it must give floats \[3, \.\.\.\]"):
        read_decoder(path)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"side": 24}, r"takes images \[1, 24, 24\], the decoder in --gan makes \[1, 16, 16\]"),
        ({"channels": 3}, r"takes images \[3, 16, 16\], the decoder in --gan makes \[1, 16, 16\]"),
        ({"codes": 2}, r"gives latents \[2, 12\], the decoder in --gan takes \[1, 12\]"),
    ],
)
def test_an_encoder_of_another_decoder_is_refused(
    world: World, tmp_path: Path, sizes: dict[str, Any], expected: str
) -> None:
    other = read_encoder(write_pair(tmp_path, **sizes)["inverter"])
    with pytest.raises(ConfigError, match=expected) as caught:
        Inversion(shift_stop=0.05).resolve(world.with_models(inverter=other).context)
    assert caught.value.fix is not None


def test_inverters_of_other_kinds(world: World, tmp_path: Path) -> None:
    """A decoder needs its encoder; an exported encoder of equal shapes may serve a StyleGAN2."""
    models = {name: each for name, each in world.context.models.items() if name != "inverter"}
    alone = replace(world.context, models=models)
    with pytest.raises(ConfigError, match="needs the encoder that belongs to it") as caught:
        Inversion(shift_stop=0.05).resolve(alone)
    assert "--inverter" in str(caught.value.fix)
    gan = small_gan()
    ours = Inverter(InverterShape.of(gan))
    with pytest.raises(ConfigError, match="the inverter was trained for num_codes 6, not 1"):
        Inversion(shift_stop=0.05).resolve(world.with_models(inverter=ours).context)
    with pytest.raises(ConfigError, match=r"gives latents \[1, 12\], the decoder .* takes \[6, 8"):
        Inversion(shift_stop=0.05).resolve(world.with_models(gan=gan).context)


def test_the_spread_of_latents_is_that_of_the_whole_source(world: World) -> None:
    settings = Inversion(shift_stop=0.05).resolve(world.context)
    assert settings.latents is not None
    assert world.context.whole_source is not None
    count, image = world.context.whole_source()
    pixels = np.stack([image(row)[..., :1] for row in range(count)]).transpose(0, 3, 1, 2)
    codes = world.context.models["inverter"](torch.from_numpy(pixels / np.float32(127.5) - 1))
    codes = codes[:, 0].double()
    assert settings.latents["samples"] == count == ROWS + 32
    assert np.allclose(settings.latents["mean"], codes.mean(0), rtol=1e-3, atol=1e-3)
    assert np.allclose(settings.latents["std"], codes.std(0), rtol=1e-3)
    gan = world.context.models["gan"].knowing(settings.latents)
    assert gan.sigma_w == pytest.approx(codes.var(0).mean().sqrt().item(), rel=1e-3)
    again = Inversion(shift_stop=0.05, latents=json.loads(json.dumps(settings.latents)))
    without = replace(world.context, whole_source=None)
    assert again.resolve(without).latents == settings.latents  # as a worker reads it in the plan


def test_latents_that_do_not_differ_have_no_spread(world: World) -> None:
    one = world.context.source_image(0)
    same = replace(world.context, whole_source=lambda: (3, lambda row: one))
    with pytest.raises(ConfigError, match="latents of 3 images that do not differ"):
        Inversion(shift_stop=0.05).resolve(same)


def rendered(world: World, settings: Any, rows: list[int]) -> dict[int, Rendered]:  # noqa: ANN401
    resolved = settings.resolve(world.context)
    generator = resolved.make(world.context)
    found = {one.index: one for one in generator.render(world.samples[row] for row in rows)}
    for one in found.values():
        assert set(one.params) == {column.name for column in resolved.columns()}
    return found


SETTINGS = {
    "encoded": Inversion(shift_stop=0.05, max_steps=0, slots=2),
    "inverted": Inversion(shift_stop=0.05, max_steps=6, slots=2),
    "w-perturb": WPerturb(views=2),
    "w-search": WSearch(views=2, eps1=0.3, max_steps=6, slots=2),
    "truncated": Inversion(shift_stop=0.05, max_steps=3, slots=2, psi=0.7),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_order_and_neighbours_change_no_byte(world: World, name: str) -> None:
    first = rendered(world, SETTINGS[name], [0, 1, 2, 3, 4])
    for row, one in {
        **rendered(world, SETTINGS[name], [4, 2, 3, 0, 1]),
        **rendered(world, SETTINGS[name], [1]),
    }.items():
        assert np.array_equal(one.pixels, first[row].pixels)
        for param, value in one.params.items():
            assert np.array_equal(value, first[row].params[param]), param


def test_encoding_alone_keeps_what_the_encoder_says(world: World) -> None:
    encoder, decoder = world.context.models["inverter"], world.context.models["gan"]
    for row, one in rendered(world, SETTINGS["encoded"], [0, 3]).items():
        image = torch.from_numpy(world.samples[row].image[..., 0] / np.float32(127.5) - 1)
        code = encoder(image[None, None])[0].numpy().astype(np.float16)
        assert np.array_equal(one.params["latent"][0], code)
        assert one.params["steps"].item() == 0
        assert one.params["loss"] == one.params["loss0"]
        made = decoder.synthesis(torch.from_numpy(code[None].astype(np.float32)))
        levels = ((made + 1) * 127.5).round().clamp(0, 255).numpy()
        assert np.array_equal(one.pixels[0, ..., 0], levels[0, 0])


def test_refinement_comes_nearer(world: World) -> None:
    encoded = rendered(world, SETTINGS["encoded"], [0, 1, 2, 3])
    refined = rendered(world, replace(SETTINGS["inverted"], max_steps=80), [0, 1, 2, 3])
    for row, one in refined.items():
        assert one.params["loss"] < encoded[row].params["loss"]
        assert one.params["x_invert_mse"] < encoded[row].params["x_invert_mse"]


def test_noise_is_in_units_of_the_spread(world: World) -> None:
    settings = WPerturb(views=64, sigma=0.5, keep_latents=True, measured=False)
    apart = [
        one.params["latent"].astype(np.float64) - one.params["latent0"]
        for one in rendered(world, settings, [0, 1, 2, 3, 4]).values()
    ]
    found = np.concatenate(apart)[:, 0].std(0)
    assert world.context.parent is not None
    std = world.context.parent.plan.generator["args"]["latents"]["std"]
    assert np.allclose(found / std, 0.5, atol=0.5 * 5 / (2 * 320) ** 0.5)  # five sigma


def test_views_are_found_at_the_distance(world: World) -> None:
    settings = WSearch(views=2, eps1=0.2, max_steps=300, slots=2)
    for one in rendered(world, settings, [0, 1, 2]).values():
        assert one.params["converged"].all()
        assert np.abs(one.params["distance"] - 0.2).max() <= 0.02


def test_a_parent_of_a_gan_is_refused(world: World) -> None:
    parent = world.context.parent
    assert parent is not None
    strange = replace(parent, plan=replace(parent.plan, generator={"args": {"psi": 1.0}}))  # type: ignore[type-var, arg-type]
    context = replace(world.context, parent=strange)
    for settings in (SETTINGS["w-search"], SETTINGS["w-perturb"]):
        with pytest.raises(ConfigError, match="holds latents of a GAN, not of the decoder"):
            settings.resolve(context)  # type: ignore[attr-defined]


def test_latents_that_half_precision_cannot_hold_fail(world: World) -> None:
    class Large:
        takes = (None, 1, SIDE, SIDE)

        def to(self, device: str) -> Large:
            return self

        def __call__(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 1, WIDTH), 1e6)

    settings = Inversion(max_steps=0, shift_stop=0.05, slots=2).resolve(world.context)
    large = world.with_models(inverter=Large())
    (one,) = settings.make(large.context).render([world.samples[0]])
    assert one.params["status"].item() == Status.FAILED
    assert np.isfinite(one.params["latent"]).all()


def test_a_decoder_without_gradient_encodes_and_is_refused_by_adam(tmp_path: Path) -> None:
    world = pair_world(tmp_path, gradient=False)
    assert not world.context.models["gan"].differentiable
    settings = Inversion(shift_stop=0.05).resolve(world.context)
    assert settings.max_steps == 0
    assert rendered(world, WPerturb(views=2), [0])[0].pixels is not None
    with pytest.raises(ConfigError, match=r"max_steps must be 0, got 5"):
        Inversion(shift_stop=0.05, max_steps=5).resolve(world.context)
    with pytest.raises(ConfigError, match="no gradient by its latents") as caught:
        WSearch(views=2, eps1=0.3, solver="adam").resolve(world.context)
    assert "solver=secant" in str(caught.value.fix)
    assert WSearch(views=2, eps1=0.3).resolve(world.context).solver == "secant"


def test_a_decoder_that_torch_cannot_differentiate_has_no_gradient(tmp_path: Path) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = keyed(SmallDecoder())

        def forward(self, w: Tensor) -> Tensor:
            return self.decoder(w.detach())  # type: ignore[no-any-return]

    for network in (Detached(), NoGradient(keyed(SmallDecoder()))):
        path = export(tmp_path / "d.pt2", network.eval(), (WIDTH,), rows=None)
        assert not read_decoder(path).differentiable


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that name a tiny pair and an encoder of gray images of 16 px."""
    folder = tmp_path_factory.mktemp("files")
    found = write_pair(folder, rows=4)
    decoder = read_decoder(found["gan"])
    made = decoder.synthesis(torch.randn(64, 1, WIDTH)).clamp(-1, 1).add(1).mul(127.5)
    images = made.to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    encoder = small_encoder(images)
    found["encoder"] = folder / "encoder.safetensors"
    save_encoder(found["encoder"], encoder.settings, encoder.network)
    return {f"--{role}": str(path) for role, path in found.items()}


def words(files: dict[str, str], *roles: str) -> list[str]:
    return [word for role in roles for word in (role, files[role])]


def test_the_command_line_builds_all_three_sets(
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With one worker or two the same bytes."""
    monkeypatch.chdir(tmp_path)
    made_with = words(files, "--gan", "--encoder")
    common = ["--source", "digits", "--limit", "4", "--max-missed", "100%", "--out"]
    sets = ["--set", "slots=2", "--set"]
    search = ["build", "--generator", "w-search", "--views", "2", *made_with, *common]
    found = ["--set", "eps1=0.3", "--set", "keep_latents=true", *sets, "max_steps=2"]
    perturb = ["build", "--generator", "w-perturb", "--views", "2", *made_with, *common]
    invert = ["gan", "invert", *made_with, *words(files, "--inverter"), *common]
    ran = run(capsys, *invert, "one", *sets, "max_steps=0", "--workers", "1", "--shard-rows", "2")
    assert ran[0] == 0, ran
    shutil.copytree("one", "two")
    for command in (
        [*search, "one", *found, "--workers", "1"],
        [*search, "two", *found, "--workers", "2"],
        [*perturb, "one", "--workers", "1"],
        ["replay", "one", "0", "1", "--view-set", "w-search", "--out", "a.png", *made_with[:2]],
    ):
        ran = run(capsys, *command)
        assert ran[0] == 0, ran
    one, two = (viewstore.open(tmp_path / name) for name in ("one", "two"))
    plans = {name: each.plan for name, each in one.view_sets.items()}
    assert sorted(plans) == ["recon", "w-perturb", "w-search"]
    stored = plans["recon"].generator["args"]["latents"]
    assert stored["samples"] == 1797  # all digits, whatever the limit
    for name in ("w-search", "w-perturb"):
        assert plans[name].generator["args"]["latents"] == stored
    assert {each.role for each in plans["recon"].weights} == {"gan", "encoder", "inverter"}
    assert two.view_sets["w-search"].plan.id == plans["w-search"].id
    for row in range(4):
        assert np.array_equal(*(each.view_sets["w-search"][row] for each in (one, two)))


def test_commands_of_stylegan2_say_that_they_take_no_module(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = files["--gan"]
    for command in (
        ["gan", "sample", "--gan", decoder, "--n", "2", "--out", str(tmp_path / "a.npy")],
        ["gan", "convert", decoder, "--out", str(tmp_path / "b.safetensors")],
        ["gan", "train", "--part", "inverter", "--gan", decoder, "--out", str(tmp_path / "c")],
    ):
        code, _, err = run(capsys, *command)
        assert code == 2
        assert "is a module of torch.export, not a StyleGAN2 network" in err
    assert not list(tmp_path.iterdir())
