"""Checkpoints of a training run: everything that the next step depends on, in one file.

Written atomically, so that a crash leaves the last whole one; a run resumed from it gives the
weights, bit for bit, of a run that never stopped (same machine, same number of threads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.files.disk import unlink
from viewstore.files.tensors import DTYPES, read_with_config, write_with_config
from viewstore.format.records import check_form, differences

KIND = "checkpoint"
NAME = "checkpoint.safetensors"
FORM: Mapping[str, Any] = {
    "settings": dict,
    "step": int,
    "loader": dict | None,
    "history": [int | float],
    "partial": [int | float],
}
KEYS = tuple(FORM)


@dataclass
class TrainState:
    """The progress of a run, beside its weights.

    Attributes:
        step: Number of steps done.
        loader: The loader's state after the last of them; None before the first.
        history: Mean loss of each finished epoch.
        partial: Losses of the steps of the current epoch.
    """

    step: int = 0
    loader: dict[str, Any] | None = None
    history: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    state: TrainState,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the file `path` by the state of a run and torch's random generators, atomically.

    Raises:
        ConfigError: The model has a tensor of a type that files of ours do not hold.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
    tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            held = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ConfigError(
                f"tensor {name} is {value.dtype}, which a checkpoint cannot hold",
                why=f"checkpoints hold {held}",
                fix="keep it as one of these",
            )
    config = {
        "settings": settings,
        "step": state.step,
        "loader": state.loader,
        "history": state.history,
        "partial": state.partial,
    }
    write_with_config(path, KIND, tensors, config)


def try_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint beside `path` and remove it: what cannot be kept ends a run at its start.

    Raises:
        ConfigError: As `save_checkpoint`.
        OSError: The folder cannot be written.
    """
    trial = path.with_name(f"{path.name}.trial")
    save_checkpoint(trial, TrainState(), {}, model, optimizer)
    unlink(trial)


def load_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> TrainState:
    """Restore model, optimizer and random generators from `path`; return the state of the run.

    Raises:
        ConfigError: The run in the file has other settings; nothing was changed.
        CheckpointError: The file is damaged, or not a checkpoint.
    """
    file = read_with_config(path, KIND)
    if differing := sorted(set(KEYS) ^ set(file.config)):
        raise CheckpointError(
            f"checkpoint must have the keys {KEYS}, they differ in {differing[0]}"
        )
    try:
        check_form(file.config, FORM, KIND)
    except FormatError as error:
        raise CheckpointError(str(error), where=str(path), fix="copy it again") from error
    check_settings(file.config["settings"], settings, path)
    try:
        model.load_state_dict(_part(file.tensors, "model."))
        optimizer.load_state_dict(
            {
                "state": _optimizer_state(_part(file.tensors, "optimizer.")),
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
        torch.set_rng_state(file.tensors["random.torch"])
        if torch.cuda.is_available() and "random.cuda" in file.tensors:
            torch.cuda.set_rng_state(file.tensors["random.cuda"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint does not fit its own settings: {error}",
            where=str(path),
            fix="train into another --out, or remove this file to begin again",
        ) from error
    return TrainState(**{key: file.config[key] for key in KEYS if key != "settings"})


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if two runs differ in settings; it names each one with both values."""
    if changes := list(differences(before, now)):
        raise ConfigError(
            "the run in this folder had other settings",
            code="VS103",
            where=str(path),
            why="; ".join(f"{key} was {old!r}, is {new!r}" for key, old, new in changes),
            fix="train into another --out, or give the settings of before to go on",
        )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return state
