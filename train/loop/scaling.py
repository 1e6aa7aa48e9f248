"""Backward and step of a precision: float16 scales losses, lest small gradients become 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from viewstore.errors import CheckpointError, ConfigError, FormatError
from viewstore.format.records import check_form

Precision = Literal["fp32", "bf16", "fp16"]
# What autocast computes in; None is no autocast.
PRECISIONS: Mapping[Precision, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
FORM = {"scale": float, "_growth_tracker": int}  # the rest are constants


class Scaling:
    """The way from a loss to a step of the optimizer, with gradients clipped if wanted.

    In float16 the loss is scaled (torch.amp.GradScaler), and a step whose gradients overflow is
    skipped and the scale halved; in the other precisions losses are as they are.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Raises ConfigError: there is no such precision."""
        if precision not in PRECISIONS:
            raise ConfigError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}"
            )
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, a scalar, times the scale."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, *, clip: float | None = None) -> bool:
        """Take the optimizer's step; return false if it was skipped: then nothing is to be kept.

        `clip`: greatest norm of all gradients together, at their own scale.
        """
        if clip is not None:
            self._scaler.unscale_(optimizer)
            groups = optimizer.param_groups
            parameters = [parameter for group in groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its age as JSON values; nothing where there is none."""
        state = self._scaler.state_dict()
        return {name: state[name] for name in FORM if name in state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the result of `state_dict`. Raises CheckpointError: it is none."""
        if bool(state) != self._scaler.is_enabled():
            raise CheckpointError(
                "the scale of losses belongs to fp16 alone, and to each of its checkpoints"
            )
        if not state:
            return
        try:
            check_form(state, FORM, "checkpoint.scaler")
        except FormatError as error:
            raise CheckpointError(str(error)) from error
        if not 0 < state["scale"] < math.inf or state["_growth_tracker"] < 0:
            raise CheckpointError(f"scale of losses must be above 0, got {dict(state)}")
        self._scaler.load_state_dict({**self._scaler.state_dict(), **state})
