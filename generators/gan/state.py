"""The state of a training in a file: all that its next step depends on, and which run it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import as_stored, read_json, read_tensors, write_tensors
from viewstore.generators.gan.settings import GanSettings

KIND = "viewstore_gan_training"
LENGTH = frozenset({"kimg", "snapshot_kimg"})  # a training may be gone on with for longer
FIX = "give what it was begun with, or another --state file, or delete this one to begin anew"


@dataclass(frozen=True, kw_only=True)
class Data:
    """What identifies the images of a training: how many of what form, and a digest."""

    form: str
    sha256: str

    @classmethod
    def of(cls, images: Tensor, labels: Tensor | None) -> Data:
        """Return that of `images` [N, C, H, W] with the labels that are trained with, or None."""
        digest = hashlib.sha256(images.cpu().contiguous().numpy().data)
        if labels is not None:
            digest.update(labels.cpu().contiguous().numpy().data)
        count, *size = images.shape
        form = f"{count} images of {' x '.join(map(str, size))}, {images.dtype}"
        return cls(form=form, sha256=digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The networks and the optimisers of a training by name."""

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Adam]


def write_state(
    path: Path,
    parts: Parts,
    settings: GanSettings,
    data: Data,
    *,
    step: int,
    controller: Mapping[str, float],
) -> None:
    """Write a state that `read_state` reads. A crash leaves the old file or the new one."""
    tensors: dict[str, Tensor] = {}
    for name, network in parts.networks.items():
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name, adam in parts.optimisers.items():
        for number, state in adam.state_dict()["state"].items():
            tensors |= {f"{name}/{number}/{key}": value for key, value in state.items()}
    about = {KIND: "1", "step": str(step)}
    for key, value in (("settings", asdict(settings)), ("data", asdict(data))):
        about[key] = json.dumps(value, sort_keys=True)
    about["augmentation"] = json.dumps(dict(controller), sort_keys=True)
    write_tensors(path, as_stored(tensors, half=False), about)


def read_state(
    path: Path, parts: Parts, settings: GanSettings, data: Data
) -> tuple[int, dict[str, Any]]:
    """Fill networks and optimisers; return the step and the state of the controller.

    Raises:
        CheckpointError: Not such a file.
        ConfigError: It is of other settings (but for the length) or other images.
    """
    tensors, about = read_tensors(path, KIND)
    _check_run(path, settings, data, about)
    try:
        step = int(about["step"])
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        for name, network in parts.networks.items():
            network.load_state_dict(_below(tensors, name))
        for name, adam in parts.optimisers.items():
            _restore(adam, _below(tensors, name), begun=step > 0)
    except (KeyError, ValueError, RuntimeError) as error:
        raise unfit(path, error) from error
    return step, read_json(about, "augmentation")


def unfit(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a state whose content is not that of this training."""
    return CheckpointError(f"cannot resume from {path}: {error}", where=str(path))


def _check_run(path: Path, settings: GanSettings, data: Data, about: Mapping[str, str]) -> None:
    stored = read_json(about, "settings")
    wanted = {name: value for name, value in asdict(settings).items() if name not in LENGTH}
    others = [
        f"{name} is {value}, but the training in {path} has {stored.get(name)}"
        for name, value in wanted.items()
        if stored.get(name) != value
    ]
    before = read_json(about, "data")
    if not others and before.get("sha256") != data.sha256:
        others = [
            f"the training in {path} is on other images: "
            f"it has {before.get('form')}, these are {data.form}"
        ]
    if others:
        raise ConfigError("; ".join(others), code="VS103", where=str(path), fix=FIX)


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = f"{name}/"
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


def _restore(adam: torch.optim.Adam, tensors: Mapping[str, Tensor], *, begun: bool) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    known = [p for group in adam.param_groups for p in group["params"]]
    wanted = set(range(len(known))) if begun else set()
    if set(state) != wanted:
        raise ValueError("the state of an optimiser is of other tensors")
    for place in wanted:
        size = known[place].shape
        full = {"step": torch.Size(), "exp_avg": size, "exp_avg_sq": size}
        if {key: value.shape for key, value in state[place].items()} != full:
            raise ValueError(f"the state of an optimiser does not fit tensor {place}")
    adam.load_state_dict(adam.state_dict() | {"state": state})
