"""From a file to a scorer: a checkpoint of a training, or an encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import kind_of
from viewstore.train.encoder_file import load_encoder
from viewstore.train.loop.checkpoint import DAMAGED_FIX, KIND, Saved, read_checkpoint
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.run import make_method
from viewstore.train.methods.base import Method
from viewstore.train.nets.foreign import runs_code
from viewstore.train.scoring.scorer import EncoderScorer, MethodScorer, Scorer
from viewstore.train.views import At

NOT_CONFIG = ("store", "processes")  # of the settings in a checkpoint
FRAME = ("epoch_steps", "rows", "size", "views")  # what `run.frame_of` gives


def load_scorer(path: Path) -> Scorer:
    """Return the scorer in a file, on the CPU.

    Raises:
        CheckpointError: It is neither a checkpoint nor an encoder, or is damaged.
        ConfigError: The method in it has no loss of single samples.
        UnavailableError: Its backbone is of a package that is not installed.
    """
    if kind_of(path) != KIND:
        return EncoderScorer(load_encoder(path))
    saved = read_checkpoint(path)
    if not saved.frame:
        raise CheckpointError(
            "the checkpoint does not say what it was trained on, so that it cannot score",
            where=str(path),
            why="it was written by an earlier version of viewstore",
            fix="give the encoder.safetensors of the run, or let the training go on for a step",
        )
    if tuple(sorted(saved.frame)) != FRAME or min(saved.frame.values()) < 1:
        raise CheckpointError(
            f"frame of the checkpoint must be {FRAME}, from 1 each, got {saved.frame}",
            where=str(path),
            fix=DAMAGED_FIX,
        )
    try:
        config = PretrainConfig.of(_settings(saved))
        method = _method(config, saved, path)
    except ConfigError as error:
        raise CheckpointError(
            f"checkpoint cannot score: {error}", where=str(path), why=error.why, fix=error.fix
        ) from error
    frame, step = saved.frame, saved.state.step
    at = At(
        epoch=step // frame["epoch_steps"],
        step=step,
        epoch_steps=frame["epoch_steps"],
        total_steps=config.total_steps(frame["epoch_steps"]),
        seed=config.seed,
    )
    size = (frame["size"], frame["size"]) if config.network.in_patches else None
    return MethodScorer(method, at, num_rows=frame["rows"], input_size=size)


def _settings(saved: Saved) -> dict[str, object]:
    """Return the settings of the run, without what is not among those of a config."""
    return {name: value for name, value in saved.settings.items() if name not in NOT_CONFIG}


def _method(config: PretrainConfig, saved: Saved, path: Path) -> Method:
    """Return the method of a run with the weights in its checkpoint."""
    if runs_code(config.network.backbone):
        raise ConfigError(
            f"its backbone is made by the function {config.network.backbone}",
            why="a file must not choose what code is run",
            fix="give views that were scored with a backbone of viewstore's",
        )
    with torch.random.fork_rng(devices=[]):
        method = make_method(config, **saved.frame)
    try:
        method.load_state_dict(saved.model)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint does not fit its own settings: {error}", where=str(path), fix=DAMAGED_FIX
        ) from error
    return method
