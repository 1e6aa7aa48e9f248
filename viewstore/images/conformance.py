"""What every codec and every policy is held to, of packages and our own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from viewstore.errors import FormatError
from viewstore.images.codec import Codec, codec_from_plan, codec_to_plan, make_codec
from viewstore.images.policies import policies
from viewstore.images.policy import Drawn, ViewPolicy
from viewstore.images.policy_values import policies_of, spelled_out
from viewstore.images.recipes import box_inside, expert_recipe
from viewstore.plugins import Check
from viewstore.randomness import Stream

SIZES = ((1, 1), (7, 5), (32, 32), (48, 64))
ROWS, VIEWS = 16, 4
SIZE = (24, 24)  # of the views of a policy
STREAM = Stream(3)
Pixels = NDArray[np.uint8]


def codec_checks(name: str) -> list[Check]:
    """Return what the codec `name` is held to."""
    codec = make_codec(name)
    checks = [
        Check("a plan gives it back", "stored views could not be read", lambda: _unplanned(codec)),
        Check(
            "its members have names of their own",
            "a shard could not be written",
            lambda: _wrong_members(codec),
        ),
    ]
    if not codec.encoded:
        return checks
    return [
        *checks,
        Check("equal pixels are equal bytes", "a shard that is built again would be another one",
              lambda: _unstable_bytes(name)),
        Check("views read as it says", "what is shown would not be what was made",
              lambda: _unlike(codec)),
        Check("damaged files are refused", "a reader would crash, or show something else",
              lambda: _accepted(codec)),
    ]  # fmt: skip


def pictures() -> Iterator[Pixels]:
    """Yield smooth and noisy images of several sizes, uint8 [H, W, 3]."""
    noise = np.random.default_rng(0)
    for height, width in SIZES:
        rows, columns = np.mgrid[:height, :width]
        yield (np.stack([rows * 5, columns * 3, rows + columns], -1) % 256).astype(np.uint8)
        yield noise.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _unplanned(codec: Codec) -> str | None:
    plan = json.loads(json.dumps(codec_to_plan(codec, 32)))
    found = codec_from_plan(plan)
    return None if found == codec else f"{codec} is {found} once it is read from {plan}"


def _wrong_members(codec: Codec) -> str | None:
    for views in (1, 2, 11, 100):
        members = codec.members(views)
        named = [member for member in members if member.rsplit(".", 1)[-1] == codec.suffix]
        wanted = views if codec.encoded else len(members[1:])
        if members and members[0] != "json":
            return f"the first of {views} views' members is {members[0]}, not json"
        if list(members) != sorted(set(members)) or len(named) != wanted:
            return f"members of {views} views are {', '.join(members[:4])}, .."
    return None


def _unstable_bytes(name: str) -> str | None:
    first = [make_codec(name).encode(each) for each in pictures()]
    codec = make_codec(name)
    backwards = [codec.encode(each) for each in reversed(list(pictures()))][::-1]
    for picture, one, other in zip(pictures(), first, backwards, strict=True):
        if one != other:
            return f"an image {list(picture.shape)} has {len(one)} and then {len(other)} bytes"
    return None


def _unlike(codec: Codec) -> str | None:
    for picture in pictures():
        shape, data = picture.shape, codec.encode(picture)
        wanted = codec.roundtrip(picture[None])[0]
        if codec.lossless and not np.array_equal(wanted, picture):
            return f"it says that it is lossless, and changes an image {list(shape)}"
        into, memory = np.zeros(shape, np.uint8), np.zeros(picture.size, np.uint8)
        codec.view_decoder(shape).decode(memoryview(data), into)
        for found in (codec.decode(data), into, codec.decode(memoryview(data), into=memory)):
            if found.shape != shape or not np.array_equal(found, wanted):
                return f"an image {list(shape)} reads as another one than roundtrip says"
    return None


def _accepted(codec: Codec) -> str | None:
    """Return which damaged file is neither refused by FormatError nor read as an image."""
    (good,) = [codec.encode(each) for each in list(pictures())[4:5]]
    noise = np.random.default_rng(1)
    cases = {"an empty file": b"", "text": b"no image", "noise": noise.bytes(300)}
    cases |= {f"its first {size} bytes": good[:size] for size in range(0, len(good), 7)}
    for place in noise.integers(0, len(good), 60).tolist():
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(noise.integers(8))
        cases[f"a flipped bit in byte {place}"] = bytes(flipped)
    for what, data in cases.items():
        try:
            found = codec.decode(data)
        except FormatError:
            continue
        except Exception as error:
            return f"{what} raises {type(error).__name__}: {error}"
        if found.dtype != np.uint8 or found.ndim != 3 or what in ("an empty file", "text"):
            return f"{what} is read as {found.dtype}{list(found.shape)}"
    return None


def policy_checks(name: str) -> list[Check]:
    """Return what the policies of `name` are held to."""
    again = "views that are stored and that are drawn online would differ"
    return [
        Check("a plan can hold it", "its views could not be cached", lambda: _unheld(name)),
        Check("params have their forms", "they could not be stored", lambda: _wrong_params(name)),
        Check("a view is drawn alone as in a batch", again, lambda: _company(name)),
        Check("crop boxes lie in their images", "overlaps would be wrong", lambda: _outside(name)),
        Check("the recipe renders the views", "--codec params would show other views",
              lambda: _other_pixels(name)),
    ]  # fmt: skip


def _image(row: int) -> Pixels:
    rows, columns = np.mgrid[: 40 + row, : 56 - row]
    return (np.stack([rows * 5 + row, columns * 3, rows * columns // 4], -1) % 256).astype("u1")


def _drawn(policy: ViewPolicy, rows: NDArray[np.int64], view: int) -> Drawn:
    return policy.draw(STREAM, rows, view, 40 + rows, 56 - rows)


def _each(name: str) -> Iterator[tuple[int, ViewPolicy]]:
    """Yield the number and the policy of some views."""
    found = policies(name)
    for view in range(VIEWS):
        yield view, found[view % len(found)].for_size(*SIZE)


def _unheld(name: str) -> str | None:
    values = json.loads(json.dumps(spelled_out(name)))
    if policies_of(values) != policies(name):
        return f"{values} is another policy"
    return None


def _wrong_params(name: str) -> str | None:
    rows = np.arange(ROWS)
    for view, policy in _each(name):
        drawn = _drawn(policy, rows, view)
        planned = {each.name: each for each in policy.columns}
        if set(planned) != set(drawn):
            return f"view {view} has columns {sorted(drawn)}, planned were {sorted(planned)}"
        for column, values in drawn.items():
            shape, dtype = (ROWS, *planned[column].shape), planned[column].numpy_dtype
            if (values.shape, values.dtype) != (shape, dtype):
                return f"column {column} is {values.dtype}{list(values.shape)}"
    return None


def _company(name: str) -> str | None:
    rows = np.arange(ROWS)
    for view, policy in _each(name):
        together = _drawn(policy, rows, view)
        for row in range(ROWS):
            alone = _drawn(policy, rows[row : row + 1], view)
            for column, values in together.items():
                if values[row].tobytes() != alone[column][0].tobytes():
                    return f"row {row}, view {view}, column {column} is another one alone"
    return None


def _outside(name: str) -> str | None:
    rows = np.arange(ROWS)
    for view, policy in _each(name):
        boxes = _drawn(policy, rows, view)["crop_box"]
        inside = box_inside(boxes, 40 + rows, 56 - rows, whole=policy.whole_pixels)
        if not inside.all():
            row = int(np.argmin(inside))
            return f"row {row}, view {view}: crop_box {boxes[row].tolist()}"
    return None


def _other_pixels(name: str) -> str | None:
    spec = expert_recipe(spelled_out(name), "area")
    for view, policy in _each(name):
        renderer = spec.renderer(tuple(each.name for each in policy.columns), SIZE)
        drawn = _drawn(policy, np.arange(ROWS), view)
        for row in range(ROWS):
            image, one = _image(row), {column: each[row] for column, each in drawn.items()}
            before = image.copy()
            wanted = policy.render(image, one, SIZE, "area")
            if wanted.shape != (*SIZE, 3) or wanted.dtype != np.uint8:
                return f"row {row}, view {view} is {wanted.dtype}{list(wanted.shape)}"
            if not np.array_equal(image, before):
                return f"row {row}, view {view}: the image was changed"
            if not np.array_equal(renderer.render(image, one), wanted):
                return f"row {row}, view {view} has other pixels"
    return None
