"""Checkpoints of a training run: everything that the next step depends on, in one file.

Written atomically, so that a crash leaves the last whole one; a run resumed from it gives the
weights, bit for bit, of a run that never stopped (same machine, same number of threads). Where
several processes train, all of them save and load, and the first one writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.files.disk import unlink
from viewstore.files.tensors import DTYPES, read_with_config, write_with_config
from viewstore.format.records import canonical, check_form, differences
from viewstore.train.distributed import gather_rows, rank, world_size

Value = TypeVar("Value")

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
# Left out where they are empty.
OPTIONAL: Mapping[str, Any] = {
    "monitors": dict,
    "scaler": dict,
    "numbers": {...: int | float},
    "digest": str,
    "frame": {...: int},
}
ADVERSARY = "adversary."  # what the names of its tensors and numbers begin with
LENGTHS = ("epochs", "steps")
# Settings of one process do not say how many there are.
ALONE: dict[str, Any] = {"processes": 1}
DAMAGED_FIX = "remove it to begin again, or copy it again"


@dataclass
class TrainState:
    """The progress of a run, beside its weights.

    Attributes:
        step: Number of steps done.
        loader: The loader's state after the last of them; None before the first.
        history: Mean loss of each finished epoch.
        partial: Losses of the steps of the current epoch.
        monitors: What monitors keep, as JSON values.
        scaler: State of the scaled losses of float16, `Scaling.state_dict`.
    """

    step: int = 0
    loader: dict[str, Any] | None = None
    history: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)
    monitors: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


class Trained(NamedTuple):
    """A network and its optimizer, in a checkpoint beside those of the method."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The content of a checkpoint.

    Attributes:
        settings: Of the run, with the store and the number of processes.
        frame: What the method was made for besides them, `run.frame_of`; empty in files of
            earlier versions.
        state: The progress of the run.
        tensors: By name, those of the model, the optimizer, the adversary and torch's generators.
        numbers: Of the optimizers.
    """

    settings: dict[str, Any]
    frame: dict[str, int]
    state: TrainState
    tensors: dict[str, Tensor]
    numbers: dict[str, int | float]

    @property
    def model(self) -> dict[str, Tensor]:
        """The state of the method, by name."""
        return _part(self.tensors, "model.")


def kept_path(path: Path, epoch: int) -> Path:
    """Return the path, beside that of the checkpoint, of the one kept of the end of an epoch."""
    return path.with_name(f"{path.stem}-e{epoch:04}{path.suffix}")


def save_checkpoint(
    path: Path,
    state: TrainState,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    adversary: Trained | None = None,
    *,
    frame: Mapping[str, int] = {},
) -> None:
    """Replace the file `path` by the state of a run and torch's random generators, atomically.

    `adversary`: the network that makes views against the method, if there is one; `frame`:
    `Saved.frame`.

    Raises:
        ConfigError: A tensor of the model or a value of the optimizer is of a type that files of
            ours do not hold.
    """
    tensors, numbers = _kept(Trained(model, optimizer))
    if adversary is not None:
        others, more = _kept(adversary)
        tensors |= {f"{ADVERSARY}{name}": value for name, value in others.items()}
        numbers |= {f"{ADVERSARY}{name}": value for name, value in more.items()}
    tensors |= {f"random.{name}": _of_ranks(value) for name, value in _generators().items()}
    _check_types(tensors, numbers)
    config = {"settings": settings, **{key: getattr(state, key) for key in KEYS[1:]}}
    optional = {
        "monitors": state.monitors,
        "scaler": state.scaler,
        "numbers": numbers,
        "digest": _digest(tensors) if rank() == 0 else "",
        "frame": dict(frame),
    }
    config |= {key: value for key, value in optional.items() if value}
    if rank() == 0:
        write_with_config(path, KIND, tensors, config)


def _kept(trained: Trained) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    """Return the tensors of a network and its optimizer, and the optimizer's numbers, by name."""
    tensors = {f"model.{name}": value for name, value in trained.model.state_dict().items()}
    numbers: dict[str, int | float] = {}
    for number, values in trained.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{name}"] = value
            elif value is not None:
                numbers[f"{number}.{name}"] = value
    return tensors, numbers


def _restore(
    trained: Trained, tensors: Mapping[str, Tensor], numbers: Mapping[str, int | float]
) -> None:
    """Restore what `_kept` gave. Raises LookupError, RuntimeError, TypeError, ValueError."""
    optimizer = trained.optimizer
    state = _optimizer_state(optimizer, {**_part(tensors, "optimizer."), **numbers})
    trained.model.load_state_dict(_part(tensors, "model."))
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256, in hex, of names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {DTYPES[value.dtype]} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_types(tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None:
    """Raise ConfigError if a checkpoint cannot hold one of these."""
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            held = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ConfigError(
                f"tensor {name} is {value.dtype}, which a checkpoint cannot hold",
                why=f"checkpoints hold {held}",
                fix="keep it as one of these",
            )
    for name, number in numbers.items():
        if type(number) not in (int, float):
            raise ConfigError(
                f"value {name} of the optimizer is {number!r}, which a checkpoint cannot hold",
                why="checkpoints hold tensors and numbers",
                fix="keep it as one of these",
            )


def _generators() -> dict[str, Tensor]:
    """Return the states of torch's random generators, uint8 [n] each."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _of_ranks(state: Tensor) -> Tensor:
    """Return the states of all ranks, [W, n]; alone, the state itself, [n]."""
    return state if world_size() == 1 else gather_rows(state[None])


def _of_this_rank(states: Tensor) -> Tensor:
    """Return what this rank gave `_of_ranks`."""
    # A copy, as torch reads a state from where its storage begins, whatever the view of it.
    return states.clone() if world_size() == 1 else states[rank()].clone()


def _check_ranks(generators: Mapping[str, Tensor], path: Path) -> None:
    """Raise ConfigError unless as many processes train as had generators."""
    before = max((len(state) for state in generators.values() if state.ndim == 2), default=1)
    if before != world_size():
        raise ConfigError(
            "the run in this folder was trained by another number of processes",
            code="VS103",
            where=str(path),
            why=f"processes were {before}, are {world_size()}",
            fix="train into another --out, or start as many processes as before",
        )


def try_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    adversary: Trained | None = None,
) -> None:
    """Write a checkpoint beside `path` and remove it: what cannot be kept ends a run at its start.

    Raises:
        ConfigError: As `save_checkpoint`.
        OSError: The folder cannot be written.
    """
    trial = path.with_name(f"{path.name}.trial")
    save_checkpoint(trial, TrainState(), {}, model, optimizer, adversary)
    if rank() == 0:
        unlink(trial)


def read_checkpoint(path: Path) -> Saved:
    """Return the content of the checkpoint `path`.

    Raises:
        CheckpointError: The file is damaged, or not a checkpoint.
    """
    file = read_with_config(path, KIND)
    if differing := sorted((set(KEYS) ^ set(file.config)) - set(OPTIONAL)):
        raise CheckpointError(
            f"checkpoint must have the keys {KEYS}, they differ in {differing[0]}",
            where=str(path),
            fix=DAMAGED_FIX,
        )
    config: dict[str, Any] = {key: {} for key in OPTIONAL} | {"digest": ""} | file.config
    try:
        check_form(config, {**FORM, **OPTIONAL}, KIND)
    except FormatError as error:
        raise CheckpointError(str(error), where=str(path), fix=DAMAGED_FIX) from error
    # Files of earlier versions have no digest.
    if config["digest"] and config["digest"] != _digest(file.tensors):
        raise CheckpointError(
            "checkpoint is damaged: its tensors are not those that were written",
            where=str(path),
            fix=DAMAGED_FIX,
        )
    state = TrainState(**{name: config[name] for name in TrainState.__dataclass_fields__})
    return Saved(
        settings=config["settings"],
        frame=config["frame"],
        state=state,
        tensors=file.tensors,
        numbers=config["numbers"],
    )


def load_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    adversary: Trained | None = None,
    extend: bool = False,
) -> TrainState:
    """Restore model, optimizer and random generators from `path`; return the state of the run.

    Rates and weight decays of the optimizer's groups stay: they are set before each step.
    `adversary` is restored too, where there is one. `extend` lets a run go on for longer than it
    was to.

    Raises:
        ConfigError: The run in the file has other settings; nothing was changed.
        CheckpointError: The file is damaged, or not a checkpoint.
    """
    saved = read_checkpoint(path)
    check_settings(saved.settings, settings, path, extend=extend)
    generators = _part(saved.tensors, "random.")
    _check_ranks(generators, path)
    try:
        own = {k: value for k, value in saved.numbers.items() if not k.startswith(ADVERSARY)}
        _restore(Trained(model, optimizer), saved.tensors, own)
        if adversary is not None:
            more = _part(saved.numbers, ADVERSARY)
            _restore(adversary, _part(saved.tensors, ADVERSARY), more)
        torch.set_rng_state(_of_this_rank(generators["torch"]))
        if torch.cuda.is_available() and "cuda" in generators:
            torch.cuda.set_rng_state(_of_this_rank(generators["cuda"]))
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint does not fit its own settings: {error}",
            where=str(path),
            fix="train into another --out, or remove this file to begin again",
        ) from error
    return saved.state


def check_progress(state: TrainState, epoch_steps: int, path: Path) -> None:
    """Raise CheckpointError unless step, losses and loader of a state say the same of a run."""
    losses = len(state.history), len(state.partial)
    place: list[Any] = [(state.loader or {}).get(key) for key in ("epoch", "step")]
    done = None
    if all(type(each) is int and each >= 0 for each in place):
        done = place[0] * epoch_steps + place[1]
    if losses != divmod(state.step, epoch_steps) or done != (state.step or None):
        raise CheckpointError(
            f"checkpoint contradicts itself: it is of step {state.step}",
            where=str(path),
            why=f"it has losses of {losses[0]} epochs and {losses[1]} steps of {epoch_steps} an "
            f"epoch, and the loader's place is {place}",
            fix=DAMAGED_FIX,
        )


def check_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], path: Path, *, extend: bool = False
) -> None:
    """Raise ConfigError if two runs differ in settings; it names each one with both values.

    With `extend` the length of the run may have grown.
    """
    changes = list(differences(ALONE | dict(before), ALONE | dict(now)))
    longer = [change for change in changes if _is_longer(*change)]
    if extend:
        changes = [change for change in changes if change not in longer]
    if not changes:
        return
    why = "; ".join(f"{key} was {_said(old)}, is {_said(new)}" for key, old, new in changes)
    fix = "train into another --out, or give the settings of before to go on"
    if [key for key, _, _ in changes] == ["processes"]:
        fix = "train into another --out, or start as many processes as before"
    if changes == longer:
        fix = "give --extend to go on for longer, or train into another --out"
        if _falls(now):
            why += "; rates fall to the end of a run, and fell to an earlier one so far"
    raise ConfigError(
        "the run in this folder had other settings",
        code="VS103",
        where=str(path),
        why=why,
        fix=fix,
    )


def _said(value: object) -> str:
    """Return a setting as messages show it, alike whether it was read from a file or not."""
    return repr(json.loads(canonical(value)))


def _is_longer(key: str, old: object, new: object) -> bool:
    """Return whether a change of settings makes the run longer and no more."""
    return key in LENGTHS and isinstance(old, int) and isinstance(new, int) and new > old


def _falls(settings: Mapping[str, Any]) -> bool:
    """Return whether the rates or decays of a run's steps depend on its length."""
    optim = settings.get("optim", {})
    return optim.get("schedule") == "cosine" or optim.get("weight_decay_end") is not None


def _part(named: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    return {
        name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)
    }


def _optimizer_state(
    optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor | int | float]
) -> dict[int, dict[str, Any]]:
    """Return the state by parameter. Raises ValueError: it is not of this optimizer's."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in values.items():
        number, _, name = key.partition(".")
        if not 0 <= int(number) < len(parameters):
            raise ValueError(f"optimizer has {len(parameters)} parameters, not one {number}")
        shape = parameters[int(number)].shape
        if isinstance(value, Tensor) and value.shape not in (shape, ()):
            raise ValueError(f"optimizer.{key} must be {tuple(shape)}, got {tuple(value.shape)}")
        state.setdefault(int(number), {})[name] = value
    return state
