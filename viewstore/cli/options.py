"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from viewstore.build.roles import NAMED
from viewstore.build.slices import AUTO, parse_slice, slice_by
from viewstore.errors import ConfigError
from viewstore.progress import Progress
from viewstore.shards.place import checked_device

_SHARDS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)  # a store has at most 10^6
# Numbers that TOML has not: without a digit before or behind the point.
_DECIMAL = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


class _Finite(click.ParamType):  # type: ignore[type-arg]
    """A number which neither nan nor infinity is."""

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class _Number(_Finite, type(click.FLOAT)):  # type: ignore[misc]
    """Any finite number: a range without ends would be shown as one."""


class _NumberInRange(_Finite, click.FloatRange):
    """A finite number within a range."""


class _PathHere(click.Path):
    """A path of this machine: of a URL, the system would make a path in the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401
        if ":" not in str(value):
            return super().convert(value, param, ctx)
        from viewstore.files.local import is_url, local_path

        if is_url(value):
            raise self.refusal(str(value), param, ctx)
        return super().convert(local_path(value), param, ctx)

    def refusal(
        self, url: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> ConfigError:
        """Return the error of a URL."""
        name = "this" if param is None else max(param.opts, key=len)
        return ConfigError(
            f"{name} must be a path on this machine, and this is a URL",
            where=url,
            fix="give a path; other programs carry files to and from URLs",
        )


class _Folder(_PathHere):
    """The folder of a store, where a command takes no URL."""

    def refusal(
        self, url: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> ConfigError:
        command = "this command" if ctx is None else ctx.command_path
        return ConfigError(
            f"{command} takes the folder of a store, and this is a URL",
            where=url,
            fix="copy the store to this machine, manifest.json last, and name the folder; "
            f"{', '.join(TAKE_URLS[:-1])} and {TAKE_URLS[-1]} take a URL, "
            f"{', '.join(TAKE_BUCKETS[:-1])} and {TAKE_BUCKETS[-1]} that of a bucket",
        )


class _FolderOrBucket(_PathHere):
    """The folder of a store, or the URL of a bucket that one lies in."""

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401
        from viewstore.files.local import is_url

        if not is_url(value):
            return super().convert(value, param, ctx)
        url = str(value).rstrip("/")
        return url if is_url(url) else str(value)  # "s3://" is no folder "s3:", but a bad bucket


FILE = _PathHere()
TAKE_URLS = ("inspect", "stats", "verify", "train", "serve")
TAKE_BUCKETS = ("build", "status", "finalise", "gc", "jobfile")
NUMBER = _Number()
NOT_NEGATIVE = _NumberInRange(min=0)
POSITIVE = click.IntRange(min=1)
ON_ERROR = click.Choice(["fail", "skip"])
SOURCES = (
    "The images: a folder of class folders, WebDataset tars (one, a folder or a pattern of "
    "them), an .npz, a .beton, or the word digits (a folder of that name is ./digits)."
)

STORE = click.argument("store", type=_Folder())
FOLDER_OR_BUCKET = _FolderOrBucket()
STORE_OR_BUCKET = click.argument("store", type=FOLDER_OR_BUCKET)
SINGLE_WRITER = click.option(
    "--single-writer",
    is_flag=True,
    help="Write to a bucket that does not keep writers apart; you see to it that no other "
    "command writes there.",
)
ONE_VIEW_SET = click.option(
    "--view-set", metavar="NAME", help="Take this view set only.  [default: all]"
)
SETTINGS = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="K=V",
    help="Set K to V, a setting that has no option of its own; may be given many times.",
)
WORKERS = click.option(
    "-j",
    "--workers",
    type=POSITIVE,
    metavar="N",
    help="Work in N processes.  [default: one per core]",
)
DEVICE = click.option(
    "--device",
    default="cpu",
    callback=lambda context, option, name: checked_device(name),
    show_default=True,
    metavar="D",
    help="Run networks on this torch device.",
)
TORCH_THREADS = click.option(
    "--threads",
    type=POSITIVE,
    metavar="N",
    help="Let torch use N threads.  [default: torch chooses]",
)
WEIGHTS = tuple(
    click.option(f"--{name}", type=FILE, metavar="FILE", help=role.help)
    for name, role in NAMED.items()
)


def weight_files(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files that the options WEIGHTS name, by role."""
    return {role: options[role] for role in NAMED if options[role] is not None}


def parse_assignments(texts: tuple[str, ...], *, prefix: str = "generator.") -> dict[str, Any]:
    """Return the settings of `--set K=V` options; `prefix` may stand before K.

    A value is TOML; what is not is a number such as .5, else a string.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set must be K=V, got {text!r}")
        key = key.strip().removeprefix(prefix)
        if key in settings:
            raise ConfigError(f"--set {key} is given twice")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = float(value) if _DECIMAL.fullmatch(value) else value
    return settings


def merge_settings(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `--set` with those that flags name and that are not None.

    Raises:
        ConfigError: A setting is given both ways.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name in settings:
            raise ConfigError(f"{name} is given twice: as a flag and with --set")
    return {**settings, **given}


def slice_of(text: str | None, progress: Progress) -> tuple[int, int] | None:
    """Return (i, n) of "i/n", or what "auto" finds in the environment, which is said."""
    if text != AUTO:
        return None if text is None else parse_slice(text)
    found, said = slice_by(os.environ)
    progress.note(said)
    return found


def shortened(text: str) -> str:
    """Return the beginning of what a user gave, for a message."""
    return text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "..."


SHOWN_LETTERS = 60


def parse_shards(text: str | None) -> tuple[int, ...] | None:
    """Return the shard numbers of "17,20-22"."""
    if text is None:
        return None
    shards: list[int] = []
    for part in text.split(","):
        match = _SHARDS.fullmatch(part.strip())
        numbers = [] if match is None else [int(each) for each in match.groups() if each]
        if not numbers or numbers != sorted(numbers):
            raise ConfigError(f"--only must list shards like 17,20-22, got {shortened(text)!r}")
        shards += range(numbers[0], numbers[-1] + 1)
    return tuple(shards)


def check_file(option: str, out: Path, suffixes: Iterable[str]) -> None:
    """Raise ConfigError unless `out` can name a new file with one of these suffixes."""
    if out.is_dir():
        raise ConfigError(f"{option} must name a file, and {out} is a folder", where=str(out))
    if out.suffix.lower() not in suffixes:
        said = " or ".join(suffixes)
        raise ConfigError(f"{option} must end in {said}, got {out.name!r}", where=str(out))
