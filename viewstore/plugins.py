"""What installed packages add to our tables: their entry points, looked for after our own names.

A package names what it adds in its pyproject.toml, in a group of `GROUPS`, as `name =
"package.module:object"`. Nothing of it is imported before its name is used. What can be named is
what the user has installed: a store that is read chooses among that, and among nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from viewstore.errors import ConfigError, UnavailableError

GROUPS: Mapping[str, str] = {
    "generator": "viewstore.generators",
    "codec": "viewstore.codecs",
    "method": "viewstore.methods",
    "strategy": "viewstore.strategies",
    "policy": "viewstore.policies",
}
PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # what pip takes as a name
Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One entry point of an installed package.

    Attributes:
        kind: What it adds: a key of `GROUPS`.
        name: What a user calls it.
        target: What stands for it, "package.module:object".
        package, version: Of the distribution that it is of.
    """

    kind: str
    name: str
    target: str
    package: str
    version: str

    def load(self) -> Any:  # noqa: ANN401
        """Import and return what stands for it. Raises UnavailableError: that fails."""
        from importlib.metadata import EntryPoint

        entry = EntryPoint(self.name, self.target, GROUPS[self.kind])
        try:
            return entry.load()
        except Exception as error:  # the code is of another package: it may raise anything
            raise self.refused(
                f"{type(error).__name__}: {error}",
                fix=f"see that the package is whole: pip install --force-reinstall {self.package}",
            ) from error

    def load_settings(self, *, called: Callable[[Any], object] | None = None) -> Any:  # noqa: ANN401
        """Return the dataclass of settings that stands for it.

        `called`: What such a class says its name is.

        Raises:
            UnavailableError: It is something else, or has another name than the entry point.
        """
        kind = self.load()
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise self.refused(f"{self.target} must be a dataclass, got {kind!r}")
        if called is not None and (name := called(kind)) != self.name:
            raise self.refused(f"{self.target} calls itself {name!r}")
        return kind

    def refused(self, why: str, *, fix: str | None = None) -> UnavailableError:
        """Return the error for an entry point that cannot be used."""
        return UnavailableError(
            f"{self.kind} {self.name} of the package {self.package} cannot be used: {why}",
            where=f'{self.name} = "{self.target}" in [project.entry-points."{GROUPS[self.kind]}"]',
            fix=fix or f"mend it in {self.package}: viewstore conformance {self.package}",
        )


class Table(UserDict[str, Row]):
    """The rows of one kind by name: ours, then those of installed packages.

    No package takes the place of a row of ours. Entry points are read where a name is not ours,
    and where all names are asked for.
    """

    def __init__(self, kind: str, own: Mapping[str, Row], row_of: Callable[[Plugin], Row]) -> None:
        """Take `kind`, a key of `GROUPS`, our rows, and what makes a row of an entry point."""
        super().__init__(own)
        self.kind = kind
        self._row_of = row_of

    @property
    def own(self) -> Mapping[str, Row]:
        """Our own rows."""
        return self.data

    def plugin(self, name: str) -> Plugin | None:
        """Return the entry point that a name stands for, None for one of ours or of nobody.

        Raises:
            ConfigError: Several packages have it.
        """
        return None if name in self.data else _found(self.kind, name)

    def __missing__(self, name: str) -> Row:
        plugin = self.plugin(name)
        if plugin is None:
            raise KeyError(name)
        return self._row_of(plugin)

    def __contains__(self, name: object) -> bool:
        return name in self.data or (isinstance(name, str) and self.plugin(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.data, *(each.name for each in plugins(self.kind))]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def plugins(kind: str, *, package: str | None = None) -> list[Plugin]:
    """Return the entry points of a kind, of one installed package or of all, by name."""
    from importlib.metadata import entry_points  # 10 ms that readers of our own kinds are spared

    found = [
        Plugin(
            kind=kind,
            name=entry.name,
            target=entry.value,
            package=entry.dist.name,
            version=entry.dist.version,
        )
        for entry in entry_points(group=GROUPS[kind])
        if entry.dist is not None and package in (None, entry.dist.name)
    ]
    return sorted(found, key=lambda each: (each.name, each.package))


def _found(kind: str, name: str) -> Plugin | None:
    found = [each for each in plugins(kind) if each.name == name]
    if len(found) > 1:
        packages = [each.package for each in found]
        raise ConfigError(
            f"{kind} {name} is of two packages, {packages[0]} and {packages[1]}",
            code="VS102",
            why="a name stands for one thing",
            fix=f"uninstall one of them: pip uninstall {packages[0]}, or {packages[1]}",
        )
    return found[0] if found else None


def user_function(name: str, what: str, *, form: str) -> Callable[..., Any]:
    """Return the function of the user's that `name`, "module:function", names.

    `what` is what messages call that which it makes; `form` are the forms that its name may have.

    Raises:
        ConfigError: There is none, or its module cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        made: Callable[..., Any] = getattr(import_module(module), function)
        inspect.signature(made)
    except (Exception, SystemExit) as error:  # the module is the user's: it may raise anything
        raise ConfigError(
            f"there is no {what} {name}: {error}",
            code="VS102",
            where=name,
            fix=_advice(module, function, error, form),
        ) from error
    return made


def _advice(module: str, function: str, error: BaseException, form: str) -> str:
    """Return what to do where a function of the user's cannot be had from its module."""
    if module.endswith(".py"):
        return f"name the module, not its file: {module.removesuffix('.py')}:{function}"
    lacking = error.name if isinstance(error, ModuleNotFoundError) else None
    if lacking is not None and f"{module}.".startswith(f"{lacking}."):
        return (
            f"give {form}, where the module can be imported: for one in this folder set "
            "PYTHONPATH=."
        )
    if isinstance(error, ImportError):
        return f"see that `python -c 'import {module}'` works"
    return f"name a function of {module} that returns a torch.nn.Module"


def missing(kind: str, name: str, package: object) -> UnavailableError:
    """Return the error for what a store names, and what no installed package has.

    `package` is what the store says it is of; a text that can be no such name is not shown.
    """
    known = isinstance(package, str) and PACKAGE.fullmatch(package)
    of = f"of the package {package}, which is not installed here" if known else "not installed here"
    return UnavailableError(
        f"{kind} {name} is {of}",
        why="the view set was made with it",
        fix=f"pip install {package}" if known else None,
    )


def quick_settings(kind: type) -> dict[str, Any]:
    """Return the settings with which a class of settings asks to be checked.

    They are its class attribute CONFORMANCE, for one that needs a setting, or is slow without.
    """
    return dict(getattr(kind, "CONFORMANCE", {}))


class Check(NamedTuple):
    """One thing that an addition is held to, by `viewstore conformance` and by our own tests.

    Attributes:
        name: What holds, in a few words.
        why: What goes wrong where it does not hold.
        run: Looks, and returns what differs, None where it holds.
    """

    name: str
    why: str
    run: Callable[[], str | None]
