"""Encoders of functions: named on the command line alone, frozen, and known by their digest."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import viewstore
from tests.viewstore.commands import invoke
from viewstore.build.roles import function_named, load_model, weights_of
from viewstore.errors import CheckpointError, ConfigError
from viewstore.generators.checkpoints.function import made_encoder
from viewstore.generators.conformance.encoders import encoder_checks
from viewstore.generators.latent.checks import check_encoder

NAME = "encoders_of_mine:{}"


class Fields(nn.Module):
    """Mean colours of 4 x 4 fields, through a layer of random weights and a dropout."""

    def __init__(self, input_size: Any = None) -> None:  # noqa: ANN401
        super().__init__()
        self.input_size = input_size
        self.last = nn.Linear(48, 24)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(24)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape))
        pooled = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        found: Tensor = self.norm(self.drop(self.last(pooled)))
        return found


class Cut(Fields):
    """The same without a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Counting(Fields):
    """One that counts what it saw, and says so."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + len(self.sizes)


class Flat(Fields):
    """One that forgets the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten()


class Hidden(Fields):
    """One with a buffer that its state does not have."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor), persistent=False)


def fails() -> nn.Module:
    raise OSError("no weights here")


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's."""
    mine = ModuleType("encoders_of_mine")
    vars(mine).update(
        fields=Fields,
        small=lambda: Fields(12),
        oblong=lambda: Fields((8, 12)),
        wrong=lambda: Fields("big"),
        cut=Cut,
        counting=Counting,
        flat=Flat,
        fails=fails,
        leaves=lambda: sys.exit(0),
        hidden=lambda: Hidden(1.0),
        moved=lambda: Hidden(2.0),
        nowhere=lambda: Fields().to("meta"),
        endless=lambda: Fields(10**9),
        half=lambda: Fields(1.5),
        number=lambda: 3,
        constant=3,
    )
    monkeypatch.setitem(sys.modules, "encoders_of_mine", mine)


def named(function: str) -> str:
    return NAME.format(function)


def test_buffers_that_are_not_kept_are_part_of_what_it_is() -> None:
    digests = [made_encoder(named(name)).digest for name in ("hidden", "hidden", "moved")]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("leaves", "cannot be made: 0"),
        ("nowhere", "on the device meta"),
        ("endless", "input_size in pixels, got 1000000000"),
        ("half", "input_size in pixels, got 1.5"),
    ],
)
def test_functions_that_make_no_encoder_are_told_of(function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made_encoder(named(function))


@pytest.mark.parametrize("text", ["def broken(:", "undefined", "import sys; sys.exit(3)"])
def test_modules_that_cannot_be_imported_are_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "module_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="there is no encoder module_of_mine:make"):
        made_encoder("module_of_mine:make")


def test_it_is_frozen_and_alike_each_time_whatever_is_drawn_meanwhile() -> None:
    first = made_encoder(named("fields"))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    second = made_encoder(named("fields"))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.digest == second.digest != made_encoder(named("small")).digest
    assert (
        first.num_bytes == sum(4 * each.numel() for each in first.network.state_dict().values()) + 4
    )
    assert not any(module.training for module in first.network.modules())
    assert not any(each.requires_grad for each in first.parameters())


def test_features_are_unit_vectors_of_images_at_its_size() -> None:
    images = torch.rand(5, 3, 20, 20)
    for function, size in (("fields", (20, 20)), ("small", (12, 12)), ("oblong", (8, 12))):
        encoder = made_encoder(named(function))
        features = encoder(images)
        assert features.shape == (5, 24)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
        assert encoder.network.sizes[-1] == (5, 3, *size)
        torch.testing.assert_close(
            encoder(images[:, :1]), encoder(images[:, :1].expand(-1, 3, -1, -1))
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (named("nothing"), "there is no encoder encoders_of_mine:nothing"),
        ("no_such_module_here:make", "there is no encoder no_such_module_here:make"),
        (named("fails"), "cannot be made: no weights here"),
        (named("number"), "must be a torch.nn.Module, got int"),
        (named("constant"), "there is no encoder"),
        (named("wrong"), "must have an input_size in pixels, got 'big'"),
    ],
)
def test_what_makes_no_encoder_is_refused_by_its_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made_encoder(name)
    assert said in str(caught.value)


def test_a_network_that_returns_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"its feature must be floats \[4, D\]"):
        made_encoder(named("flat"))(torch.rand(4, 3, 8, 8))


def test_what_has_no_gradient_measures_no_latent_views() -> None:
    class Gan:
        res, channels = 16, 3

    check_encoder(Gan(), made_encoder(named("fields")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no gradient with respect to the image"):
        check_encoder(Gan(), made_encoder(named("cut")))  # type: ignore[arg-type]


def test_the_suite_of_encoders_finds_what_is_wrong() -> None:
    def found(function: str) -> dict[str, str | None]:
        digest = made_encoder(named("fields")).digest
        checks = encoder_checks(named(function), lambda: [digest])
        return {check.name: check.run() for check in checks}

    assert set(found("fields").values()) == {None}
    wrong = found("cut")
    assert wrong["features follow the image"] is not None
    assert wrong["another process makes the same"] is not None  # of another name
    assert "off by" in (found("counting")["an image's features do not depend on others"] or "")


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(named("fields"))
    assert function_named("encoder", path) == str(path)
    assert function_named("gan", path) is None
    path.write_bytes(b"no encoder")
    assert function_named("encoder", path) is None
    with pytest.raises(CheckpointError):
        load_model("encoder", path)


def test_a_plan_records_it_and_never_calls_it(tmp_path: Path) -> None:
    out, encoder = str(tmp_path / "views"), ("--encoder", named("fields"))
    invoke("build", "--generator", "digits", "--limit", "6", "-j", "1", "--out", out)
    embed = ("build", "--generator", "embed", "--of", "digits", "--view-set", "mine", "-j", "1")
    invoke(*embed, *encoder, "--out", out)
    views = viewstore.open(out).view_sets
    (weights,) = views["mine"].plan.weights
    assert weights == weights_of(["encoder"], {"encoder": Path(named("fields"))})[0]
    assert weights.name == named("fields")
    seen = torch.from_numpy(np.stack([views["digits"][row] for row in range(6)]))
    images = seen.flatten(0, 1).permute(0, 3, 1, 2) / 255
    expected = made_encoder(named("fields"))(images).reshape(6, 2, -1)
    found = torch.from_numpy(views["mine"].params["feature"].copy()).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    for file in (tmp_path / "views" / "views" / "mine").glob("*.params"):
        file.unlink()
    with pytest.raises(CheckpointError) as caught:
        invoke("verify", out, "--repair", "-j", "1")
    assert caught.value.fix == f"give that of the first build: --encoder {named('fields')}"
    assert "is whole" in invoke("verify", out, "--repair", "-j", "1", *encoder).output
