"""The file of a run that goes on."""

import hashlib
from pathlib import Path

import pytest
import torch

from tests.train.groups import one_group
from viewstore.train.loop.checkpoint import TrainState, save_checkpoint
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.nets.network import NetworkSettings, seeded_network


@pytest.mark.skipif(torch.cuda.is_available(), reason="the state of a GPU is in the file too")
def test_bytes_of_a_checkpoint_are_frozen(tmp_path: Path) -> None:
    """A run is resumed from the files of an earlier version."""
    settings = NetworkSettings(backbone="conv3", in_channels=1, projector=(128, 64))
    network = seeded_network(settings, 0)
    optimizer = OptimSettings(name="adam", weight_decay=0).make(one_group(network))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with torch.no_grad():
        for number, value in enumerate(network.state_dict().values()):
            value.fill_(number / 4)
    state = TrainState(step=3, loader={"epoch": 1}, history=[1.5], partial=[0.25])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_checkpoint(
            tmp_path / "c", state, {"seed": 1, "views": ("simclr", "simclr")}, network, optimizer
        )
    digest = hashlib.sha256((tmp_path / "c").read_bytes()).hexdigest()
    assert digest == "3742f068291082742f8ab9f295f14c9484cc232987953d6af8ad2f57a1ef5465"
