"""Encoders that a function of the user's makes, named "module:function" on the command line.

Only whoever builds names such a function: a plan records which it was, and what it made, and never
calls it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.format.plan import MAX_SIDE
from viewstore.generators.checkpoints.exported import Exported
from viewstore.plugins import user_function


class Made(Exported):
    """The network that a function of the user's made, frozen.

    Attributes:
        digest: sha256, in hex, of the name of the function, the version of its package, and the
            names, shapes and bytes of the network's weights and buffers, persistent or not.
        num_bytes: Of these weights and buffers.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        """Freeze `network`. Raises ConfigError: its attribute `input_size` is no size."""
        super().__init__(
            network.float().eval(), input_size=_input_size(name, network), input_views=None
        )
        self.name = name
        state = dict([*network.named_parameters(), *network.named_buffers()])
        self.digest = _digest(name, state)
        self.num_bytes = sum(each.numel() * each.element_size() for each in state.values())

    def unfit(self, what: str) -> ConfigError:
        """Return the error for a network that does something else than it must."""
        return ConfigError(
            f"encoder {self.name} cannot be used: {what}",
            where=f"--encoder {self.name}",
            why="its network must take float32 images [N, 3, H, W] in [0, 1], and return "
            "features [N, D]",
        )


def made_encoder(name: str) -> Made:
    """Return the encoder that the function "module:function" makes, called with nothing.

    What it draws of torch's random numbers is the same each time.

    Raises:
        ConfigError: There is no such function, it fails, or it makes no module.
    """
    make = user_function(name, "encoder", form="module:function")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = make()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise ConfigError(
            f"encoder {name} cannot be made: {error}", where=f"--encoder {name}"
        ) from error
    if isinstance(network, nn.Module) and any(each.is_meta for each in _tensors(network)):
        raise ConfigError(
            f"encoder {name} has weights without values, on the device meta",
            where=f"--encoder {name}",
        )
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"encoder {name} must be a torch.nn.Module, got {type(network).__name__}",
            where=f"--encoder {name}",
        )
    return Made(name, network)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _input_size(name: str, network: nn.Module) -> tuple[int, int] | None:
    """Return what `network.input_size` says, a side or height and width; None: any size."""
    size = getattr(network, "input_size", None)
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    fits = all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)
    if len(sides) != 2 or not fits:
        raise ConfigError(
            f"encoder {name} must have an input_size in pixels, got {size!r}",
            where=f"--encoder {name}",
        )
    return sides


def _digest(name: str, state: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(f"{name} {_version(name)}\n".encode())
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        found.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _version(name: str) -> str:
    """Return the version of the package that a function is of, "" for a module of none."""
    package = name.partition(":")[0].partition(".")[0]
    names = importlib.metadata.packages_distributions().get(package, [])
    return importlib.metadata.version(names[0]) if names else ""
