"""Files of scorers: checkpoints of trainings, encoders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.generators.scored.encoders import write_encoder
from tests.train.scoring.made import FRAME, KINDS, images, unit, write_checkpoint
from viewstore.build.roles import load_model
from viewstore.errors import CheckpointError, ConfigError
from viewstore.train.encoder_file import load_encoder
from viewstore.train.scoring.load import load_scorer
from viewstore.train.scoring.scorer import EncoderScorer, MethodScorer


def table_of(scorer: MethodScorer | EncoderScorer) -> torch.Tensor:
    if scorer.needs_bank:
        scorer.remember(images(5, seed=3), torch.arange(5))
    return scorer.pair_losses(images(2, 3), torch.tensor([7, 9]))


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_scores_as_its_method_did(tmp_path: Path, name: str) -> None:
    method = write_checkpoint(tmp_path / "c.safetensors", name)
    found = load_scorer(tmp_path / "c.safetensors")
    assert isinstance(found, MethodScorer)
    at = found._at
    assert (at.step, at.epoch, at.epoch_steps, at.total_steps) == (12, 2, 6, 30)
    expected = MethodScorer(method, at, num_rows=48, input_size=None)
    assert torch.equal(table_of(found).nan_to_num(), table_of(expected).nan_to_num())
    assert (found.step, found.input_size, found.name) == (12, None, method.traits.name)


def test_the_teacher_of_dino_is_as_warm_as_in_its_epoch(tmp_path: Path) -> None:
    for step in (0, 18):
        write_checkpoint(tmp_path / f"{step}.safetensors", "dino", step=step)
    cold, warm = (load_scorer(tmp_path / f"{step}.safetensors") for step in (0, 18))
    assert not torch.allclose(table_of(cold).nan_to_num(), table_of(warm).nan_to_num())  # type: ignore[arg-type]


def test_loading_leaves_random_generators_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", "moco-v2")
    before = torch.get_rng_state()
    load_scorer(tmp_path / "c.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_an_encoder_scores_as_simclr_with_a_bank(tmp_path: Path) -> None:
    pixels = (255 * images(8, seed=4)).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    write_encoder(tmp_path / "encoder.safetensors", pixels)
    scorer = load_model("scorer", tmp_path / "encoder.safetensors")
    assert isinstance(scorer, EncoderScorer)
    encoder = load_encoder(tmp_path / "encoder.safetensors").double()
    views, bank = images(2, 3), images(5, seed=3)
    found = table_of(scorer)
    with torch.no_grad():
        units = [[unit(encoder(view[None].double())[0]) for view in sample] for sample in views]
        others = [unit(encoder(each[None].double())[0]) for each in bank]
        for b in range(2):
            for k in range(3):
                for m in range(3):
                    if k == m:
                        assert found[b, k, m].isnan()
                        continue
                    near = torch.stack([units[b][k] @ each for each in [units[b][m], *others]])
                    expected = float((2 * near).logsumexp(0) - 2 * near[0])
                    assert float(found[b, k, m]) == pytest.approx(expected, rel=1e-4)
    assert (scorer.step, scorer.directed, scorer.crops, scorer.num_rows) == (-1, False, False, None)
    with pytest.raises(ConfigError, match="does not score small crops"):
        scorer.entries_beside(2)
    with pytest.raises(ConfigError, match="does not score small crops"):
        scorer.crop_losses(views, views, torch.arange(2))


def test_a_checkpoint_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", "simclr", frame={})
    with pytest.raises(CheckpointError, match="does not say what it was trained on") as caught:
        load_scorer(tmp_path / "c.safetensors")
    assert "encoder.safetensors" in str(caught.value.fix)


@pytest.mark.parametrize("frame", [{**FRAME, "epoch_steps": 0}, {"rows": 48}, {**FRAME, "more": 1}])
def test_a_frame_that_cannot_be_is_refused(tmp_path: Path, frame: dict[str, int]) -> None:
    write_checkpoint(tmp_path / "c.safetensors", "simclr", frame=frame)
    with pytest.raises(CheckpointError, match="frame of the checkpoint must be"):
        load_scorer(tmp_path / "c.safetensors")


def test_a_backbone_that_is_a_function_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viewstore.train.nets.foreign.import_module", None)
    network = {"backbone": "pathlib:Path.home", "projector": [16, 8]}
    write_checkpoint(tmp_path / "c.safetensors", "simclr", network=network)
    with pytest.raises(CheckpointError, match="its backbone is made by the function") as caught:
        load_scorer(tmp_path / "c.safetensors")
    assert "a file must not choose what code is run" in str(caught.value.why)


def test_barlow_twins_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", "barlow-twins")
    with pytest.raises(ConfigError, match="views cannot be scored by barlow-twins"):
        load_scorer(tmp_path / "c.safetensors")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, "simclr")
    good = path.read_bytes()
    for place in range(40, len(good), len(good) // 12):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CheckpointError):
            load_scorer(path)
    for data in (b"", b"no file of ours", good[: len(good) // 2]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_scorer(path)
    with pytest.raises(ConfigError, match="there is no scorer file"):
        load_model("scorer", tmp_path / "nothing")


def test_weights_that_are_not_of_its_settings_are_refused(tmp_path: Path) -> None:
    network = {"backbone": "conv3", "projector": [16, 12]}
    write_checkpoint(tmp_path / "c.safetensors", "simclr", network=network)
    with pytest.raises(CheckpointError, match="does not fit its own settings"):
        load_scorer(tmp_path / "c.safetensors")
    write_checkpoint(tmp_path / "c.safetensors", "simclr", batch_size="many")
    with pytest.raises(CheckpointError, match="checkpoint cannot score"):
        load_scorer(tmp_path / "c.safetensors")
