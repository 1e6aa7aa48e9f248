"""The file of a frozen network that makes views: what generators of learned views read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import check_weights, read_with_config, write_with_config
from viewstore.train.nets.spatial_transformer import SpatialTransformer, TransformerShape
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape
from viewstore.train.values import typed_settings

PROVENANCE = "provenance"
Kind = tuple[type[Any], Callable[[Any], nn.Module]]  # the settings of a network, and what makes it
KINDS: Mapping[str, Kind] = {
    ViewMaker.KIND: (ViewMakerShape, ViewMaker),
    SpatialTransformer.KIND: (TransformerShape, SpatialTransformer),
}


def file_of(kind: str) -> str:
    """Return the name of the file of a network of this kind in the folder of a run."""
    return f"{kind}.safetensors"


def save_maker(path: Path, kind: str, network: Any, provenance: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Replace the file `path` by a network of KINDS, atomically.

    Raises:
        ConfigError: A weight is not finite.
    """
    tensors = {name: value.float() for name, value in _weights(network).items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ConfigError(f"weight {name} of {kind} must be finite", where=str(path))
    config = {**asdict(network.shape), PROVENANCE: dict(provenance)}
    write_with_config(path, kind, tensors, config)


def load_maker(path: Path, kind: str) -> nn.Module:
    """Return the network in the file at `path`, frozen, in evaluation mode, float32.

    Raises:
        CheckpointError: It is no file of a network of this kind, or its settings and weights do
            not agree.
    """
    file = read_with_config(path, kind)
    shape, make = KINDS[kind]
    try:
        settings = _settings(shape, file.config)
        # At first without memory: a file may name sizes that no machine holds.
        with torch.device("meta"):
            expected = _weights(make(settings))
        check_weights(expected, file.tensors)
    except ConfigError as error:
        raise CheckpointError(
            f"{kind} file is damaged: {error}",
            where=str(path),
            fix=f"train it again with viewstore train --strategy {kind}, or copy it again",
        ) from error
    network = make(settings)
    network.load_state_dict(file.tensors, strict=False)
    return network.requires_grad_(False).eval()


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a frozen network computes with: its state without counters of batches."""
    state = network.state_dict()
    return {name: value for name, value in state.items() if value.is_floating_point()}


def _settings(shape: type[Any], config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the settings in the JSON object of a file. Raises ConfigError: another key or type."""
    names = {item.name for item in fields(shape)}
    if differing := sorted((names | {PROVENANCE}) ^ set(config)):
        raise ConfigError(
            f"settings must have the keys {sorted(names)}, they differ in {differing[0]}"
        )
    if not isinstance(config[PROVENANCE], dict):
        raise ConfigError(f"setting {PROVENANCE} must be an object, got {config[PROVENANCE]!r}")
    given = {name: config[name] for name in names}
    return shape(**typed_settings("settings.", shape, given))
