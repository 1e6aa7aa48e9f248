"""Hard examples: whether attacks and mixes raise the loss, and which attacks are one (H1, H2, H3).

Source of the claims: Pre-training with Hard Examples, sections 3.1 and 3.2, and appendix A. Losses
are of one batch, with its own batch statistics, as in training; nothing is trained while they are
taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from trials.record import Line, Record, verdict
from trials.world import THREADS, config_of, store_of, train
from viewstore.inspect.intervals import wilson
from viewstore.loaders.loader import ViewLoader
from viewstore.randomness import Op, Stream
from viewstore.store.store import Store
from viewstore.train.encoder_file import load_encoder
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.pretrain import ENCODER
from viewstore.train.methods.base import Frame, Method
from viewstore.train.nets.domains import add_domain
from viewstore.train.nets.network import Network, seeded_network
from viewstore.train.plan import Pair, Plan, total
from viewstore.train.strategies.table import strategy_of
from viewstore.train.views import At, Views, views_of

RAISED, CHANCE, MOST = (0.95, 1.0), (0.45, 0.60), (0.5, 1.0)  # goals: shares of samples
ATTACKS = ((1, 1), (1, 3), (3, 1), (3, 3))
POLICY = "online:simclr"
BATCH, IMAGES = 256, 1024
MADE = ("attack", "random signs", "mix")


def method_of(network: Network, config: PretrainConfig) -> Method:
    """Return the method of a training on a network, with a second batch norm domain."""
    method = config.method.make(network, Frame(prepare=config.prepare))
    add_domain(method)
    return method.train()


def batches_of(store: Store, size: int) -> list[Views]:
    """Return two views of each sample of a store, in batches."""
    with ViewLoader(store, f"{POLICY},{POLICY}", batch_size=size, num_threads=0) as loader:
        roles, device = tuple(loader.roles), torch.device("cpu")
        return [
            views_of(batch, roles=roles, device=device, at=At(0, step, len(loader), 1, 0))
            for step, batch in enumerate(loader)
        ]


def sample_losses(method: Method, plan: Plan, wanted: Callable[[Pair], bool]) -> Tensor:
    """Return the loss of each sample by the pairs that are wanted, [B]."""
    student, target = method.both(plan, "probe")
    with torch.no_grad():
        terms = [
            pair.weight * total(method.score(student, target, pair, plan))
            for pair in plan.pairs
            if wanted(pair)
        ]
    return torch.stack(terms).sum(0)


def compared(method: Method, views: Views, **given: Any) -> tuple[Plan, Tensor, Tensor]:  # noqa: ANN401
    """Return the plan of hexa with its settings, and the losses of clean and made rows, [B]."""
    plan = strategy_of("hexa", given).plan(method.annotate(views), method)
    clean = sample_losses(method, plan, plan.is_base)
    made = sample_losses(method, plan, lambda pair: not plan.is_base(pair))
    return plan, clean, made


def with_random_signs(plan: Plan, views: Views) -> Plan:
    """Return the plan with random signs of one level in the place of its attacked views."""
    pixels = list(plan.views.pixels)
    for place in plan.views.of("adversarial"):
        clean = views.pixels[plan.views.parent[place]].float()
        words = Stream(0).words(Op.ATTACK, views.sample.numpy(), place, blocks=clean[0].numel())
        signs = torch.from_numpy(words[:, : clean[0].numel()] >> 31).view_as(clean) * 2.0 - 1
        pixels[place] = (clean + signs).clamp(0, 255)
    return replace(plan, views=replace(plan.views, pixels=tuple(pixels)))


def share(found: Tensor) -> dict[str, Any]:
    """Return the share of true entries, with its Wilson interval."""
    count = len(found)
    return {
        "share": float(found.float().mean()),
        "n": count,
        "wilson": wilson(int(found.sum()), count),
    }


def raised(method: Method, batches: Sequence[Views]) -> dict[str, Any]:
    """Return how often an attack, random signs and a mix raise the loss of a sample."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("clean", *MADE)}
    for views in batches:
        plan, clean, attacked = compared(method, views)
        signs = with_random_signs(plan, views)
        random = sample_losses(method, signs, lambda pair, plan=signs: not plan.is_base(pair))
        _, _, mixed = compared(method, views, a1=0.0, a2=1.0)
        for name, each in zip(found, (clean, attacked, random, mixed), strict=True):
            found[name].append(each)
    losses = {name: torch.cat(each) for name, each in found.items()}
    shares = {name: share(losses[name] > losses["clean"]) for name in MADE}
    return {"losses": {name: float(each.mean()) for name, each in losses.items()}, **shares}


def equal_attacks(
    store: Store, folder: Path, steps: int, backbone: str
) -> dict[str, dict[str, Any]]:
    """Return which attacks (eps, step) end in the weights of the first one, bit for bit (H3)."""
    weights = []
    for eps, step in ATTACKS:
        config = config_of(
            POLICY,
            POLICY,
            strategy="hexa",
            given={"eps": eps, "step": step},
            backbone=backbone,
            batch_size=32,
            steps=steps,
        )
        out = folder / f"{eps}-{step}"
        train(store, config, out)
        weights.append(load_file(out / ENCODER))
    named = zip(ATTACKS, weights, strict=True)
    return {f"({eps},{step})": _compared(weights[0], each) for (eps, step), each in named}


def _compared(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Any]:
    apart = [float((first[name] - other[name]).abs().max()) for name in first]
    equal = all(first[name].equal(other[name]) for name in first)
    return {"equal": equal, "largest_difference": max(apart)}


def report(record: Record, options: Mapping[str, Any]) -> None:
    """Train for a few epochs, attack and mix before and after; train with four attacks."""
    torch.set_num_threads(THREADS)
    backbone = options["backbone"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = store_of(folder / "store", options["source"], options["rows"], views=1)
        config = config_of(
            POLICY, POLICY, backbone=backbone, batch_size=128, epochs=options["epochs"]
        )
        result = train(store, config, folder / "run")
        views = batches_of(store_of(folder / "test", options["test"], IMAGES, views=1), BATCH)
        untrained = seeded_network(config.network, 0)
        found = {
            "untrained": raised(method_of(untrained, config), views),
            "trained": raised(method_of(load_encoder(result.encoder).network, config), views),
        }
        equal = equal_attacks(store, folder, options["steps"], backbone)
    record.facts |= {"raised": found, "attacks": equal}
    trained = f"{backbone} after {options['epochs']} epochs of SimCLR"
    for net, name, what, claim, goal in (
        ("trained", "attack", "H1: the attack raises the loss", ">= 95 % (goal)", RAISED),
        ("trained", "random signs", "H1: random signs raise it", "45-60 % (control)", CHANCE),
        ("untrained", "attack", "H1: the attack raises the loss", ">= 95 % (goal)", RAISED),
        ("untrained", "random signs", "H1: random signs raise it", "45-60 % (control)", CHANCE),
        ("trained", "mix", "H2: CutMix raises the loss", "of most samples, once trained", MOST),
        ("untrained", "mix", "H2: CutMix raises the loss", "none: untrained", None),
    ):
        each = found[net][name]
        interval = each["wilson"]
        losses = found[net]["losses"]
        record.lines.append(
            Line(
                experiment=f"{what}; {trained if net == 'trained' else backbone + ' untrained'}",
                claim=claim,
                ours=f"{each['share']:.1%} (loss {losses['clean']:.3f} to {losses[name]:.3f})",
                n=f"{each['n']} pairs",
                interval=f"{interval[0]:.1%}-{interval[1]:.1%}, Wilson",
                steps=result.steps if net == "trained" else 0,
                verdict="-" if goal is None else verdict(interval, *goal),
            )
        )
    record.lines.append(_attacks_line(equal, options["steps"], backbone))


def _attacks_line(equal: Mapping[str, Mapping[str, Any]], steps: int, backbone: str) -> Line:
    same = [name for name, each in equal.items() if each["equal"]]
    other = [
        f"{name} differs by up to {each['largest_difference']:.2g}"
        for name, each in equal.items()
        if not each["equal"]
    ]
    expected: Sequence[str] = ["(1,1)", "(1,3)", "(3,1)"]
    return Line(
        experiment=f"H3: weights after attacks of (eps, step), {backbone}",
        claim="only (3,3) hurts: (1,1), (1,3), (3,1) are one attack",
        ours=f"bitwise equal: {' '.join(same)}; {', '.join(other) or 'none differs'}",
        n=f"{len(equal)} runs",
        interval="exact",
        steps=steps,
        verdict="yes" if same == expected else "no",
    )
