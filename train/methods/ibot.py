"""iBOT: DINO, and each masked patch predicts what the teacher makes of the patch itself.

Source: arXiv:2111.07832, equations 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.images.masks import block_masks
from viewstore.randomness import Stream
from viewstore.train.methods.base import Frame
from viewstore.train.methods.dino import DINO, DINOSettings, check_positive, warmed
from viewstore.train.methods.ema import copied
from viewstore.train.methods.embeddings import Emb, Embedded, Images
from viewstore.train.methods.traits import Net, Traits
from viewstore.train.nets.heads import PrototypeHead
from viewstore.train.nets.network import Network
from viewstore.train.nets.vit import VisionTransformer
from viewstore.train.plan import Pair, Plan, Row, Scores
from viewstore.train.views import At, Views


@dataclass(frozen=True, kw_only=True)
class IBOTSettings(DINOSettings):
    """Settings of iBOT: those of DINO, and more.

    Attributes:
        patch_temperature: Divisor of the teacher's logits of patches; its warm-up has the length
            of that of `teacher_temperature`.
        patch_temperature_start: Its value in epoch 0.
        mask_ratio: Share of the patches of a large crop that are masked.
        cls_weight: Weight of DINO's loss, of class tokens.
        patch_weight: Weight of the loss of masked patches.
        shared_head: Patches have the prototypes of class tokens, and not ones of their own.
    """

    TRAITS: ClassVar[Traits] = replace(DINOSettings.TRAITS, name="ibot", reads=("mask",))

    teacher_temperature: float = 0.07
    teacher_warmup_epochs: int = 30
    outputs: int = 8192
    patch_temperature: float = 0.07
    patch_temperature_start: float = 0.04
    mask_ratio: float = 0.3
    cls_weight: float = 1.0
    patch_weight: float = 1.0
    shared_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch_temperature", "patch_temperature_start"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.mask_ratio <= 1:
            raise ConfigError(f"mask_ratio must be in [0, 1], got {self.mask_ratio}")
        for name in ("cls_weight", "patch_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")

    def make(self, network: Network, frame: Frame) -> IBOT:
        """Return iBOT training `network`, whose backbone gets a token of masked patches.

        Raises:
            ConfigError: The backbone is no vision transformer.
        """
        if not isinstance(network.backbone, VisionTransformer):
            raise ConfigError(
                f"method ibot needs a vision transformer, {network.settings.backbone} is none",
                where=f"--method ibot --backbone {network.settings.backbone}",
                why="it masks patches and learns from the token of each",
                fix="give --backbone vit-ti, vit-s or vit-b, or --method dino",
            )
        network.backbone.add_mask_token()
        return IBOT(network, self, frame)


class IBOT(DINO):
    """iBOT: beside DINO's embeddings, "patch" is the projector's output of each patch, [T, D].

    The pair of a row with the target of the same view is the loss of its masked patches. Which
    patches of a view are masked, for the student alone, is its column "mask", bool [B, T].

    Attributes:
        patch_prototypes: The last layer of patches where they do not share that of class tokens;
            the teacher has an average of it.
        patch_center: Moving mean of the teacher's logits of all patches, float32 [outputs].
    """

    settings: IBOTSettings
    patch_center: Tensor

    def __init__(self, network: Network, settings: IBOTSettings, frame: Frame) -> None:
        super().__init__(network, settings, frame)
        self.register_buffer("patch_center", torch.zeros(settings.outputs))
        if not settings.shared_head:
            width = network.settings.projector[-1]
            self.patch_prototypes = PrototypeHead(width, settings.outputs)
            self.teacher_patch_prototypes = copied(self.patch_prototypes)

    def averages(self) -> Sequence[tuple[nn.Module, nn.Module]]:
        """Return each averaged module beside the one that it follows."""
        if self.settings.shared_head:
            return super().averages()
        return [*super().averages(), (self.teacher_patch_prototypes, self.patch_prototypes)]

    def last_layers(self) -> Sequence[PrototypeHead]:
        """Return the layers that are not trained in the first `frozen_epochs`."""
        if self.settings.shared_head:
            return super().last_layers()
        return [*super().last_layers(), self.patch_prototypes]

    def annotate(self, views: Views) -> Views:
        """Return the views with masks, which seed, epoch, sample and view draw.

        Of views that are no targets, such as small crops, nothing is masked.
        """
        stream = Stream(views.at.seed, views.at.epoch)
        index = views.sample.cpu().numpy()
        params = []
        for view, (pixels, role) in enumerate(zip(views.pixels, views.role, strict=True)):
            grid = self._backbone("student").grid_of(*pixels.shape[2:])
            ratio = self.settings.mask_ratio if role in self.traits.target_roles else 0.0
            mask = torch.from_numpy(block_masks(stream, index, view, grid=grid, ratio=ratio))
            params.append({**views.params[view], "mask": mask.to(views.sample.device)})
        return replace(views, params=tuple(params))

    def standard(self, views: Views, rows: Sequence[Row]) -> Plan:
        """Return DINO's plan, and the pair of each target with the student's row of its view."""
        plan = super().standard(views, rows)
        places = {id(row): place for place, row in enumerate(plan.students)}
        weight = self.settings.patch_weight / len(plan.targets)
        across = [replace(p, weight=self.settings.cls_weight * p.weight) for p in plan.pairs]
        within = [Pair(places[id(row)], t, weight) for t, row in enumerate(plan.targets)]
        return replace(plan, pairs=(*across, *within))

    def trunk(self, images: Images, net: Net) -> Emb:
        """Return "feat", the class tokens [M, F], and "patch" [M, T, D]; the teacher sees all."""
        mask = images.params["mask"] if net == "student" else None
        tokens, patches = self._backbone(net).tokens(self.prepare(images.pixels), mask)
        projected = self.network(net).projector(patches.flatten(0, 1))
        return {"feat": tokens, "patch": projected.unflatten(0, patches.shape[:2])}

    def score(self, student: Emb, target: Emb, pair: Pair, plan: Plan) -> Scores:
        """Return DINO's loss of a pair or, of one view, the mean loss of its masked patches.

        A row made within the step (adversarial) stands for that which it was made from. Where no
        patch of a sample is masked, its loss is 0.
        """
        assert pair.target is not None
        row = plan.students[pair.student]
        origin = row if row.made_from is None else plan.students[row.made_from]
        if origin is not plan.targets[pair.target]:
            return super().score(student, target, pair, plan)
        mask = plan.views.column("mask", row.view)
        sample, place = mask.nonzero(as_tuple=True)
        seen = sample if pair.partner is None else pair.partner[sample]
        losses = self._of_patches(
            student["patch"][pair.student][sample, place],
            target["patch"][pair.target][seen, place],
            plan.views.at,
        )
        of_all = losses.new_zeros(mask.shape).index_put((sample, place), losses)
        loss = of_all.sum(1) / mask.sum(1).clamp(min=1)
        return self.scores(self.unit_pair(student, target, pair), loss)

    def _of_patches(self, student: Tensor, target: Tensor, at: At) -> Tensor:
        """Return the cross-entropy of each patch, [n], of projections [n, D]."""
        logits: Tensor = self._patch_head("student")(student)
        with torch.no_grad():
            centered: Tensor = self._patch_head("target")(target) - self.patch_center
            wanted = (centered / self.patch_temperature(at)).softmax(-1)
        return -(wanted * (logits / self.settings.temperature).log_softmax(-1)).sum(-1)

    def patch_temperature(self, at: At) -> float:
        """Return the divisor of the teacher's logits of patches in an epoch."""
        settings = self.settings
        return warmed(
            settings.patch_temperature_start,
            settings.patch_temperature,
            settings.teacher_warmup_epochs,
            at.epoch,
        )

    def update(self, done: Sequence[Embedded], at: At) -> None:
        """Move the center of patches, then as DINO does."""
        patches = []
        for each in done:
            for place, row in enumerate(each.plan.targets[: each.plan.base_targets]):
                count = each.plan.views.column("mask", row.view).shape[1]  # zeros stand behind
                patches.append(each.target["patch"][place, :, :count].flatten(0, 1))
        # The mean of the logits of all patches, which are linear in these.
        unit = F.normalize(torch.cat(patches), dim=1).mean(0)
        self.move(self.patch_center, self._patch_head("target").directions() @ unit)
        super().update(done, at)

    def _patch_head(self, net: Net) -> PrototypeHead:
        if self.settings.shared_head:
            return self.prototypes if net == "student" else self.teacher_prototypes
        return self.patch_prototypes if net == "student" else self.teacher_patch_prototypes

    def _backbone(self, net: Net) -> VisionTransformer:
        return cast(VisionTransformer, self.network(net).backbone)
