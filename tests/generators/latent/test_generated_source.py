"""Generated sources: images with the latents that made them, and never with others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generators.latent_world import small_gan
from viewstore.build.known_latents import known_latents
from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import read_with_config, write_with_config
from viewstore.generators.latent.decode import to_pixels
from viewstore.generators.latent.generated_source import (
    KIND,
    LATENTS_FILE,
    checks_of,
    class_folders,
    read_latents,
    write_source,
)
from viewstore.generators.stylegan2.network import StyleGAN2
from viewstore.sources.open import open_source
from viewstore.sources.reader import SourceReader

COUNT = 5


def made(
    folder: Path, network: StyleGAN2, codes: Tensor | None = None, labels: Tensor | None = None
) -> Path:
    if codes is None:
        codes = network.sample(COUNT, 7, labels)
    write_source(folder, network, codes, labels=labels, psi=1.0, seed=7)
    return folder


def test_images_are_those_of_the_latents_as_they_are_stored(tmp_path: Path) -> None:
    network = small_gan(channels=3)
    table = open_source(str(made(tmp_path / "src", network))).table
    latents = known_latents(table)
    assert latents is not None
    assert (latents.generator, latents.psi, latents.seed) == (network.fingerprint, 1.0, 7)
    assert latents.codes.shape == (COUNT, 1, 8)  # all layers have the same code
    torch.testing.assert_close(
        latents.codes[:, 0].float(), network.sample(COUNT, 7)[:, 0], rtol=1e-3, atol=1e-4
    )
    for row in range(COUNT):
        image = to_pixels(network.synthesis(latents.codes[row : row + 1].float().expand(1, 6, 8)))
        assert np.array_equal(SourceReader(table).image(row), image[0])


def test_an_image_depends_on_its_own_latents_alone(tmp_path: Path) -> None:
    network = small_gan()
    codes = network.sample(COUNT, 7)
    first = made(tmp_path / "a", network, codes)
    again = made(tmp_path / "b", network, codes[[3, 1]])
    for number, other in enumerate((3, 1)):
        image = (again / f"{number:06d}.png").read_bytes()
        assert image == (first / f"{other:06d}.png").read_bytes()
    third = made(tmp_path / "c", network, codes)
    files = sorted(path.name for path in first.iterdir())
    assert files == [*(f"{row:06d}.png" for row in range(COUNT)), LATENTS_FILE]
    assert [(first / name).read_bytes() for name in files] == [
        (third / name).read_bytes() for name in files
    ]


def test_codes_of_each_layer_are_kept(tmp_path: Path) -> None:
    network = small_gan()
    codes = network.sample(COUNT, 7) + torch.arange(6.0)[:, None] / 10
    table = open_source(str(made(tmp_path / "src", network, codes))).table
    latents = known_latents(table)
    assert latents is not None
    torch.testing.assert_close(latents.codes, codes.half())


def test_classes_are_the_labels_of_the_source_whichever_were_drawn(tmp_path: Path) -> None:
    """Of 12 classes "10" would come before "2", and classes without an image would move others."""
    network = small_gan(classes=12)
    labels = torch.tensor([11, 2, 10, 2, 0])
    table = open_source(str(made(tmp_path / "src", network, labels=labels))).table
    assert table.label.tolist() == [0, 2, 2, 10, 11]
    assert list(table.label_names) == class_folders(12)
    assert table.keys[1:3] == ("02/000001.png", "02/000003.png")
    latents = known_latents(table)
    assert latents is not None
    assert latents.labels.tolist() == [0, 2, 2, 10, 11]
    wanted = network.sample(COUNT, 7, labels)[[4, 1, 3, 2, 0], :1].half()
    assert torch.equal(latents.codes, wanted)


def test_rows_are_found_by_their_keys(tmp_path: Path) -> None:
    folder = made(tmp_path / "src", small_gan())
    (folder / "000001.png").unlink()
    table = open_source(str(folder), limit=3).table
    latents = known_latents(table)
    assert latents is not None
    assert torch.equal(latents.codes, read_latents(folder / LATENTS_FILE).codes[[0, 2, 3]])


def test_other_sources_have_no_latents(tmp_path: Path) -> None:
    folder = made(tmp_path / "src", small_gan())
    (folder / LATENTS_FILE).unlink()
    assert known_latents(open_source(str(folder)).table) is None
    assert known_latents(open_source("digits", limit=3).table) is None


def test_images_that_were_changed_swapped_or_added_are_noticed(tmp_path: Path) -> None:
    folder = made(tmp_path / "src", small_gan())
    first, second = (folder / f"{row:06d}.png" for row in (1, 3))
    before = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConfigError, match=r"image 000001.png is not the one that its latents made"):
        known_latents(open_source(str(folder)).table)
    first.write_bytes(before)
    (folder / "photo.png").write_bytes(before)
    with pytest.raises(ConfigError, match=r"image photo.png is none of those that its") as caught:
        known_latents(open_source(str(folder)).table)
    assert "--set known_latents=false" in str(caught.value.fix)
    assert caught.value.where == str(folder / LATENTS_FILE)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "few labels": ({"labels": torch.zeros(4, dtype=torch.int64)}, r"labels must be \[5\], got"),
    "few codes": ({"codes": torch.zeros(4, 1, 8).half()}, r"codes must be \[5, L, D\], got"),
    "flat codes": ({"codes": torch.zeros(5, 8).half()}, r"codes must be \[5, L, D\], got"),
    "no layer": ({"codes": torch.zeros(5, 0, 8).half()}, r"codes must be \[5, L, D\], got"),
    "floats": ({"codes": torch.zeros(5, 1, 8)}, "there must be codes, labels, crc32, checks"),
    "not finite": ({"codes": torch.full((5, 1, 8), torch.inf).half()}, "codes must be finite"),
    "no crc": ({"crc32": None}, "there must be codes, labels, crc32, checks, got checks, codes"),
    "codes of other images": ({"checks": torch.zeros(5, dtype=torch.int64)}, "are not those that"),
    "one key twice": ({"keys": ["a.png"] * 5}, "a key stands twice"),
    "keys of another type": ({"keys": [1, 2, 3, 4, 5]}, "latents.keys must be str, got int"),
    "a key too few": ({"keys": ["a.png"]}, r"codes must be \[1, L, D\]"),
    "a seed that is text": ({"seed": "0"}, "latents.seed must be"),
    "more": ({"extra": 1}, "latents must have other keys, see extra"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_of_latents_that_does_not_fit_together_is_refused(tmp_path: Path, name: str) -> None:
    changes, reason = CHANGES[name]
    whole = read_latents(made(tmp_path / "src", small_gan()) / LATENTS_FILE)
    tensors: dict[str, Any] = {n: getattr(whole, n) for n in ("codes", "labels", "crc32")}
    tensors["checks"] = checks_of(whole.codes, whole.crc32)
    config: dict[str, Any] = {"generator": whole.generator, "psi": 1.0, "seed": 7}
    config["keys"] = list(whole.keys)
    for key, value in changes.items():
        (tensors if key in tensors else config)[key] = value
    present = {key: value for key, value in tensors.items() if value is not None}
    write_with_config(tmp_path / "other", KIND, present, config)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_latents(tmp_path / "other")
    assert caught.value.where == str(tmp_path / "other")


def test_latents_in_another_order_than_their_images_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "src", small_gan()) / LATENTS_FILE
    file = read_with_config(path, KIND)
    file.tensors["codes"] = file.tensors["codes"].flip(0).contiguous()
    write_with_config(path, KIND, file.tensors, file.config)
    with pytest.raises(CheckpointError, match=r"the codes of image 000000\.png are not those that"):
        read_latents(path)


def test_a_cut_file_of_latents_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "src", small_gan()) / LATENTS_FILE
    data = path.read_bytes()
    for length in (0, 9, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_latents(path)


def test_a_source_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    network = small_gan()
    folder = made(tmp_path / "src", network)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="is there already, and stores may have been made of it"):
        made(folder, network, network.sample(2, 1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        made(tmp_path / "file", network)
    (tmp_path / "empty").mkdir()
    assert known_latents(open_source(str(made(tmp_path / "empty", network))).table) is not None


def test_a_run_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    network = small_gan()
    seen = []

    def interrupt() -> None:
        seen.append(len(list(tmp_path.rglob("*.png"))))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_source(
            tmp_path / "src",
            network,
            network.sample(COUNT, 7),
            labels=None,
            psi=1.0,
            seed=7,
            made=interrupt,
        )
    assert seen == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_codes_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    network = small_gan()
    with pytest.raises(ConfigError, match="finite as float16, some are too large"):
        made(tmp_path / "src", network, network.sample(COUNT, 7) + 1e6)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_latents_keep_what_is_said_of_them(tmp_path: Path) -> None:
    whole = read_latents(made(tmp_path / "src", small_gan()) / LATENTS_FILE)
    some = whole.of_rows(whole.keys[2:4], whole.crc32[2:4].numpy().astype(np.uint32))
    assert replace(some, keys=(), codes=whole.codes).seed == whole.seed
    assert (some.digest, list(some.keys)) == (whole.digest, list(whole.keys[2:4]))
