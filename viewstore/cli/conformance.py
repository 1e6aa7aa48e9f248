"""The command conformance: what a package adds, held to the suites that ours is held to.

As a program it prints what a generator or an encoder makes in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from viewstore.cli.command import command
from viewstore.cli.terminal import Terminal
from viewstore.errors import ConfigError, ViewStoreError, counted
from viewstore.plugins import GROUPS, Check, Plugin, plugins

if TYPE_CHECKING:
    from viewstore.generators.conformance.world import SmallWorld
    from viewstore.generators.contract import Settings

HASH_SEED = "271"  # of the other process: sets of texts have another order there
SECONDS = 600


@command("conformance", example="viewstore conformance viewstore-example")
@click.argument("package")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="Hold the encoder that this function returns to its suite too; may be given many times.",
)
def conformance(terminal: Terminal, package: str, encoders: tuple[str, ...]) -> int:
    """Hold what an installed package adds to the suites that viewstore's own parts are held to.

    Exits 1 where something does not hold, and says what differed first. A generator must make
    the same views in any company, order and process, a codec must give back what it was given, a
    policy must draw online what is stored, a method or strategy must leave all as it was.
    """
    found = [each for kind in GROUPS for each in plugins(kind, package=package)]
    if not found and not encoders:
        raise _nothing(package)
    facts = [_fact(each.kind, each.name, check) for each in found for check in _checks_of(each)] + [
        _fact("encoder", name, check) for name in encoders for check in _encoder_checks(name)
    ]
    wrong = sum(fact["differs"] is not None for fact in facts)
    text = "\n".join(_line(fact) for fact in facts)
    version = f" {found[0].version}" if found else ""
    held = f"{package}{version}: {counted(len(facts), 'check')}, "
    text += f"\n{held}" + (f"{wrong} of them failed" if wrong else "all hold")
    terminal.result({"package": package, "checks": facts}, text, ok=not wrong)
    return int(bool(wrong))


def _nothing(package: str) -> ConfigError:
    names = sorted({each.package for kind in GROUPS for each in plugins(kind)})
    return ConfigError(
        f"no installed package {package} adds anything to viewstore",
        code="VS102",
        why=f"packages that do: {', '.join(names) or 'none'}",
        fix="install it, with entry points as docs/plugins.md shows them",
    )


def _fact(kind: str, name: str, check: Check) -> dict[str, Any]:
    """Return a check as facts: "differs" is what it found, None where it holds."""
    try:
        differs = check.run()
    except Exception as error:  # what is checked is of others: it may raise anything
        differs = f"it raises {type(error).__name__}: {error}"
    return {"kind": kind, "name": name, "check": check.name, "differs": differs, "why": check.why}


def _line(fact: Mapping[str, Any]) -> str:
    said = f"{fact['kind']} {fact['name']}: {fact['check']}"
    if fact["differs"] is None:
        return f"ok    {said}"
    return f"FAIL  {said}: {fact['differs']} (else {fact['why']})"


def _checks_of(plugin: Plugin) -> list[Check]:
    """Return what an entry point is held to; one that cannot be used is held to that alone."""
    usable = Check("it can be used", "nobody could use it", lambda: _unusable(plugin))
    if usable.run() is not None:
        return [usable]
    return [usable, *SUITES[plugin.kind](plugin.name)]


def _unusable(plugin: Plugin) -> str | None:
    """Return why the name of an entry point does not stand for it."""
    table = _tables()[plugin.kind]()
    if plugin.name in table.own:
        return f"{plugin.name} is a {plugin.kind} of viewstore's own, and stays that"
    try:
        row = table[plugin.name]
        if plugin.kind in ("generator", "codec"):
            row.load()
    except ViewStoreError as error:
        return str(error)
    return None


def _tables() -> Mapping[str, Callable[[], Any]]:
    """Return what imports the table of each kind."""

    def generators() -> Any:  # noqa: ANN401
        from viewstore.generators import GENERATORS

        return GENERATORS

    def codecs() -> Any:  # noqa: ANN401
        from viewstore.images.codec import CODECS

        return CODECS

    def methods() -> Any:  # noqa: ANN401
        from viewstore.train.methods.table import METHODS

        return METHODS

    def strategies() -> Any:  # noqa: ANN401
        from viewstore.train.strategies.table import STRATEGIES

        return STRATEGIES

    def policies() -> Any:  # noqa: ANN401
        from viewstore.images.policies import POLICIES

        return POLICIES

    return {
        "generator": generators,
        "codec": codecs,
        "method": methods,
        "strategy": strategies,
        "policy": policies,
    }


def _generator_checks(name: str) -> list[Check]:
    from viewstore.generators import make_settings
    from viewstore.generators.conformance.checks import generator_checks

    settings, world = _tried(name)
    return generator_checks(
        settings,
        world,
        read=lambda plan: make_settings(name, plan),
        elsewhere=lambda: _elsewhere("generator", name),
    )


def _tried(name: str) -> tuple[Settings, SmallWorld]:
    """Return the settings that a generator is tried with, and the world that it works on."""
    from viewstore.build.roles import load_models, networks, weights_of
    from viewstore.generators import make_settings, settings_class
    from viewstore.generators.conformance.world import small_world
    from viewstore.plugins import quick_settings

    settings = make_settings(name, quick_settings(settings_class(name)))
    needs = networks(settings.NEEDS)
    models = load_models(needs, {}, weights_of(needs, {}))
    return settings, small_world(settings, models)


def _encoder_checks(name: str) -> list[Check]:
    from viewstore.generators.conformance.encoders import encoder_checks

    return encoder_checks(name, lambda: _elsewhere("encoder", name))


def _codec_checks(name: str) -> list[Check]:
    from viewstore.images.conformance import codec_checks

    return codec_checks(name)


def _policy_checks(name: str) -> list[Check]:
    from viewstore.images.conformance import policy_checks

    return policy_checks(name)


def _method_checks(name: str) -> list[Check]:
    from viewstore.train.conformance.checks import method_checks

    return method_checks(name)


def _strategy_checks(name: str) -> list[Check]:
    from viewstore.train.conformance.checks import strategy_checks

    return strategy_checks(name)


SUITES: Mapping[str, Callable[[str], list[Check]]] = {
    "generator": _generator_checks,
    "codec": _codec_checks,
    "method": _method_checks,
    "strategy": _strategy_checks,
    "policy": _policy_checks,
}


def _elsewhere(kind: str, name: str) -> list[str]:
    """Return the digests of what a generator or an encoder makes in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "viewstore.cli.conformance", kind, name],
        env={**os.environ, "PYTHONHASHSEED": HASH_SEED, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise RuntimeError(f"it cannot be made in another process: {last}")
    found: list[str] = json.loads(done.stdout)
    return found


def _digests(kind: str, name: str) -> list[str]:
    if kind == "encoder":
        from viewstore.generators.checkpoints.function import made_encoder

        return [made_encoder(name).digest]
    from viewstore.generators.conformance.checks import digests

    return digests(*_tried(name))


if __name__ == "__main__":
    print(json.dumps(_digests(*sys.argv[1:])))
