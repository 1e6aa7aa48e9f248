"""Recipes: the rendering half of a policy, from recorded params back to the view they describe.

A recipe set stores params alone. Whoever reads its views renders them by a row of `RECIPES`, a
pure function of the image they start from, one row of params, and the recipe in the plan. The
table is below stores, so that loaders render without any generator. Params are read from files,
and steer a renderer: each recipe says what they may hold (`check`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.images.colours import SOLARIZE_OFF, Pixels
from viewstore.images.operated import HEAVY, NOTHING_DONE, WHOLE, Operated, Recorded
from viewstore.images.operators.chain import Chain
from viewstore.images.operators.recorded import wrong as wrong_operators
from viewstore.images.operators.spaces import NO_MORE
from viewstore.images.operators.table import OPERATORS
from viewstore.images.policies import Digits, Policy
from viewstore.images.policy import MOST_BLUR, MOST_FACTOR
from viewstore.images.policy_values import PolicySetting, policies_of
from viewstore.images.resize import STORED_FILTERS, Filter, check_filter

Values = Mapping[str, NDArray[Any]]  # params by column, each [..., *shape of one view]
MOST_HUE = 0.5  # turns
ORDER_OFF = 255


@dataclass(frozen=True, kw_only=True)
class RecipeSpec:
    """What a generator says of the recipe by which its views can be made again.

    Attributes:
        name: Row of `RECIPES`.
        args: What is constant in all its views; JSON-able.
        filter: How crops are resized.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    filter: str = "area"

    @property
    def version(self) -> int:
        """Of the recipe; raised when equal params would give other pixels."""
        return RECIPES[self.name].version

    def renderer(self, columns: tuple[str, ...], size: tuple[int, int]) -> Renderer:
        """Return what renders by it, of a set with these columns and size."""
        return Renderer.of({**asdict(self), "version": self.version}, columns, size)


# What changes nothing, by column. Other columns have 0, but for the jigsaw.
_NOTHING: Mapping[str, Any] = {
    **NOTHING_DONE,
    "crop_box": (0, 0, 1, 1),
    "crop_local": (0, 0, 1, 1),
    "ops": NO_MORE,
    "x_brightness": 1,
}


def change_nothing(name: str, values: NDArray[Any], where: NDArray[np.bool_]) -> None:
    """Put what changes nothing in a column of params [..., *shape], where `where` [...].

    A view that was never made has it in place of the fill values, so that what renders many views
    at once meets none.
    """
    values[where] = np.arange(values.shape[-1]) if name == "jigsaw" else _NOTHING.get(name, 0)


class Renders(Protocol):
    """Renders one view from the params that one was made with."""

    def render(
        self,
        image: Pixels,
        params: Mapping[str, Any],
        size: tuple[int, int],
        filter: Filter,
        out: Pixels | None = None,
    ) -> Pixels:
        """Return the view, uint8 [height, width, 3]. Pure."""


Wrong = list[tuple[str, NDArray[np.bool_]]]  # column, and where its values cannot be


class Frame(NamedTuple):
    """What bounds the params of views.

    Attributes:
        height: Of the images that they start from, [...].
        width: Likewise.
        size: Height and width of the views.
        args: Of the recipe.
    """

    height: NDArray[Any]
    width: NDArray[Any]
    size: tuple[int, int]
    args: Mapping[str, Any]


Check = Callable[[Values, Frame], Wrong]


class Recipe(NamedTuple):
    """How the views of one kind of generator are made again.

    Attributes:
        version: Raised when equal params would give other pixels.
        renderer: Returns what renders, for the names of the stored columns and `RecipeSpec.args`.
        check: Returns what is wrong with params within a frame.
    """

    version: int
    renderer: Callable[[frozenset[str], Mapping[str, Any]], Renders]
    check: Check


def _policy(columns: frozenset[str], args: Mapping[str, Any]) -> Renders:
    del args
    if "jitter" in columns:
        return Policy(name="recorded")
    return Policy(name="recorded", jitter_probability=0, gray=0)


def _check_policy(params: Values, frame: Frame) -> Wrong:
    wrong = [
        ("crop_box", ~box_inside(params["crop_box"], frame.height, frame.width, whole=True)),
        ("flip", params["flip"] > 1),
    ]
    if "jitter" not in params:
        return wrong
    factors, order = params["jitter"], params["jitter_order"]
    fits = (factors[..., :3] >= 0).all(-1) & (factors[..., :3] <= MOST_FACTOR).all(-1)
    fits &= np.abs(factors[..., 3]) <= MOST_HUE
    is_order = (np.sort(order, axis=-1) == np.arange(4)).all(-1) | (order == ORDER_OFF).all(-1)
    return [
        *wrong,
        ("jitter", ~fits),
        ("jitter_order", ~is_order),
        ("gray", params["gray"] > 1),
        ("blur", ~((params["blur"] >= 0) & (params["blur"] <= MOST_BLUR))),
        ("solarize", params["solarize"] > SOLARIZE_OFF),
    ]


def _digits(columns: frozenset[str], args: Mapping[str, Any]) -> Renders:
    del columns, args
    return Digits()


def _check_digits(params: Values, frame: Frame) -> Wrong:
    factor, turn = params["x_brightness"], params["x_rotation"]
    return [
        ("crop_box", ~box_inside(params["crop_box"], frame.height, frame.width, whole=False)),
        ("x_brightness", ~((factor >= 0) & (factor <= MOST_FACTOR))),
        ("x_rotation", ~(np.abs(turn) <= 2 * np.pi)),
    ]


BOXES = ("", "crop_box", "crop_local")  # where the box of views with operators may be recorded


def recipe_of(policy: Operated, filter: str, *, box: str) -> RecipeSpec:
    """Return the recipe of views that `policy` drew.

    `box` is the column with their box in what they are made of, "" if they show all of it.
    """
    args = {
        "before": policy.before,
        "box": box,
        "operators": [operator.name for operator in OPERATORS],
    }
    return RecipeSpec(name="ops", args=args, filter=filter)


def expert_recipe(policy: PolicySetting, filter: str) -> RecipeSpec:
    """Return the recipe of views of a policy; what takes turns differs in its draws alone.

    Raises:
        ConfigError: There is no such policy.
    """
    first = policies_of(policy)[0]
    if isinstance(first, Operated):
        return recipe_of(first, filter, box="crop_box")
    return RecipeSpec(name="digits" if isinstance(first, Digits) else "policy", filter=filter)


def heavy_recipe(chain: str, filter: str) -> RecipeSpec:
    """Return the recipe of heavy views by a row of `HEAVY`, whatever its numbers."""
    policy = HEAVY[chain]
    return recipe_of(policy, filter, box="crop_local" if policy.crops else "")


def _ops(columns: frozenset[str], args: Mapping[str, Any]) -> Renders:
    before, box = args.get("before"), args.get("box")
    known, names = args.get("operators"), [operator.name for operator in OPERATORS]
    if (
        not isinstance(known, list | tuple)
        or list(known) != names[: len(known)]
        or not isinstance(before, bool)
        or box not in BOXES
        or not columns.issuperset([box] if box else [])
    ):
        raise FormatError(
            "recipe ops has operators that are not known here",
            code="VS204",
            why="the views were made by another version of viewstore",
            fix="open the store with that version",
        )
    base = Digits() if "x_rotation" in columns else WHOLE
    return Recorded(Operated(name="recorded", chain=Chain(), base=base, before=before), box)


def _check_ops(params: Values, frame: Frame) -> Wrong:
    box = frame.args["box"]
    found = [(name, where) for name, where, _ in wrong_operators(params, frame.size)]
    if not box:
        return found
    check = _check_digits if "x_rotation" in params else _check_policy
    checked = check({**params, "crop_box": params[box]}, frame)
    return found + [(box if name == "crop_box" else name, where) for name, where in checked]


def box_inside(
    box: NDArray[Any], height: NDArray[Any], width: NDArray[Any], *, whole: bool
) -> NDArray[np.bool_]:
    """Return which boxes (top, left, height, width) [..., 4] lie inside their image, >= 1 px.

    `whole`: They must begin and end at pixels too. Others may lie outside by a rounding.
    """
    top, left, tall, wide = np.moveaxis(box.astype(np.float64), -1, 0)
    slack = 0.0 if whole else 1e-3
    least = 1.0 if whole else 1e-3  # of an image one pixel wide a part of it is cut
    inside = (top >= -slack) & (left >= -slack) & (tall >= least) & (wide >= least)
    inside &= (top + tall <= height + slack) & (left + wide <= width + slack)
    found: NDArray[np.bool_] = inside & (box == np.floor(box)).all(-1) if whole else inside
    return found


# A recipe is what renders, what its params may be, and one row here.
RECIPES: Mapping[str, Recipe] = {
    "policy": Recipe(1, _policy, _check_policy),
    "digits": Recipe(1, _digits, _check_digits),
    "ops": Recipe(1, _ops, _check_ops),
}


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Renders the views of one recipe set.

    Attributes:
        recipe: Row of the table.
        args: Of the recipe in the plan.
        size: Height and width of the views, in pixels.
        filter: How crops are resized.
        columns: Names of the params that one view is rendered from.
        renders: What renders them.
    """

    recipe: Recipe
    args: Mapping[str, Any]
    size: tuple[int, int]
    filter: Filter
    columns: tuple[str, ...]
    renders: Renders

    @classmethod
    def of(
        cls, recipe: Mapping[str, Any], columns: tuple[str, ...], size: tuple[int, int]
    ) -> Renderer:
        """Return the renderer of a plan's recipe, whose set has these columns and size.

        Raises:
            FormatError: The recipe or its version is not known here.
        """
        name, version = recipe["name"], recipe["version"]
        if name not in RECIPES or RECIPES[name].version != version:
            raise FormatError(
                f"recipe {name} version {version} is not known here",
                code="VS204",
                why="the views were made by another version of viewstore",
                fix="open the store with that version",
            )
        row = RECIPES[name]
        used = tuple(each for each in columns if each not in ("status", "pixel_crc"))
        return cls(
            recipe=row,
            args=recipe["args"],
            size=size,
            filter=check_filter(recipe["filter"], STORED_FILTERS),
            columns=used,
            renders=row.renderer(frozenset(used), recipe["args"]),
        )

    def check(self, params: Values, height: NDArray[Any], width: NDArray[Any]) -> Wrong:
        """Return the columns whose values cannot be, and where; nothing where all can.

        `params` are of views [...]; `height` and `width` are of the images they start from.
        """
        with np.errstate(invalid="ignore"):  # NaN is outside every bound
            found = self.recipe.check(params, Frame(height, width, self.size, self.args))
        return [(name, where) for name, where in found if where.any()]

    def render(self, image: Pixels, params: Mapping[str, Any], out: Pixels | None = None) -> Pixels:
        """Return the view of these params, uint8 [height, width, 3]."""
        return self.renders.render(image, params, self.size, self.filter, out)
