"""The augmentation policies of `expert` view sets and online views, by name.

A policy is settings alone. The table names each one; policies that treat the two views of a
pair differently have one entry for even view numbers and one for odd ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from viewstore.errors import ConfigError, nearest
from viewstore.images.colours import COLOUR_COLUMNS
from viewstore.images.digits import Digits
from viewstore.images.operated import HEAVY, WHOLE, Operated
from viewstore.images.operators.chain import Chain
from viewstore.images.operators.spaces import ra16
from viewstore.images.policy import Drawn, Policy, ViewPolicy
from viewstore.plugins import Plugin, Table
from viewstore.randomness import Integers, Stream

__all__ = [
    "POLICIES",
    "AnyPolicy",
    "Digits",
    "Drawn",
    "Operated",
    "Policy",
    "ViewPolicy",
    "as_policies",
    "dino_colours",
    "output_size",
    "policies",
]

LOCAL_SHARE = 96 / 224  # of the global views' side, as DINO's local crops
_CROP = Policy(name="crop", jitter_probability=0, gray=0)
_WEAK = replace(_CROP, ratio=(0.9, 1.1))
_STRONG = (0.8, 0.8, 0.8, 0.2)
_BYOL = (0.4, 0.4, 0.2, 0.1)
_SIMCLR = Policy(name="simclr", scale=(0.08, 1), jitter=_STRONG, blur=0.5, blur_above=40)
_MOCO = Policy(name="moco", blur=0.5)
_FIRST = Policy(name="byol", scale=(0.08, 1), jitter=_BYOL, blur=1)
_SECOND = replace(_FIRST, blur=0.1, solarize=0.2)
_GLOBAL = replace(_FIRST, name="dino", role="global", scale=(0.4, 1))
_LOCAL = replace(_GLOBAL, name="dino-local", role="local", scale=(0.05, 0.4), blur=0.5)
_SWAV = Policy(name="swav", role="global", scale=(0.14, 1), jitter=_STRONG, blur=0.5)


def _pair(name: str, first: Policy) -> tuple[Policy, Policy]:
    """Return two policies, of which the second blurs few views and solarizes some."""
    first = replace(first, name=name)
    return first, replace(first, blur=_SECOND.blur, solarize=_SECOND.solarize)


def _of_plugin(plugin: Plugin) -> tuple[ViewPolicy, ...]:
    found = plugin.load()
    pair = found if isinstance(found, tuple) else (found,)
    for each in pair:
        if not isinstance(each, Policy | Operated):
            raise plugin.refused(f"{plugin.target} must be a Policy, or a tuple of such")
        if each.name != plugin.name:
            raise plugin.refused(f"{plugin.target} calls itself {each.name!r}")
    return pair


# The papers resize with bilinear or bicubic filters; here the filter is a setting of its own.
_OWN: Mapping[str, tuple[ViewPolicy, ...]] = {
    "simclr": (_SIMCLR,),
    "simsiam": (replace(_MOCO, name="simsiam"),),
    "moco": (_MOCO,),
    "cifar": (Policy(name="cifar"),),
    # Graded Similarity blurs less often, and CIFAR not at all.
    "gs-simclr": (replace(_SIMCLR, name="gs-simclr", blur=0.2),),
    "gs-simsiam": (replace(_MOCO, name="gs-simsiam", blur=0.2, blur_above=40),),
    "byol": _pair("byol", _FIRST),
    "barlow": _pair("barlow", _FIRST),
    "dino": _pair("dino", _GLOBAL),
    "ibot": _pair("ibot", _GLOBAL),
    "dino-local": (_LOCAL,),
    # Those of ViT-B, which sees ten local crops.
    "dino-vitb": _pair("dino-vitb", replace(_GLOBAL, scale=(0.25, 1))),
    "dino-vitb-local": (replace(_LOCAL, name="dino-vitb-local", scale=(0.05, 0.25)),),
    "swav": (_SWAV,),
    "swav-local": (replace(_SWAV, name="swav-local", role="local", scale=(0.05, 0.14)),),
    "digits": (Digits(),),
    "crop": (_CROP,),
    "flip": (replace(_CROP, name="flip", crop=False),),
    # What a network that makes views starts from.
    "source": (replace(WHOLE, name="source", role="source"),),
    # Weak crops for generated views. Source: Constructive Assimilation, section 3, and its code.
    "smallcrop": (replace(_WEAK, name="smallcrop", scale=(0.9, 1)),),
    "medcrop": (replace(_WEAK, name="medcrop", scale=(0.7, 1)),),
    "largecrop": (replace(_WEAK, name="largecrop", scale=(0.5, 1)),),
    # Heavy ones. Source: DSSL, sections 3 and 4; `jigsaw4` is its grid of 4.
    **{name: (HEAVY[name],) for name in ("ra16", "paper", "paper3", "either", "randaugment", "ua")},
    **{
        f"jigsaw{grid}": (Operated(name=f"jigsaw{grid}", chain=Chain(grid=grid)),)
        for grid in (2, 4)
    },
    # The standard and the heavy views of its BYOL.
    "dssl-byol": tuple(
        Operated(name="dssl-byol", chain=Chain(spaces=(ra16(2, 9),)), base=each, before=True)
        for each in _pair("byol", _FIRST)
    ),
    "dssl-byol-heavy": (HEAVY["byol"],),
}
POLICIES: Table[tuple[ViewPolicy, ...]] = Table("policy", _OWN, _of_plugin)


def policies(name: str) -> tuple[ViewPolicy, ...]:
    """Return the policies of `name`; view v follows number v modulo their count.

    "simclr+ra16" are those of simclr, each with the operators of ra16 on its view.

    Raises:
        ConfigError: There is no such policy; the nearest one is named.
    """
    base, plus, heavy = name.partition("+")
    found = _of_table(base)
    if not plus:
        return found
    (operators,) = _of_table(heavy)[:1]
    if not isinstance(operators, Operated) or operators.base is not WHOLE:
        raise ConfigError(f"policy {name!r}: {heavy} is no chain of operators; {_chains()}")
    return tuple(replace(operators, name=name, base=each) for each in found)


def _of_table(name: str) -> tuple[ViewPolicy, ...]:
    if name not in POLICIES:
        hint = nearest(name, list(POLICIES))
        raise ConfigError(f"there is no augmentation policy {name!r}; {hint}", code="VS102")
    return POLICIES[name]


def _chains() -> str:
    names = [
        name
        for name, (first, *_) in POLICIES.own.items()
        if isinstance(first, Operated) and first.base is WHOLE
    ]
    return f"there are {', '.join(names)}"


def dino_colours(
    role: str, number: int, size: int, stream: Stream, index: Integers, view: Integers
) -> Drawn:
    """Return COLOUR_COLUMNS of DINO's views without their crop and flip, [..., *shape].

    Args:
        role: "global" or "local".
        number: Of the view among all; it says which of the policies of global views it has.
        size: Side of the view in pixels.
        stream: Of the draws.
        index: Rows of the store; with `view` they key the draws.
        view: Numbers of views, as the draws are to be keyed.
    """
    entries = policies({"global": "dino", "local": "dino-local"}[role])
    policy = entries[number % len(entries)].for_size(size, size)
    drawn = policy.draw(stream, index, view, size, size)
    return {name: drawn[name] for name in COLOUR_COLUMNS}


AnyPolicy = str | ViewPolicy | tuple[ViewPolicy, ...]  # those of a tuple take turns


def as_policies(policy: AnyPolicy) -> tuple[ViewPolicy, ...]:
    """Return the policies of a name, or the policy itself. Raises ConfigError."""
    if isinstance(policy, str):
        return policies(policy)
    return policy if isinstance(policy, tuple) else (policy,)


def output_size(policy: AnyPolicy, height: int, width: int) -> tuple[int, int]:
    """Return the size of the policy's views beside global views of `height` x `width`."""
    if as_policies(policy)[0].role != "local":
        return height, width
    return max(1, round(height * LOCAL_SHARE)), max(1, round(width * LOCAL_SHARE))
