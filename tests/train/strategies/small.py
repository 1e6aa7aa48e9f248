"""Small methods, one of each kind that choosers tell apart, and random views for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.train.world import make_method
from viewstore.train.methods.barlow_twins import BarlowTwinsSettings
from viewstore.train.methods.base import Frame, Method, MethodSettings
from viewstore.train.methods.byol import BYOLSettings
from viewstore.train.methods.ema import Averaged
from viewstore.train.methods.embeddings import Emb, Images
from viewstore.train.methods.moco_v2 import MoCoV2Settings
from viewstore.train.methods.simsiam import SimSiamSettings
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Preprocessing, Views

SIZE = 8
WIDTH = 6
FRAME = Frame(prepare=Preprocessing(in_channels=3, mean=(0.5,) * 3, std=(0.25,) * 3))
NETWORK = NetworkSettings(backbone="conv3", projector=(16, WIDTH))
EXPERTS = ("expert",) * 4
CROPS = ("global",) * 4 + ("local",) * 6


def traits(target: str, **values: object) -> Traits:
    given: dict[str, Any] = {"name": "small", "decomposable": False, "forward": "per_view"}
    return Traits(**{**given, "target": target, **values})


def scores(loss: Tensor) -> Scores:
    nothing = torch.zeros_like(loss)
    return Scores(nothing, loss, nothing, nothing, 0.0, 1.0)


def real(settings: MethodSettings) -> Method:
    """Return a method with a small network; where its target net is another one, it differs."""
    method = make_method(settings, projector=(32, WIDTH))
    if isinstance(method, Averaged):
        differ(method)
    return method


def differ(method: Averaged) -> None:
    for parameter in method.teacher.parameters():
        parameter.mul_(1.1).add_(0.01)


def simsiam() -> Method:
    return real(SimSiamSettings(predictor_hidden=16))


def byol() -> Method:
    return real(BYOLSettings(predictor_hidden=16))


def moco() -> Method:
    return real(MoCoV2Settings(queue_size=32, temperature=0.2))


def barlow() -> Method:
    return real(BarlowTwinsSettings())


class Distilling(Averaged):
    """Cross-entropy of softmaxes, with global crops alone as targets, as in DINO."""

    def __init__(self, target_roles: tuple[str, ...] = ("global",)) -> None:
        given = traits("ema", target_roles=target_roles, forward="per_size")
        super().__init__(seeded_network(NETWORK, 0), given, FRAME)
        differ(self)

    def head(self, features: Tensor, net: Net) -> Emb:
        return {"z": self.network(net).projector(features)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        assert pair.target is not None
        share = (target["z"][pair.target] / 0.5).softmax(1)
        return scores(-(share * student["z"][pair.student].log_softmax(1)).sum(1))

    def momentum(self, at: At) -> float:
        return 0.9


class Clustered(Method):
    """Each view learns one class by itself, as with prototypes."""

    def __init__(self) -> None:
        super().__init__(seeded_network(NETWORK, 0), traits("prototype"), FRAME)

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        return self.plan_of(
            views, rows, (), [Pair(i, None, 1 / len(rows)) for i in range(len(rows))]
        )

    def head(self, features: Tensor, net: Net) -> Emb:
        return {"z": self.network(net).projector(features)}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        label = plan.views.sample % WIDTH
        return scores(F.cross_entropy(student["z"][pair.student], label, reduction="none"))


class Plain(Method):
    """Embeds by the mean colour alone, with an identity for a head and no batch norms."""

    def __init__(self) -> None:
        super().__init__(seeded_network(NETWORK, 0), traits("none"), FRAME)

    def trunk(self, images: Images, net: Net) -> Emb:
        return {"feat": self.prepare(images.pixels).mean((2, 3))}

    def head(self, features: Tensor, net: Net) -> Emb:
        return {"z": features}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        return scores(-self.unit_pair(student, target, pair).cosine)


def views_of_roles(
    *roles: str,
    samples: int = 7,
    at: At | None = None,
    seed: int = 0,
    params: Sequence[Mapping[str, Tensor]] | None = None,
    local_size: int = SIZE // 2,
) -> Views:
    """Return random views, the local ones smaller."""
    generator = torch.Generator().manual_seed(seed)
    pixels = []
    for role in roles:
        side = local_size if role == "local" else SIZE
        shape = (samples, 3, side, side)
        pixels.append(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    return Views(
        pixels=tuple(pixels),
        role=roles,
        parent=(-1,) * len(roles),
        params=tuple(params or ({},) * len(roles)),
        sample=torch.arange(samples) + 20,
        at=at or At(0, 0, 10, 20, 5),
        base=tuple(range(len(roles))),
    )


def permuted(views: Views, order: Sequence[int]) -> Views:
    """Return the views in another order: view i is that which was order[i]."""
    return replace(
        views,
        pixels=tuple(views.pixels[each] for each in order),
        params=tuple(views.params[each] for each in order),
    )


def at_step(step: int, *, epoch: int = 0) -> At:
    return At(epoch, step, 10, 20, 5)
