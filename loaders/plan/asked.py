"""The views that a user asks a loader for: Cached, Online, Mix, and their short form in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from viewstore.errors import ConfigError, nearest
from viewstore.images.policies import POLICIES, AnyPolicy, ViewPolicy, as_policies
from viewstore.images.resize import Filter, check_filter
from viewstore.loaders.plan.choices import Weighted, checked_pick
from viewstore.loaders.plan.mixed import check_weights
from viewstore.loaders.plan.numbers import whole_number
from viewstore.loaders.plan.schedule import Pick
from viewstore.store.described import is_joined


@dataclass(frozen=True)
class Cached:
    """Views read from a view set, each in a slot of its own.

    Attributes:
        name: The view set; its newest complete round is read.
        n: Slots. The views of a sample in them differ.
        pick: "schedule" shows every cached view equally often over the epochs; "random" draws
            them anew each epoch. "hard.selected" shows the views that column selected of the
            columns set hard chose, those of one group of candidates in each epoch; "hard" means
            hard.selected. {"hard-r1": 1, "hard-r2": 3} draws for each sample and epoch which of
            several choices is shown. Slots with one pick share its views, in their order.
        follow: Number of an earlier slot that shows the view set which these views were made
            from: each shows a view whose parent is the view shown there, drawn anew each epoch.
            None: they are chosen by `pick`.
        params: Columns to deliver; None: all that lie in the shards' packs, which leaves out
            latents. "teacher.feature" is the column feature of the columns set teacher, which
            describes the view set or the images: of the view that is shown, or of its sample.
        then: Online policy, by name or with numbers of your own, that is drawn anew in every
            epoch and rendered on the cached view.
        size: Side in pixels of what `then` renders. None: that of the view set; local views
            96/224 of it.
        filter: Resize filter of `then`: "area", "linear" (OpenCV), "pil" (Pillow, antialiased) or
            "antialias" (torch, antialiased).
    """

    name: str
    _: KW_ONLY
    n: int = 1
    pick: str | Mapping[str, float] | Weighted = "schedule"
    follow: int | None = None
    params: tuple[str, ...] | None = None
    then: AnyPolicy | None = None
    size: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"Cached must name a view set, got {self.name!r}")
        _check_cached(self)
        object.__setattr__(self, "pick", checked_pick(self.pick))
        if self.follow is not None:
            object.__setattr__(self, "follow", whole_number("Cached follow", self.follow, least=0))
            if self.pick != "schedule":
                raise ConfigError(
                    f"Cached with follow={self.follow} takes no pick, got {self.pick!r}",
                    why="the view shown in the slot that it follows chooses among its children",
                )


@dataclass(frozen=True)
class Online:
    """Views rendered while they are loaded, from source images or on the pixels of another slot.

    Attributes:
        policy: The augmentation policy, by name or with numbers of your own; two policies in a
            tuple take turns.
        n: Slots.
        size: Side of the views in pixels. None: that of the first cached view set that is not
            of local views, else of the source where its images are alike and small, else 224;
            local views 96/224 of it.
        on: Number of an earlier slot on whose pixels, as they are delivered, the views are
            rendered. None: on source images. `size` None then means the size of that slot's
            views.
        filter: Resize filter: "area", "linear" (OpenCV), "pil" (Pillow, antialiased) or
            "antialias" (torch, antialiased).
    """

    policy: AnyPolicy
    _: KW_ONLY
    n: int = 1
    size: int | None = None
    on: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        as_policies(self.policy)
        _check_slots(self)
        if self.on is not None:
            object.__setattr__(self, "on", whole_number("Online on", self.on, least=0))


@dataclass(frozen=True)
class Mix:
    """Views read from several view sets; the set is drawn for each sample and slot.

    Attributes:
        weights: How often each view set is shown beside the others, by name.
        n: Slots.
        balanced: Let every sample go through its sets evenly over the epochs: after E epochs a
            set of share w was shown within a few of w * E times. Else they are drawn anew.
        pick: Which view of the set, as in `Cached`.
        params: Columns to deliver, and "x_set", the number of the set in the order of their
            names. None: that and all packed columns which the sets store in one form. A column
            that a set lacks reads as never written.
        then, size, filter: As in `Cached`.
    """

    weights: Mapping[str, float]
    _: KW_ONLY
    n: int = 1
    balanced: bool = False
    pick: Pick = "schedule"
    params: tuple[str, ...] | None = None
    then: AnyPolicy | None = None
    size: int | None = None
    filter: Filter = "area"

    def __post_init__(self) -> None:
        check_weights(self.weights)
        _check_cached(self)
        if self.pick not in ("schedule", "random"):
            raise ConfigError(f"Mix pick must be schedule or random, got {self.pick!r}")
        joined = [name for name in self.params or () if is_joined(name)]
        if joined:
            raise ConfigError(
                f"a Mix joins no columns of other view sets, got {joined[0]!r}",
                why="its views are of several view sets, and a columns set describes one of them",
                fix="show the view sets in slots of their own, with Cached(.., params=..)",
            )


AnyView = Cached | Online | Mix
Views = Sequence[AnyView]
OwnPolicies = Mapping[str, tuple[ViewPolicy, ...]]
AnyViews = str | AnyView | Sequence[AnyView | str]  # what a user may give


def _check_cached(view: Cached | Mix) -> None:
    kind = type(view).__name__
    if view.then is not None:
        as_policies(view.then)
    elif view.size is not None:
        raise ConfigError(
            f"{kind} size is that of the views that `then` renders, got no `then`; "
            "views without it are as large as they were stored"
        )
    _check_slots(view)
    if view.params is not None:
        names = (view.params,) if isinstance(view.params, str) else tuple(view.params)
        object.__setattr__(view, "params", names)


def _check_slots(view: AnyView) -> None:
    kind = type(view).__name__
    check_filter(view.filter)
    object.__setattr__(view, "n", whole_number(f"{kind} n", view.n, least=1))
    if view.size is not None:
        size = whole_number(f"{kind} size", view.size, least=1)
        object.__setattr__(view, "size", size)


def as_views(views: AnyViews, view_sets: Sequence[str]) -> list[AnyView]:
    """Return the views that a user gave: one, several, or words for them.

    Raises:
        ConfigError: They are something else, or a word names none.
    """
    if isinstance(views, str | Cached | Online | Mix):
        views = [views]
    if not isinstance(views, Sequence):
        raise ConfigError(
            f"views must be a list of Cached, Online and Mix, or words, got {views!r}",
            fix='views="simclr,simclr" or views=[Cached("simclr", n=2)]',
        )
    found: list[AnyView] = []
    for view in views:
        if isinstance(view, str):
            found += parse_views(view, view_sets, first=sum(each.n for each in found))
        elif isinstance(view, Cached | Online | Mix):
            found.append(view)
        else:
            raise ConfigError(f"views must be Cached, Online, Mix or words, got {view!r}")
    return found


def parse_views(
    text: str,
    view_sets: Sequence[str],
    *,
    first: int = 0,
    own: Mapping[str, tuple[ViewPolicy, ...]] = {},
) -> list[Cached | Online]:
    """Return the views of a short form such as "simclr,simclr,w-search+flip,heavy/0".

    A name is a view set if it is in `view_sets`, else an online policy; "+flip" renders the policy
    flip on the cached view, "simclr@hard.easiest" shows the view that this choice picks. "/0"
    comes last: a view of the set that was made from the one in slot 0, or the online policy
    rendered on it. `first` is the number of the first slot, `own` are policies of the caller's.

    Raises:
        ConfigError: A name is both, where "cached:NAME" or "online:NAME" must be written, or
            neither; or what stands behind "/" is no earlier slot.
    """
    words = [word.strip() for word in text.split(",")]
    return [_parse_word(word, first + place, view_sets, own) for place, word in enumerate(words)]


def _parse_word(
    word: str, slot: int, view_sets: Sequence[str], own: OwnPolicies
) -> Cached | Online:
    name, slash, number = word.partition("/")
    view = _parse_view(name, view_sets, slash + number, own)
    if not slash:
        return view
    if not (number.isascii() and number.isdecimal() and int(number) < slot):
        earlier = {0: "there is none", 1: "there is slot 0"}
        raise ConfigError(
            f"{word!r} must end in the number of an earlier slot, such as {name}/0",
            why=f"slots count from 0 in the order of the views: {word!r} is slot {slot}, before it "
            + earlier.get(slot, f"there are slots 0 to {slot - 1}"),
            fix=f"put the view that it is made from before it, and write its number behind {name}/",
        )
    if isinstance(view, Online):
        return replace(view, on=int(number))
    return replace(view, follow=int(number))


def _parse_view(
    text: str, view_sets: Sequence[str], link: str, own: OwnPolicies
) -> Cached | Online:
    kind, colon, name = text.partition(":")
    if colon and kind == "cached":
        return _cached(name, own)
    if colon and kind == "online":
        return Online(own.get(name, name))
    base = text.partition("+")[0].partition("@")[0]
    if base in view_sets and (text in own or text in POLICIES):
        raise ConfigError(
            f"{text!r} is a view set of this store and an online policy; "
            f"write cached:{text}{link} or online:{text}{link}"
        )
    if base in view_sets or base.removesuffix("-r1") in view_sets:  # the first round
        return _cached(text, own)
    if text in own or base in POLICIES:
        return Online(own.get(text, text))
    hint = nearest(base, sorted({*view_sets, *POLICIES, *own}))
    raise ConfigError(
        f"there is no view set and no online policy {base!r}; {hint}",
        code="VS102",
        why=f"view sets here: {', '.join(view_sets) or 'none'}; policies: "
        f"{', '.join([*own, *POLICIES])}",
    )


def _cached(text: str, own: OwnPolicies) -> Cached:
    shown, plus, then = text.partition("+")
    name, at, pick = shown.partition("@")
    policy = own.get(then, then) if plus else None
    return Cached(name, pick=pick if at else "schedule", then=policy)
