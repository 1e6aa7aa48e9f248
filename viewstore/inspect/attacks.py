"""Views that were attacked or mixed: what became of their losses and pixels, as facts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewstore.inspect.pair_losses import BINS
from viewstore.store.view_set import ViewSet


def attack_numbers(view_set: ViewSet) -> dict[str, Any]:
    """Return how attacked views differ from the clean ones, as facts.

    Returns:
        "edges", "before", "after": histograms of the losses. "views": views with both. "rose":
        those whose loss is greater. "mean_before", "mean_after". "budget": norm, units and eps of
        the plan. "by_view": percentiles of `delta_norm` and the views above eps.
    """
    params, args = view_set.params, view_set.plan.generator["args"]
    before, after = params["loss0"].astype(np.float64), params["loss"].astype(np.float64)
    known = np.isfinite(before) & np.isfinite(after)
    both = np.concatenate([before[known], after[known]])
    low, high = (both.min(), both.max()) if len(both) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    moved = params["delta_norm"]
    eps = args.get("eps")
    return {
        "edges": edges.tolist(),
        "before": np.histogram(before[known], edges)[0].tolist(),
        "after": np.histogram(after[known], edges)[0].tolist(),
        "views": int(known.sum()),
        "rose": int((after > before)[known].sum()),
        "mean_before": float(before[known].mean()) if known.any() else None,
        "mean_after": float(after[known].mean()) if known.any() else None,
        "budget": {name: args.get(name) for name in ("norm", "units", "eps", "step", "steps")},
        "by_view": []
        if moved is None
        else [_moved(moved[:, v], eps) for v in range(moved.shape[1])],
        "clipped": _mean(params["clipped"]) if "clipped" in params else None,
    }


def _moved(far: NDArray[np.float32], eps: float | None) -> dict[str, Any]:
    known = far[np.isfinite(far)].astype(np.float64)
    percentiles = np.percentile(known, (5, 50, 95, 100)).tolist() if len(known) else [None] * 4
    over = None if eps is None else int((known > eps * (1 + 1e-5)).sum())
    return {"views": len(known), "percentiles": percentiles, "over": over}


def _mean(values: NDArray[Any]) -> float | None:
    known = values[np.isfinite(values)].astype(np.float64)
    return float(known.mean()) if len(known) else None


def mixture_numbers(view_set: ViewSet) -> dict[str, Any]:
    """Return which share of their own pixels mixed views have, as facts.

    Returns:
        "edges", "kept", "drawn": histograms in [0, 1] of `mix_lambda`, and of `mix_lambda0` as it
        was before the edge cut the box. "mean", "sd", "drawn_mean", "drawn_sd", "views", "whole".
    """
    edges = np.linspace(0, 1, BINS + 1)
    found: dict[str, Any] = {"edges": edges.tolist()}
    for name, column, prefix in (("kept", "mix_lambda", ""), ("drawn", "mix_lambda0", "drawn_")):
        values = view_set.params[column] if column in view_set.params else np.empty(0)
        known = values[np.isfinite(values)].astype(np.float64)
        found[name] = np.histogram(known, edges)[0].tolist()
        found[f"{prefix}mean"] = float(known.mean()) if len(known) else None
        found[f"{prefix}sd"] = float(known.std()) if len(known) else None
        if name == "kept":
            found |= {"views": len(known), "whole": int((known == 1).sum())}
    return found
