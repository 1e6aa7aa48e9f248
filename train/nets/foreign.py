"""Backbones that are not ours: a function of the user's, or a model of timm or of transformers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from viewstore.errors import ConfigError, UnavailableError
from viewstore.plugins import user_function
from viewstore.train.nets.backbone import Backbone

NAME = re.compile(r"[A-Za-z_][\w.]*:[\w.\-]+")
FORM = "module:function, timm:NAME or transformers:NAME"


def is_foreign(name: str) -> bool:
    """Return whether `name` has the form of a backbone that is not ours."""
    return NAME.fullmatch(name) is not None


def runs_code(name: str) -> bool:
    """Return whether making the backbone `name` calls a function that the name chooses."""
    return is_foreign(name) and name.partition(":")[0] not in PACKAGES


class Foreign(Backbone):
    """A module whose output [N, F], or [N, F, h, w] which is averaged, is taken as features."""

    def __init__(self, name: str, net: nn.Module, *, in_channels: int, size: int) -> None:
        """Take `net`, and run it once on a black image of `size` pixels to find its width.

        Raises:
            ConfigError: It cannot be run on that, or its output is something else.
        """
        super().__init__()
        self.num_stages = 0
        self.net = net
        self._name = name
        training = {module: module.training for module in net.modules()}
        image = torch.zeros(1, in_channels, size, size)
        try:
            with torch.no_grad():
                self.width = self.eval()(image).shape[1]
        except ConfigError:
            raise
        except Exception as error:  # the module is the user's: it may raise anything
            raise ConfigError(
                f"backbone {name} cannot be run on images [1, {in_channels}, {size}, {size}]: "
                f"{error}",
                where=name,
            ) from error
        for module, mode in training.items():
            module.training = mode
        self.training = True

    def forward(self, x: Tensor) -> Tensor:
        out = _pooled(self.net(x))
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(
                f"backbone {self._name} must return features [N, F] or [N, F, h, w] of images "
                f"{list(x.shape)}, got {got}",
                where=self._name,
                fix="return the features, without a classifier, from its forward",
            )
        return out


def foreign(name: str, in_channels: int, size: int) -> Foreign:
    """Return the backbone `name`, with weights of its own drawing.

    A function of the user's is called with `in_channels` if it has a parameter of this name, else
    with nothing. Nothing is downloaded: models of packages are made from their configurations.

    Raises:
        UnavailableError: timm or transformers is not installed.
        ConfigError: There is no such function or model, or it makes something else.
    """
    make = PACKAGES.get(name.partition(":")[0], _of_user)
    net = make(name, in_channels, size)
    if not isinstance(net, nn.Module):
        raise ConfigError(
            f"backbone {name} must make a torch.nn.Module, got {type(net).__name__}", where=name
        )
    return Foreign(name, net, in_channels=in_channels, size=size)


def _of_user(name: str, in_channels: int, size: int) -> object:
    make = user_function(name, "backbone", form=FORM)
    named = "in_channels" in inspect.signature(make).parameters
    try:
        return make(in_channels=in_channels) if named else make()
    except Exception as error:  # the function is the user's: it may raise anything
        raise ConfigError(f"backbone {name} cannot be made: {error}", where=name) from error


def _of_timm(name: str, in_channels: int, size: int) -> object:
    timm = _package("timm")
    model = name.partition(":")[2]
    if not timm.is_model(model):
        raise ConfigError(f"timm has no model {model}", code="VS102", where=name)
    settings = {"pretrained": False, "num_classes": 0, "in_chans": in_channels}
    try:
        return timm.create_model(model, img_size=size, **settings)
    except TypeError:  # convolutional models have no image size
        return timm.create_model(model, **settings)


def _of_transformers(name: str, in_channels: int, size: int) -> object:
    transformers = _package("transformers")
    model = name.partition(":")[2]
    try:
        config = transformers.AutoConfig.for_model(model, num_channels=in_channels, image_size=size)
        return transformers.AutoModel.from_config(config)
    except ValueError as error:
        raise ConfigError(
            f"transformers has no model of type {model}: {error}", code="VS102", where=name
        ) from error


def _package(name: str) -> Any:  # noqa: ANN401
    try:
        return import_module(name)
    except ImportError as error:
        raise UnavailableError(
            f"a backbone {name}:NAME needs the package {name}",
            why=str(error),
            fix=f"pip install {name}",
        ) from error


def _pooled(out: object) -> object:
    """Return features [N, F] of an output, as far as it is one that has them."""
    if isinstance(out, Mapping):  # what models of transformers return
        pooled = out.get("pooler_output")
        out = out.get("last_hidden_state") if pooled is None else pooled
        if isinstance(out, Tensor) and out.ndim == 3:  # tokens [N, T, F]
            return out.mean(1)
    if isinstance(out, Tensor) and out.ndim == 4:
        return out.mean((2, 3))
    return out


PACKAGES: Mapping[str, Callable[[str, int, int], object]] = {
    "timm": _of_timm,
    "transformers": _of_transformers,
}
