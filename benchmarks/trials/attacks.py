"""Adversarial sets: whether stored attacks raise the loss of the method they were made against.

The control is random signs of the same size, rounded and scored alike.
Source of the claims: Pre-training with Hard Examples, section 3.1 and appendix A.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trials.hexa import CHANCE, RAISED, share
from trials.record import Line, Record, verdict
from trials.world import THREADS, config_of, store_of, train
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.images.cutmix import kept_shares
from viewstore.randomness import Op, Stream
from viewstore.store.store import Store, open_store
from viewstore.train.loop.checkpoint import NAME
from viewstore.train.scoring.load import load_scorer
from viewstore.train.scoring.scorer import Scorer

VIEWS, BANK, AT_ONCE = "cands", 512, 64
METHODS: Mapping[str, dict[str, Any]] = {
    "moco-v2": {"queue_size": 1024},
    "simclr": {},
    "simsiam": {},
    "deepcluster-v2": {"prototypes": (64, 64)},
}


def attacked(store: Store, scorer: Path, name: str, **settings: Any) -> Store:  # noqa: ANN401
    """Build an adversarial set against a checkpoint, and return the store."""
    request = BuildRequest(
        generator="adversarial",
        view_set=name,
        out=store.root,
        files={"scorer": scorer},
        settings={"of": VIEWS, **settings},
        workers=THREADS,
    )
    build(request)
    return open_store(store.root)


def images_of(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return views [.., H, W, 3] as a scorer takes them: float32 [.., 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.moveaxis(pixels, -1, -3).copy()).float() / 255


@torch.no_grad()
def losses_of(
    scorer: Scorer, student: NDArray[np.uint8], clean: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the loss of each view [N, V] against the next clean view of its sample."""
    targets = np.roll(clean, -1, axis=1)
    found = []
    for first in range(0, len(clean), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        rows = torch.arange(len(clean))[part].repeat_interleave(clean.shape[1])
        both = (images_of(each[part]).flatten(0, 1) for each in (student, targets))
        found.append(scorer.losses(*both, rows).numpy())
    return np.concatenate(found).reshape(clean.shape[:2])


def random_signs(clean: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return views [N, V, H, W, 3] with each level one up or down by chance."""
    count = clean[0, 0].size
    rows = np.arange(len(clean))[:, None]
    words = Stream(0).words(Op.ATTACK, rows, np.arange(clean.shape[1]), blocks=-(-count // 4))
    signs = (words[..., :count] >> 31).astype(np.int16).reshape(clean.shape) * 2 - 1
    return np.clip(clean.astype(np.int16) + signs, 0, 255).astype(np.uint8)


def method_found(store: Store, run: Path, name: str) -> dict[str, Any]:
    """Return the shares of raised losses of an adversarial set and of random signs."""
    made = attacked(store, run / NAME, f"adv-{name}").view_sets[f"adv-{name}"]
    clean, views = store.view_sets[VIEWS][:], made[:]
    scorer = load_scorer(run / NAME)
    if scorer.needs_bank:
        scorer.remember(images_of(clean[:BANK, 0]), torch.arange(min(BANK, len(clean))))
    before, after = (losses_of(scorer, each, clean) for each in (clean, random_signs(clean)))
    params = made.params
    raised = params["loss"] > params["loss0"]
    delta = np.abs(views.astype(np.int16) - clean)
    return {
        "attack": share(torch.from_numpy(raised.reshape(-1))),
        "random signs": share(torch.from_numpy((after > before).reshape(-1))),
        "losses": [float(params["loss0"].mean()), float(params["loss"].mean())],
        "largest_change": int(delta.max()),
        "model_step": int(params["model_step"][0]),
    }


def mixed_found(store: Store) -> dict[str, Any]:
    """Return how the recorded shares of a CutMix set compare with counted pixels."""
    build(BuildRequest(generator="cutmix", out=store.root, settings={"of": VIEWS}, workers=THREADS))
    made = open_store(store.root).view_sets["cutmix"]
    boxes, kept = made.params["mix_box"][:], made.params["mix_lambda"][:]
    height, width = made.height, made.width
    y, x = np.mgrid[:height, :width]
    counted = np.empty_like(kept)
    for at in np.ndindex(kept.shape):
        x0, y0, x1, y1 = boxes[at]
        counted[at] = 1 - ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).mean()
    exact = kept_shares(boxes.reshape(-1, 4), height, width)
    return {
        "n": kept.size,
        "equal_to_counted": int((counted == exact.reshape(kept.shape).astype("f4")).sum()),
        "mean": float(kept.mean()),
        "sem": float(kept.std() / kept.size**0.5),
        "mean_drawn": float(made.params["mix_lambda0"][:].mean()),
        "side": height,
    }


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Train each method for some epochs, attack its views, and mix them."""
    torch.set_num_threads(THREADS)
    backbone, epochs = options["backbone"], options["epochs"]
    record.facts["attacked"] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = store_of(folder / "store", options["source"], options["rows"], views=2)
        for method, given in METHODS.items():
            views = f"cached:{VIEWS}"
            config = config_of(
                views, views, method=method, method_given=given, backbone=backbone,
                batch_size=128, epochs=epochs,
            )  # fmt: skip
            steps = train(store, config, folder / method).steps
            found = method_found(store, folder / method, method)
            record.facts["attacked"][method] = found
            record.lines += lines_of(method, found, f"{backbone}, {epochs} epochs", steps)
        record.facts["mixed"] = mixed = mixed_found(store)
    record.lines.append(
        Line(
            experiment=f"stored CutMix: the recorded share is that of counted pixels, "
            f"{mixed['side']} px",
            claim="every view; E[lam] .759 at 32 px",
            ours=f"{mixed['equal_to_counted']} of {mixed['n']}; mean {mixed['mean']:.4f}",
            n=f"{mixed['n']} views",
            interval=f"+- {mixed['sem']:.4f}, standard error",
            verdict="yes" if mixed["equal_to_counted"] == mixed["n"] else "no",
        )
    )


def lines_of(method: str, found: Mapping[str, Any], setting: str, steps: int) -> list[Line]:
    """Return the lines of one method."""
    lines = []
    for name, claim, goal in (
        ("attack", ">= 95 % (goal)", RAISED),
        ("random signs", "45-60 % (control)", CHANCE),
    ):
        each = found[name]
        low, high = each["wilson"]
        losses = found["losses"]
        more = f" (loss {losses[0]:.3f} to {losses[1]:.3f})" if name == "attack" else ""
        lines.append(
            Line(
                experiment=f"stored {name} raise the loss of {method}; {setting}",
                claim=claim,
                ours=f"{each['share']:.1%}{more}, levels moved by {found['largest_change']}",
                n=f"{each['n']} views",
                interval=f"{low:.1%}-{high:.1%}, Wilson",
                steps=steps,
                verdict=verdict((low, high), *goal),
            )
        )
    return lines
