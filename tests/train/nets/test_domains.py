"""Batch norm domains share no statistics and no weights, and leave the clean names alone."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.nets.domains import (
    Domain,
    add_domain,
    clean_state,
    quiet_statistics,
    use_domain,
)
from viewstore.train.nets.network import Network, NetworkSettings, seeded_network


def make() -> Network:
    return seeded_network(NetworkSettings(backbone="conv3", projector=(8, 4)), 0).train()


def images(seed: int, scale: float = 1.0) -> Tensor:
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * scale


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def adversarial(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in snapshot(module).items() if ".adv." in name}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_a_second_domain_starts_as_the_first_and_keeps_its_names() -> None:
    plain, network = make(), make()
    add_domain(network)
    add_domain(network)  # nothing happens twice
    assert equal(clean_state(network), plain.state_dict())
    norms = [name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms == ["projector.1", "projector.4"]
    assert {name for name in network.state_dict() if name.startswith("projector.4.")} == {
        f"projector.4.{prefix}{part}"
        for prefix in ("", "adv.")
        for part in ("running_mean", "running_var", "num_batches_tracked")
    }
    expected = plain(images(0))
    assert torch.equal(network(images(0)), expected)
    with use_domain(network, "adv"):
        assert torch.equal(network(images(0)), expected)


def test_a_training_in_one_domain_leaves_the_other_alone() -> None:
    network = make()
    add_domain(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = snapshot(network)
    with use_domain(network, "adv"):
        network(images(1, 5)).square().sum().backward()
    optimizer.step()
    after = network.state_dict()
    norms = {n.replace(".adv.", ".") for n in before if ".adv." in n}
    assert len(norms) == 4 * 5 + 3
    for name in norms:
        assert torch.equal(after[name], before[name]), name
        head, _, part = name.rpartition(".")
        assert not torch.equal(after[f"{head}.adv.{part}"], before[name]), name

    before = adversarial(network)
    optimizer.zero_grad()
    network(images(2)).square().sum().backward()
    optimizer.step()
    assert equal(adversarial(network), before)
    network.eval()
    with use_domain(network, "adv"):
        other = network(images(3))
    assert not torch.allclose(network(images(3)), other)


def test_a_block_in_a_domain_ends_with_it_even_by_an_error() -> None:
    network = make()
    add_domain(network)
    before = adversarial(network)
    with use_domain(network, "adv"), use_domain(network, "clean"):
        network(images(0))
    assert equal(adversarial(network), before)
    with pytest.raises(RuntimeError, match="channels"), use_domain(network, "adv"):
        network(images(0)[:, :2])
    network(images(0))
    assert equal(adversarial(network), before)


def test_a_domain_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="has no batch norm domain adv"),
        use_domain(make(), "adv"),
    ):
        pass
    wrong: Any = "dirty"
    with (
        pytest.raises(ConfigError, match="must be clean or adv, got 'dirty'"),
        use_domain(make(), wrong),
    ):
        pass


def test_layer_norms_have_one_domain() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = snapshot(module)
    add_domain(module)
    assert equal(module.state_dict(), before)
    with use_domain(module, "adv"):
        assert module(torch.ones(2, 3)).shape == (2, 4)


class Activated(nn.BatchNorm2d):
    """A batch norm of somebody else, with an activation of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu() + 1


def test_norms_of_other_kinds_keep_what_they_do() -> None:
    module: Any = nn.Sequential(Activated(3), nn.BatchNorm3d(2), nn.SyncBatchNorm(4))
    add_domain(module)
    for norm, kind in zip(module, (Activated, nn.BatchNorm3d, nn.SyncBatchNorm), strict=True):
        assert isinstance(norm, kind)
        assert type(norm.adv) is kind
    with torch.no_grad():
        module[0].adv.bias += 3
    x = images(0)
    assert torch.equal(module[0](x), Activated(3)(x))
    with use_domain(module, "adv"):
        torch.testing.assert_close(module[0](x), (nn.BatchNorm2d(3)(x) + 3).relu() + 1)


def test_a_copy_of_a_network_has_its_own_domains() -> None:
    network = make()
    add_domain(network)
    target = copy.deepcopy(network)
    before = snapshot(network)
    with use_domain(target, "adv"):
        target(images(1))
    assert equal(network.state_dict(), before)
    target.load_state_dict(network.state_dict())
    assert equal(target.state_dict(), before)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), domain=st.sampled_from(["clean", "adv"]), training=st.booleans())
def test_quiet_forwards_leave_no_trace(seed: int, domain: Domain, training: bool) -> None:
    module = nn.Sequential(make(), nn.Dropout(0.5)).train(training)
    add_domain(module)
    before, random = snapshot(module), torch.get_rng_state()
    with quiet_statistics(module), use_domain(module, domain):
        quiet = module(images(seed))
    assert equal(snapshot(module), before)
    assert torch.equal(torch.get_rng_state(), random)
    with use_domain(module, domain):
        assert torch.equal(module(images(seed)), quiet)
    assert equal(snapshot(module), before) is not training


def test_quiet_statistics_use_the_batch_in_training_and_the_running_ones_in_evaluation() -> None:
    norm = nn.BatchNorm1d(3)
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 5
    before = snapshot(norm)
    with quiet_statistics(norm):
        quiet = norm(x)
    assert equal(snapshot(norm), before)
    torch.testing.assert_close(quiet, norm(x))
    assert not torch.equal(norm.running_mean, before["running_mean"])
    norm.eval()
    with quiet_statistics(norm):
        torch.testing.assert_close(
            norm(x), (x - norm.running_mean) / (norm.running_var + 1e-5) ** 0.5
        )
