"""Makers of views: the table of their names, and the way from a name to settings.

A generator is one file, which holds its settings and what renders its views (see `contract`), and
one row here, or an entry point of an installed package. Nothing of it is imported before its name
is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from viewstore.errors import ConfigError, nearest
from viewstore.generators.value_types import check_types
from viewstore.plugins import Plugin, Table

if TYPE_CHECKING:
    from viewstore.generators.contract import Settings


class Row(NamedTuple):
    """What the name of a generator stands for.

    Attributes:
        module: Below this package; it is imported no sooner than the name is used.
        settings: The class of its settings there.
        makes: What its views are, in one line for people.
        defaults: Settings that differ from the defaults of the class.
        plugin: The entry point that stands for it, of an installed package; None: it is ours.
    """

    module: str
    settings: str
    makes: str
    defaults: Mapping[str, Any] = {}
    plugin: Plugin | None = None

    def load(self) -> type[Settings]:
        """Import and return the class of its settings. Raises UnavailableError: that fails."""
        kind: type[Settings]
        if self.plugin is None:
            module = importlib.import_module(f"viewstore.generators.{self.module}")
            kind = getattr(module, self.settings)
        else:
            kind = self.plugin.load_settings()
        return kind


def _of_plugin(plugin: Plugin) -> Row:
    module, _, settings = plugin.target.partition(":")
    return Row(module, settings, f"of the package {plugin.package} {plugin.version}", {}, plugin)


_OWN: Mapping[str, Row] = {
    "simclr": Row(
        "pixels.expert",
        "Expert",
        "crops with strong colour changes and blur, as in SimCLR",
        {"policy": "simclr"},
    ),
    "simsiam": Row(
        "pixels.expert",
        "Expert",
        "the same as moco, by the name of SimSiam",
        {"policy": "simsiam"},
    ),
    "moco": Row(
        "pixels.expert",
        "Expert",
        "crops with colour changes and blur, as in MoCo v2",
        {"policy": "moco"},
    ),
    "dino": Row(
        "pixels.expert",
        "Expert",
        "the two large crops of DINO, of two policies",
        {"policy": "dino", "views": 2},
    ),
    "dino-local": Row(
        "pixels.expert", "Expert", "the small local crops of DINO", {"policy": "dino-local"}
    ),
    "digits": Row(
        "pixels.expert",
        "Expert",
        "handwritten digits zoomed, shifted and turned, never flipped",
        {"policy": "digits"},
    ),
    "expert": Row(
        "pixels.expert",
        "Expert",
        "crops and colours of a policy by name, or of one's own (--policy FILE)",
    ),
    "heavy": Row(
        "pixels.heavy",
        "Heavy",
        "RandAugment as in DSSL, or another chain of operators, on the views of another set",
    ),
    "randaugment": Row(
        "pixels.heavy",
        "Heavy",
        "the standard RandAugment of the source images",
        {"chain": "randaugment", "derive": None},
    ),
    "uniformaugment": Row(
        "pixels.heavy",
        "Heavy",
        "UniformAugment of the source images",
        {"chain": "ua", "derive": None},
    ),
    "jigsaw": Row(
        "pixels.heavy",
        "Heavy",
        "the tiles of the source images in another order",
        {"chain": "jigsaw", "derive": None},
    ),
    "cutmix": Row(
        "pixels.cutmix",
        "CutMix",
        "the views of another set, each with a box of another image's view",
    ),
    "adversarial": Row(
        "scored.adversarial",
        "Adversarial",
        "the views of another set, moved within a budget to where a trained method loses more",
    ),
    "quality": Row(
        "scored.quality",
        "Quality",
        "how dark and flat pictures are, and hashes that find their like: columns, no pixels",
    ),
    "import": Row(
        "pixels.importing",
        "Import",
        "views that are there already: files in a folder or tar, and a table of params",
    ),
    "duplicates": Row(
        "scored.duplicates",
        "Duplicates",
        "which images are nearly the same as others: columns, no pixels",
    ),
    "embed": Row(
        "scored.embed",
        "Embed",
        "what an encoder says of views or images, features and classes: columns, no pixels",
    ),
    "hard": Row(
        "scored.hard",
        "Hard",
        "which views of each image a trained method finds hardest together: columns, no pixels",
    ),
    "selection": Row(
        "scored.selection",
        "Selection",
        "which views of each image a training chose, and by which losses: columns, no pixels",
    ),
    "viewmaker": Row(
        "learned.viewmaker",
        "ViewMaker",
        "images changed a little by a network that was trained against another",
    ),
    "stn": Row(
        "learned.stn",
        "Transformed",
        "global views cut where a network that was trained against another says",
        {"part": "global"},
    ),
    "stn-local": Row(
        "learned.stn", "Transformed", "the small local views of the same network", {"part": "local"}
    ),
    "recon": Row(
        "latent.inversion",
        "Inversion",
        "one GAN reconstruction of each image, which the next two start from",
    ),
    "w-search": Row(
        "latent.search",
        "WSearch",
        "GAN views at a set distance from their image, apart from each other",
    ),
    "w-perturb": Row(
        "latent.perturb", "WPerturb", "GAN views one random step from their image in latent space"
    ),
}
GENERATORS: Table[Row] = Table("generator", _OWN, _of_plugin)


def settings_class(name: str) -> type[Settings]:
    """Return the settings class of a generator. Raises ConfigError naming the nearest name."""
    check_generator_name(name)
    return GENERATORS[name].load()


def check_generator_name(name: str) -> None:
    """Raise ConfigError, which names the nearest, if there is no generator `name`."""
    if name not in GENERATORS:
        raise ConfigError(
            f"there is no generator {name!r}; {nearest(name, list(GENERATORS))}",
            code="VS102",
            where=f"--generator {name}",
            fix="give one of those that viewstore build --help-settings lists; a generator of "
            "yours is a package with an entry point: docs/plugins.md",
        )


def make_settings(name: str, values: Mapping[str, Any]) -> Settings:
    """Return the settings of generator `name` with `values` in place of its defaults.

    `values` are the user's, or the args of a stored plan; lists, of which JSON and TOML make
    sequences, become tuples.

    Raises:
        ConfigError: An unknown generator or setting (the nearest is named), or a bad value.
    """
    kind = settings_class(name)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"generator {name} has no setting {key!r}; {nearest(key, known)}", code="VS102"
            )
    merged = {**GENERATORS[name].defaults, **values}
    made = {key: _tuples(value) for key, value in merged.items()}
    check_types(name, kind, made)
    try:
        return kind(**made)
    except TypeError as error:
        raise ConfigError(f"settings of generator {name}: {error}") from error


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
