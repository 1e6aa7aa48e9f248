"""A1: the standard plan of an expert view and a weakly cropped generated view.

Source: Constructive Assimilation, section 3: the generated view takes the place of one expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from viewstore.images.policies import AnyPolicy, Policy, as_policies
from viewstore.loaders.plan.asked import Cached, Online
from viewstore.train.methods.base import Method
from viewstore.train.methods.traits import Traits
from viewstore.train.plan import Row
from viewstore.train.strategies.base import Chooser, RolesOf, Slot, refuse, wrong_views
from viewstore.train.views import Views

CROP = "smallcrop"


@dataclass(frozen=True, kw_only=True)
class A1(Chooser):
    """Takes an expert and a generated view as the method's pair.

    Generated views that are named without a policy of their own are rendered with `smallcrop`;
    "w-search+medcrop" has another crop.

    Attributes:
        a1_flip: Let the policy of the generated views flip them; not for digits.
    """

    NAME: ClassVar[str] = "a1"
    USE: ClassVar[str] = "takes an expert and a generated view as its pair"

    a1_flip: bool = True

    def asked(self, views: Sequence[Cached | Online], roles_of: RolesOf) -> list[Cached | Online]:
        """Return the views with a policy for those that are generated."""
        return [
            self._cropped(view)
            if isinstance(view, Cached) and "generated" in roles_of(view.name)
            else view
            for view in views
        ]

    def _cropped(self, view: Cached) -> Cached:
        then: AnyPolicy = CROP if view.then is None else view.then
        first, *others = as_policies(then)
        if not self.a1_flip and isinstance(first, Policy) and not others:
            then = replace(first, flip=0)
        return replace(view, then=then)

    def check(self, traits: Traits, slots: Sequence[Slot]) -> None:
        """Raise ConfigError: a method that learns from crops or labels, or other views."""
        if traits.target_roles:
            raise refuse(
                self.NAME,
                traits,
                why=f"it learns from views of role {' or '.join(traits.target_roles)} alone "
                "(target_roles): of A1's pair, the generated view would be no target",
                fix="use --strategy a2, in which generated views learn from two others",
            )
        if traits.target == "prototype":
            raise refuse(
                self.NAME,
                traits,
                why="its targets are prototypes (target): no view learns from the other, and both "
                "would have to have one label",
                fix="use --strategy a2, in which generated views learn the label of the experts",
            )
        if sorted(slot.role for slot in slots) != ["expert", "generated"]:
            raise wrong_views(
                "strategy a1 trains on an expert and a generated view, got "
                f"{','.join(slot.role for slot in slots)}",
                slots,
                "simclr,w-search",
            )

    def rows(self, views: Views, method: Method) -> tuple[Row, ...]:
        """Return a row of each of the two views, in their order."""
        return tuple(Row(view) for view in views.base)
