"""The network that makes views while a method trains, and its steps up the method's loss.

Source: of the game, arXiv:2010.07432, section 3. Both play on the same views of the same step: the
method takes them without a gradient, the network as the method still was before its own step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.distributed import all_reduce_mean
from viewstore.train.loop.checkpoint import Trained
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.optim import OptimSettings
from viewstore.train.methods.base import Group, Method
from viewstore.train.strategies.base import Made, Maker, Slot, Strategy
from viewstore.train.views import Views


class Adversary:
    """A maker's network with its optimizer.

    Attributes:
        maker: What it is of.
        trained: The network and its optimizer, for checkpoints.
        facts: Scalars about the newest step, for the log of the run.
    """

    def __init__(
        self, maker: Maker, config: PretrainConfig, slots: tuple[Slot, ...], device: torch.device
    ) -> None:
        """Draw the network by the run's seed, for a loader of these slots.

        Raises:
            ConfigError: The run is in float16, or the slots do not fit.
        """
        if config.precision == "fp16":
            raise ConfigError(
                f"strategy {maker.NAME} does not train in fp16",
                where="--precision fp16",
                why="gradients of its network would underflow, whose loss is not scaled",
                fix="give --precision bf16, or leave it out",
            )
        self.maker, self._config = maker, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = maker.network(slots, config.network.in_channels)
        network = network.to(device).train()
        self._parameters = list(network.parameters())
        self._optim = config.optim if maker.optim is None else OptimSettings(**maker.optim)
        self.trained = Trained(network, self._optim.make(_groups(self._parameters)))
        self.facts: Mapping[str, Tensor] = {}

    def play(self, views: Views, method: Method, strategy: Strategy) -> Views:
        """Return the views and those that are made, without gradients; then take a step.

        The step raises the loss that `method` has of the plan of `strategy`. Of the method nothing
        changes: no parameter, gradient, buffer or statistic.
        """
        parts = views.parts(self._config.optim.accumulate)
        losses, made = [], []
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        for part in parts:
            one = self.maker.make(part, self.trained.model)
            plan = strategy.plan(method.annotate(one.views), method)
            loss = method(plan, "attack").loss
            gradients = torch.autograd.grad(
                (one.penalty - loss) / len(parts),
                self._parameters,
                allow_unused=True,
                materialize_grads=True,
            )
            total = [sum_ + each for sum_, each in zip(total, gradients, strict=True)]
            losses.append(loss.detach())
            made.append(one)
        self._step(total, views)
        self.facts = {
            "adversary_loss": all_reduce_mean(torch.stack(losses).mean()),
            **made[0].facts,
        }
        return _joined(views, made)

    def _step(self, gradients: list[Tensor], views: Views) -> None:
        """Take the optimizer's step along gradients of one process, [...] of each parameter."""
        optimizer, at = self.trained.optimizer, views.at
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = all_reduce_mean(gradient)
        if self.maker.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.maker.clip)
        self._optim.apply(
            optimizer,
            at.step,
            total_steps=at.total_steps,
            epoch_steps=at.epoch_steps,
            batch_size=self._config.batch_size,
        )
        optimizer.step()
        optimizer.zero_grad()


def _groups(parameters: list[torch.nn.Parameter]) -> list[Group]:
    """Return weights, then biases and norms, as methods group theirs."""
    return [
        Group([each for each in parameters if each.ndim > 1], True, False, True),
        Group([each for each in parameters if each.ndim <= 1], False, False, False),
    ]


def _joined(views: Views, made: list[Made]) -> Views:
    """Return the views with what was made of their parts, as constants."""
    first = made[0].views
    for number in range(views.num_views, first.num_views):
        parts = [each.views for each in made]
        names = first.params[number]
        views, _ = views.plus(
            torch.cat([part.pixels[number].detach() for part in parts]),
            role=first.role[number],
            parent=first.parent[number],
            params={
                name: torch.cat([torch.as_tensor(p.params[number][name]) for p in parts])
                for name in names
            },
        )
    return replace(views, base=tuple(range(views.num_views)))
