"""Commands about generators: sample one, convert one; the group that `train` is in too."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import CONTEXT, Entry, LazyGroup, apply_common, command, common_options
from viewstore.cli.gan_images import synthesise
from viewstore.cli.options import FILE, NUMBER, POSITIVE, check_file
from viewstore.cli.terminal import Terminal
from viewstore.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from viewstore.generators.stylegan2.network import StyleGAN2


COMMANDS = {
    "train": Entry("viewstore.cli.gan_train:train", "Train a generator, or its inverter."),
    "invert": Entry("viewstore.cli.build:invert", "Find the latents of a source's images."),
    "sample": Entry("viewstore.cli.gan:sample", "Make images of latents."),
    "measure": Entry("viewstore.cli.gan_measure:measure", "Measure how far images are from real."),
    "convert": Entry("viewstore.cli.gan:convert", "Write any StyleGAN2 file as our own."),
}
GRID_SIDE = 64  # pixels of a small image in a grid, about
ARRAYS = ".npy"
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@click.group("gan", cls=LazyGroup, table=COMMANDS, context_settings=CONTEXT)
@common_options
@click.pass_context
def gan(context: click.Context, /, **options: Any) -> None:  # noqa: ANN401
    """Train StyleGAN2 generators, invert images, sample and convert."""
    apply_common(context.ensure_object(Terminal), **options)


def summary_text(facts: dict[str, Any]) -> str:
    """Return a line for each fact."""
    return "\n".join(
        f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in facts.items()
    )


def check_out(out: Path) -> None:
    """Raise ConfigError if `out` cannot name a new file."""
    if out.is_dir():
        raise ConfigError(f"--out must name a file, and {out} is a folder", where=str(out))
    existing = next(folder for folder in out.absolute().parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"--out cannot be written: {existing} is no folder to write to")


def write_pictures(out: Path, images: NDArray[np.float32], *, across: int | None = None) -> None:
    """Write images [N, C, H, W] in [-1, 1] as one picture, a grid; the suffix is a picture's.

    `across` is how many stand beside each other; None makes about a square.
    """
    import numpy as np

    from viewstore.files.disk import make_directory, write_atomic
    from viewstore.inspect.pictures import grid

    levels = np.rint((images + 1) * 127.5).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    made = grid(list(levels.transpose(0, 2, 3, 1)), GRID_SIDE, across=across)
    made.save(buffer, PICTURES[out.suffix.lower()], quality=92)
    make_directory(out.absolute().parent)
    write_atomic(out, buffer.getvalue())


@command("sample", example="viewstore gan sample --gan gan.safetensors --n 16 --out images.png")
@click.option(
    "--gan",
    "gan_file",
    type=FILE,
    metavar="FILE",
    help="Take this generator.  [default: the packaged one, of digits]",
)
@click.option("--n", "count", type=POSITIVE, metavar="N", help="Draw N latents.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="S",
    help="Seed of the draw.  [default: 0]",
)
@click.option("--z", type=FILE, metavar="Z.npy", help="Read inputs of the mapping, [N, z_dim].")
@click.option("--w", type=FILE, metavar="W.npy", help="Read latents, [N, D] or [N, L, D].")
@click.option(
    "--labels",
    type=FILE,
    metavar="C.npy",
    help="Read class numbers [N], or one-hot rows.  [default for --n: each class in turn]",
)
@click.option(
    "--noise",
    type=click.Choice(["const", "none"]),
    default="const",
    show_default=True,
    help="Add the noise that the network keeps, or none.",
)
@click.option(
    "--truncation",
    type=NUMBER,
    default=1.0,
    show_default=True,
    metavar="PSI",
    help="Pull latents towards their average; 1 does not.",
)
@click.option(
    "-o",
    "--out",
    type=FILE,
    required=True,
    metavar="FILE",
    help="Write them to .npy, float32 [N, C, H, W] in [-1, 1]; to a picture, .png or .jpg; or, "
    "without an ending, to a new folder, a --source that keeps their latents.",
)
def sample(
    terminal: Terminal,
    gan_file: Path | None,
    noise: str,
    truncation: float,
    out: Path,
    **latents: Any,  # noqa: ANN401
) -> None:
    """Make images of latents that are drawn, or read from a file, and clamp them to [-1, 1].

    A folder of them is a source for build: the view set recon takes the latents that are kept
    there, so w-search and w-perturb need no inverter. Classes are its labels.
    """
    from viewstore.build.roles import open_generator, packaged_weights
    from viewstore.files.disk import write_atomic

    if sum(latents[name] is not None for name in ("z", "w", "count")) != 1:
        raise ConfigError("give exactly one of --z, --w and --n")
    if latents["seed"] is not None and latents["count"] is None:
        raise ConfigError("--seed belongs to --n")
    if not math.isfinite(truncation):
        raise ConfigError(f"--truncation must be finite, got {truncation}")
    if not out.suffix:
        _check_source(out, noise)
    else:
        check_file("--out", out, (ARRAYS, *PICTURES))
        check_out(out)
    network = open_generator(gan_file or packaged_weights("gan"), terminal).network
    codes, labels = _codes(network, **latents)
    codes = network.w_avg + truncation * (codes - network.w_avg) if truncation != 1 else codes
    if not out.suffix:
        seed = None if latents["count"] is None else latents["seed"] or 0
        facts = _write_source(out, network, codes, labels, truncation, seed, terminal)
        build = f"viewstore build --generator w-search --source {out} --out views"
        text = f"{out}: {facts['images']} images and their latents; {build} makes views of them"
        terminal.result(facts, text)
        return
    images = synthesise(network, codes, noise=noise)
    if out.suffix.lower() in PICTURES:
        write_pictures(out, images)
    else:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, images, allow_pickle=False)
        write_atomic(out, buffer.getvalue())
    form = "in a grid" if out.suffix.lower() in PICTURES else "float32 in [-1, 1]"
    facts = {"file": str(out), "shape": list(images.shape), "fingerprint": network.fingerprint}
    terminal.result(facts, f"{out}: {' x '.join(map(str, images.shape))} {form}")


def _check_source(out: Path, noise: str) -> None:
    """Raise ConfigError if `out` cannot be a new generated source."""
    from viewstore.generators.latent.generated_source import check_new

    if noise != "const":
        raise ConfigError(
            "--noise none gives other images than views of latents have, which keep the noise",
            where="--noise none",
            fix="leave --noise out, or write .npy or .png",
        )
    check_new(out)


def _write_source(
    out: Path,
    network: StyleGAN2,
    codes: Tensor,
    labels: Tensor | None,
    psi: float,
    seed: int | None,
    terminal: Terminal,
) -> dict[str, Any]:
    from viewstore.generators.latent.generated_source import write_source
    from viewstore.progress import tracked

    with tracked(terminal, "images", len(codes), "images"):
        write_source(
            out,
            network,
            codes,
            labels=labels,
            psi=psi,
            seed=seed,
            made=terminal.advance,
        )
    return {
        "source": str(out),
        "images": len(codes),
        "size": network.res,
        "classes": network.c_dim if labels is not None else 0,
        "fingerprint": network.fingerprint,
    }


def _codes(
    network: StyleGAN2,
    *,
    z: Path | None,
    w: Path | None,
    labels: Path | None,
    count: int | None,
    seed: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Return codes [N, L, D], and the class numbers [N] that they were made with, if any."""
    if z is not None:
        return _codes_of_z(network, z, labels)
    if count is None:
        return _codes_of_w(network, w, labels), None
    given = network.classes_in_turn(count) if labels is None else _labels(network, labels, count)
    return network.sample(count, seed or 0, given), given


def _codes_of_z(
    network: StyleGAN2, path: Path, labels: Path | None
) -> tuple[Tensor, Tensor | None]:
    import torch

    z = _floats("--z", path)
    if z.ndim != 2 or z.shape[1] != network.z_dim:
        raise _wrong_shape("--z", path, f"[N, {network.z_dim}]", z)
    if network.c_dim and labels is None:
        raise ConfigError(
            f"this generator is conditional ({network.c_dim} classes): give --labels",
            where="--labels",
        )
    c = None if labels is None else _labels(network, labels, len(z))
    with torch.no_grad():
        codes: Tensor = network.mapping(torch.from_numpy(z), c)
    return codes, c


def _codes_of_w(network: StyleGAN2, path: Path | None, labels: Path | None) -> Tensor:
    import torch

    assert path is not None, "one of --z and --w was given"
    if labels is not None:
        raise ConfigError("--labels belongs to --z and --n: latents need none")
    w = _floats("--w", path)
    wanted = (network.num_codes, network.w_dim)
    if w.ndim == 2 and w.shape[1] == network.w_dim:
        return torch.from_numpy(w)[:, None].repeat(1, network.num_codes, 1)
    if w.shape[1:] != wanted:
        shape = f"[N, {wanted[1]}] or [N, {wanted[0]}, {wanted[1]}]"
        raise _wrong_shape("--w", path, shape, w)
    return torch.from_numpy(w)


def _labels(network: StyleGAN2, path: Path, num: int) -> Tensor:
    import numpy as np
    import torch

    if not network.c_dim:
        raise ConfigError("this generator is not conditional: leave out --labels")
    array = _array("--labels", path)
    numbers = array.ndim == 1 and np.issubdtype(array.dtype, np.integer)
    if numbers and array.shape == (num,):
        if num and not 0 <= array.min() <= array.max() < network.c_dim:
            raise ConfigError(
                f"--labels must be in [0, {network.c_dim}), got {array.min()} to {array.max()}",
                where=str(path),
            )
        return torch.from_numpy(array.astype(np.int64))
    one_hot = array.shape == (num, network.c_dim) and bool(np.isin(array, (0, 1)).all())
    if not one_hot or not (array.sum(1) == 1).all():
        shape = f"class numbers [{num}] or one-hot rows [{num}, {network.c_dim}]"
        raise _wrong_shape("--labels", path, shape, array)
    return torch.from_numpy(array.argmax(1))


def _floats(flag: str, path: Path) -> NDArray[np.float32]:
    import numpy as np

    array = _array(flag, path)
    if array.dtype.kind != "f":
        raise ConfigError(f"{flag} must hold floats, got {array.dtype}", where=str(path))
    with np.errstate(over="ignore"):  # too large is not finite, which is refused next
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ConfigError(f"{flag} must hold finite numbers", where=str(path))
    return floats


def _array(flag: str, path: Path) -> NDArray[Any]:
    """Return the array of a `.npy` file; nothing in it is executed."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ConfigError(
            f"{flag} cannot be read: {error.strerror or error}", where=str(path)
        ) from error
    except (ValueError, EOFError, MemoryError) as error:
        raise ConfigError(
            f"{flag} must be a .npy file of numbers: {error}", where=str(path)
        ) from error
    if not isinstance(found, np.ndarray):
        raise ConfigError(f"{flag} must be one array, a .npy file", where=str(path))
    return found


def _wrong_shape(flag: str, path: Path, wanted: str, found: NDArray[Any]) -> ConfigError:
    return ConfigError(f"{flag} must be {wanted}, got {list(found.shape)}", where=str(path))


@command("convert", example="viewstore gan convert network-snapshot.pkl --out gan.safetensors")
@click.argument("file", type=FILE)
@click.option(
    "-o", "--out", type=FILE, required=True, metavar="FILE", help="Write the network to this file."
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16"]),
    default="f32",
    show_default=True,
    help="Write the weights in this precision.",
)
def convert(terminal: Terminal, file: Path, out: Path, dtype: str) -> None:
    """Read any StyleGAN2 file that we know and write it as our own, then compare images.

    f32 keeps every bit; f16 rounds the weights once, and says how far that moves the images.
    """
    from viewstore.build.roles import open_generator
    from viewstore.generators.gan.file import compared_images, read_generator, write_generator

    opened = open_generator(file, terminal)
    write_generator(out, opened.network, opened.origin, half=dtype == "f16")
    network = read_generator(out).network
    moved = float((compared_images(network) - compared_images(opened.network)).abs().max())
    if dtype == "f32" and moved:
        raise CheckpointError(f"{out} gives other images than {file}", where=str(out))
    facts = {
        "file": str(out),
        "bytes": out.stat().st_size,
        "family": opened.origin.family,
        "resolution": network.res,
        "channels": network.channels,
        "classes": network.c_dim,
        "fingerprint": network.fingerprint,
        "largest_difference": moved,
    }
    terminal.result(facts, summary_text(facts))
