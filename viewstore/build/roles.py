"""The roles that files have in generators: one table, with the file and the loader of each.

A generator names the roles it needs (`Settings.NEEDS`). Files that a user names, networks and what
a training logged, have options of the command line, which are made from this table; the others lie
in the folder of a view set. Importing this module loads neither numpy nor torch.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewstore.errors import CheckpointError, ConfigError, UnavailableError
from viewstore.progress import Progress, Silent

if TYPE_CHECKING:
    from viewstore.format.plan import Plan, Weights
    from viewstore.generators.checkpoints.function import Made
    from viewstore.generators.contract import Settings
    from viewstore.generators.gan.file import StoredGenerator


FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def open_generator(path: Path, progress: Progress) -> StoredGenerator:
    """Open a StyleGAN2 file; notes say its licence and what its reader saw.

    Raises:
        CheckpointError: The file is not one.
        ConfigError: It is a module of torch.export.
    """
    from viewstore.generators.checkpoints.exported import is_module
    from viewstore.generators.gan.file import read_generator

    if path.is_file() and is_module(path):
        raise ConfigError(
            f"{path.name} is a module of torch.export, not a StyleGAN2 network",
            code="VS103",
            where=str(path),
            why="this command trains, samples or writes a StyleGAN2",
            fix="viewstore build takes it: --gan with the decoder, --inverter with its encoder",
        )
    opened = read_generator(path)
    for line in filter(None, (*opened.notes, opened.origin.licence_note)):
        progress.note(f"{path.name}: {line}")
    return opened


def _load_gan(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.generators.checkpoints.exported import is_module
    from viewstore.generators.latent.pair import read_decoder

    return read_decoder(path) if is_module(path) else open_generator(path, progress).network


def _load_encoder(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.generators.checkpoints.exported import is_archive, read_exported
    from viewstore.train.encoder_file import load_encoder

    return read_exported(path) if is_archive(path) else load_encoder(path)


def _load_inverter(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.generators.checkpoints.exported import is_archive
    from viewstore.generators.gan.inverter import load_inverter
    from viewstore.generators.latent.pair import read_encoder

    return read_encoder(path) if is_archive(path) else load_inverter(path)


def _load_scorer(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.train.scoring.load import load_scorer

    return load_scorer(path)


def _load_selection(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.train.selection_file import load_selections

    return load_selections(path)


def _load_viewmaker(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.train.maker_file import load_maker

    return load_maker(path, "viewmaker")


def _load_stn(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.train.maker_file import load_maker

    return load_maker(path, "stn")


def _load_listing(path: Path, progress: Progress) -> Any:  # noqa: ANN401
    from viewstore.build.listing import load_listing

    return load_listing(path)


def _make_encoder(name: str) -> Made:
    from viewstore.generators.checkpoints.function import made_encoder

    return made_encoder(name)


@dataclass(frozen=True, slots=True)
class Role:
    """How a file of one role is named, found and loaded.

    Attributes:
        help: Of its option on the command line, which is `--` and the name of the role; None if
            no user names it: it lies in the folder of the view set.
        packaged: File of the weights for the digits that the package ships, if it ships any.
        load: Returns what is in a file, such as a frozen network. Raises CheckpointError.
        network: Whether that is a network: what works with it needs torch.
        fits: Role whose packaged file the packaged one was made for: a user's own file of that
            role has none.
        also: Role whose files do for this one where a generator takes none of that role itself.
        make: Returns the network that "module:function" makes, which may be named in place of a
            file; None if none may.
    """

    help: str | None
    packaged: str | None
    load: Callable[[Path, Progress], Any]
    network: bool = True
    fits: str | None = None
    also: str | None = None
    make: Callable[[str], Made] | None = None


ROLES: Mapping[str, Role] = {
    "gan": Role(
        "Take the StyleGAN2 generator in this file, or a decoder, a .pt2 of torch.export.  "
        "[default: the packaged one for digits]",
        "digits-gan.safetensors",
        _load_gan,
    ),
    "encoder": Role(
        "Take the encoder in this file, of viewstore train or a .pt2 of torch.export; or that "
        "which MODULE:FUNCTION of yours returns.  [default: the packaged one for digits]",
        "digits-encoder.safetensors",
        _load_encoder,
        make=_make_encoder,
    ),
    "inverter": Role(
        "Take the inverter in this file, or the encoder of a decoder, a .pt2 of torch.export.  "
        "[default: the packaged one, if --gan is too]",
        "digits-inverter.safetensors",
        _load_inverter,
        fits="gan",
    ),
    "scorer": Role(
        "Let the run in this file score views: its checkpoint.safetensors, or an encoder, which "
        "scores as SimCLR does.",
        None,
        _load_scorer,
        also="encoder",
    ),
    "selection": Role(
        "Take the choices in this file, an epoch of a run's folder selection.",
        None,
        _load_selection,
        network=False,
    ),
    "viewmaker": Role(
        "Take the ViewMaker in this file, viewmaker.safetensors in the folder of a run.",
        None,
        _load_viewmaker,
    ),
    "stn": Role(
        "Take the spatial transformer in this file, stn.safetensors in the folder of a run.",
        None,
        _load_stn,
    ),
    "listing": Role(None, None, _load_listing, network=False),
}
NAMED: Mapping[str, Role] = {name: role for name, role in ROLES.items() if role.help}
NETWORKS: Mapping[str, Role] = {name: role for name, role in NAMED.items() if role.network}
# Files, or functions, that a user names, by role; the others are packaged.
WeightFiles = Mapping[str, Path]


def named(needs: Collection[str]) -> tuple[str, ...]:
    """Return the roles among `needs` whose files a user may name."""
    return tuple(role for role in needs if role in NAMED)


def networks(needs: Collection[str]) -> tuple[str, ...]:
    """Return the roles among `needs` that are networks: what works with them needs torch."""
    return tuple(role for role in needs if role in NETWORKS)


def taken_files(needs: Collection[str], files: WeightFiles) -> WeightFiles:
    """Return files by the roles in which a generator with these needs takes them."""
    taken = dict(files)
    for role in needs:
        also = ROLES[role].also
        if also is not None and also in files and also not in needs and role not in files:
            taken[role] = taken.pop(also)
    return taken


def files_needed(needs: Collection[str], files: WeightFiles) -> WeightFiles:
    """Return those of the files that a generator with these needs takes, by its roles."""
    return {role: file for role, file in taken_files(needs, files).items() if role in needs}


def needed_roles(settings: Settings) -> set[str]:
    """Return the roles of networks of a generator, and of what is built first for it."""
    from viewstore.generators import make_settings

    needs = set(settings.NEEDS)
    for wanted in settings.inputs().values():
        if wanted.settings is not None:
            needs |= needed_roles(make_settings(wanted.view_set, wanted.settings))
    return needs


def packaged_weights(role: str) -> Path:
    """Return the path of the digits weights that the package ships for the role of a network."""
    packaged = ROLES[role].packaged
    assert packaged is not None, f"the package ships no {role}"
    return Path(str(importlib.resources.files("viewstore"))) / "weights" / packaged


def weight_file(role: str, files: WeightFiles) -> Path | None:
    """Return the file of a role, or None if neither the user nor the package has one."""
    if role in files:
        return files[role]
    known = ROLES[role]
    return None if known.packaged is None or known.fits in files else packaged_weights(role)


def packaged_roles(needs: Sequence[str], files: WeightFiles) -> frozenset[str]:
    """Return the roles among `needs` for which the package's own weights are taken."""
    return frozenset(
        role for role in needs if role not in files and weight_file(role, files) is not None
    )


def check_unneeded(generator: str, needs: Collection[str], files: WeightFiles) -> None:
    """Raise ConfigError if a file of a role is given that no build of this generator reads."""
    for role in needs:
        also = ROLES[role].also
        if role in files and also in files and also not in needs:
            raise ConfigError(
                f"--{role} and --{also} are both given: {generator} scores by one file",
                fix="leave one of them out",
            )
    files = taken_files(needs, files)
    unneeded = [f"--{role}" for role in files if role not in needs]
    if unneeded:
        raise ConfigError(
            f"{' and '.join(unneeded)} cannot be given: {generator} takes no such network",
            fix="leave it out, or choose another --generator",
        )


def no_file(role: str, path: Path) -> ConfigError:
    """Return the error for a file of weights that is not there."""
    fix = f"check --{role}"
    if path.is_dir():
        fix = f"name a file in it, such as {path / 'checkpoint.safetensors'}"
    return ConfigError(f"there is no {role} file at {path}", where=f"--{role} {path}", fix=fix)


def other_weights(plan: Plan, role: str, where: str) -> CheckpointError:
    """Return the error for weights of a role, at `where`, that are not those of a plan."""
    name = next((each.name for each in plan.weights if each.role == role), "FILE")
    return CheckpointError(
        f"the {role} is not the one that {plan.view_set} was planned with",
        where=where,
        why="its sha256 differs from the plan's",
        fix=f"give that of the first build: --{role} {name}",
    )


def function_named(role: str, path: Path) -> str | None:
    """Return "module:function" if that is what stands in place of the file of a role."""
    name = str(path)
    is_name = ROLES[role].make is not None and FUNCTION.fullmatch(name) and not path.is_file()
    return name if is_name else None


def load_model(role: str, path: Path, progress: Progress | None = None) -> Any:  # noqa: ANN401
    """Load the frozen network of a role; its licence and its reader's remarks are notes.

    Raises:
        ConfigError: There is no such file.
        CheckpointError: The file is no network of this role.
        UnavailableError: A package that it needs is missing.
    """
    function = function_named(role, path)
    if function is not None:
        return _made(role, function)
    if not path.is_file():
        raise no_file(role, path)
    try:
        return ROLES[role].load(path, progress or Silent())
    except ImportError as error:
        raise UnavailableError(f"{role} needs a package that is missing: {error}") from error


def _made(role: str, function: str) -> Made:
    make = ROLES[role].make
    assert make is not None, f"{role} is made by no function"
    return make(function)


def load_models(
    needs: Sequence[str],
    files: WeightFiles,
    found: Sequence[Weights],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load the networks that a generator needs; return them by role.

    A role without a file, the user's or a packaged one, is left out. `found` is what `weights_of`
    said of the files before: only what they still hold afterwards was loaded.

    Raises:
        ConfigError, UnavailableError: As `load_model`.
        CheckpointError: As `load_model`; or a file was changed meanwhile.
    """
    taken = taken_files(needs, files)
    paths = {role: weight_file(role, taken) for role in needs}
    models = {
        role: load_model(role, path, progress) for role, path in paths.items() if path is not None
    }
    before = {each.role: each.sha256 for each in found}
    for weights in weights_of(needs, files):
        if weights.sha256 != before.get(weights.role):
            raise CheckpointError(
                f"the {weights.role} was changed while it was loaded",
                where=str(paths[weights.role]),
                why="its sha256 is not that of a moment ago, so which one was loaded is unknown",
                fix="run the same command again when the file stays as it is",
            )
    return models


def weights_of(needs: Sequence[str], files: WeightFiles) -> list[Weights]:
    """Return what a plan records of the files of some roles. Raises ConfigError: one is missing."""
    from viewstore.format.plan import Weights

    files = taken_files(needs, files)
    weights = []
    for role in needs:
        path = weight_file(role, files)
        if path is None:
            continue
        function = function_named(role, path)
        if function is not None:
            made = _made(role, function)
            weights.append(
                Weights(role=role, name=function, bytes=made.num_bytes, sha256=made.digest)
            )
            continue
        if not path.is_file():
            raise no_file(role, path)
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        weights.append(Weights(role=role, name=path.name, bytes=len(data), sha256=sha256))
    return weights
