"""viewstore replay: one view from its params, compared with the stored one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import invoke, run
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import CheckpointError, ConfigError
from viewstore.images.policies import Policy
from viewstore.store.store import Store


def test_a_view_is_written_as_it_is_stored(raw_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "new" / "v.png"
    told = json.loads(invoke("replay", raw_store.root, "5", 1, "--out", out, "--json").stdout)
    told = told["result"]
    assert (told["equal"], told["largest_difference"]) == (True, 0)
    assert (told["row"], told["key"]) == (5, raw_store.keys[5])
    assert np.array_equal(np.asarray(Image.open(out)), raw_store.view_sets["simclr"][5][1])


def test_a_replay_that_differs_ends_with_1(
    raw_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a version of viewstore would that renders a policy in another way."""
    monkeypatch.setattr(Policy, "recolour", lambda self, view, params: None)
    code, out, _ = run(capsys, "replay", raw_store.root, 5, 1, "--out", tmp_path / "v.png")
    assert (code, "differs from the stored view by up to" in out) == (1, True)


def test_the_view_set_is_named_where_there_are_several(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "v.png")
    code, _, err = run(capsys, "replay", digits, 0, 0, "--out", out)
    assert (code, "add --view-set simclr" in err) == (2, True)
    assert run(capsys, "replay", digits, 0, 0, "--out", out, "--view-set", "wide")[0] == 0


@pytest.mark.parametrize(
    "command", [["replay", "{store}", 0, 0], ["export", "{store}", "--format", "ffcv"]]
)
def test_the_view_set_that_no_other_starts_from_is_proposed(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[object]
) -> None:
    """W-search made `recon` on its way: nobody who built w-search means that one."""
    words = [str(word).format(store=searched) for word in command]
    code, _, err = run(capsys, *words, "--out", tmp_path / "v.png")
    assert (code, "the store has recon, w-search" in err) == (2, True)
    assert "add --view-set w-search" in err


def test_what_cannot_be_replayed_is_refused(digits: Path, searched: Path, tmp_path: Path) -> None:
    one = ["--out", tmp_path / "v.png", "--view-set"]
    with pytest.raises(ConfigError, match="VIEW must be below 4"):
        invoke("replay", digits, 0, 4, *one, "simclr")
    with pytest.raises(ConfigError, match="--gan has no effect"):
        invoke("replay", digits, 0, 0, *one, "simclr", "--gan", "x")
    with pytest.raises(ConfigError, match="there is no sample with key '900'"):
        invoke("replay", digits, "900", 0, *one, "simclr")
    with pytest.raises(CheckpointError, match="the gan is not the one") as error:
        invoke("replay", searched, 0, 0, *one, "recon")
    assert "--gan" in str(error.value.fix)
    assert not (tmp_path / "v.png").exists()


def test_a_reconstruction_is_replayed_with_its_network(searched: Path, tmp_path: Path) -> None:
    gan = searched.parent / "gan.safetensors"
    for row in range(6):
        result = invoke(
            "replay", searched, row, 0, "--view-set", "recon", "--gan", gan,
            "--out", tmp_path / "v.png", "--json",
        )  # fmt: skip
        assert json.loads(result.stdout)["result"]["equal"]


def test_a_perturbed_view_is_replayed_from_its_rounded_latent(
    searched: Path, tmp_path: Path
) -> None:
    folder = searched.parent
    files = {role: folder / f"{role}.safetensors" for role in ("gan", "encoder")}
    build(
        BuildRequest(
            generator="w-perturb",
            out=tmp_path / "store",
            source=str(folder / "images.npz"),
            settings={"views": 2, "keep_latents": True},
            limit=2,
            files=files,
            workers=1,
        )
    )
    result = invoke(
        "replay", tmp_path / "store", 1, 1, "--view-set", "w-perturb", "--gan", files["gan"],
        "--out", tmp_path / "v.png", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["result"]["largest_difference"] <= 4
