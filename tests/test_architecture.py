"""The rooms and who may import whom (docs/architecture.md); and what nobody may call."""

from __future__ import annotations

import re
import tomllib

from tests.graph import FOLDERS, REPO, arrows, circles, modules, room_of

GROUND = {"cores", "errors", "progress", "plugins"}
# What each room may import, besides the ground. A lazy import is an import.
VIEWSTORE = {
    "cores": "",
    "errors": "",
    "progress": "",
    "plugins": "",
    "randomness": "_draws",
    "format": "",
    "files": "format",
    "images": "format randomness",
    "beton": "format files images",
    "sources": "format files images beton",
    "store": "format files images sources",
    "costs": "format images store",
    "shards": "format files images store",
    "export": "format files images beton store costs",
    "inspect": "format files images randomness store",
    "serve": "format files store inspect",
    "build": "format files images sources store costs shards",
    "__init__": "store inspect",  # the names that users import, and how notebooks show them
}
VIEWSTORE |= {"cli": " ".join(VIEWSTORE), "__main__": "cli"}
# Each may import those before it.
LOADERS = (
    "pipeline",
    "plan",
    "read",
    "render",
    "batches",
    "values",
    "settings",
    "assemble",
    "loader",
    "speed",
    "adapters",
)
GENERATORS = {
    "contract": "",
    "pixels": "contract",
    "checkpoints": "stylegan2",
    "stylegan2": "",
    "gan": "checkpoints stylegan2",
    "numerics": "",
    "value_types": "",
    "latent": "checkpoints contract gan numerics pixels stylegan2",
    "scored": "contract numerics",
    "learned": "contract numerics scored",
    "conformance": "checkpoints contract pixels",
}
# Each may import those before it.
TRAIN = (
    "nets",
    "values",
    "settings",
    "distributed",
    "optimizers",
    "overlap",
    "views",
    "plan",
    "selection_file",
    "encoder_file",
    "encoder_export",
    "maker_file",
    "source_store",
    "methods",
    "strategies",
    "conformance",
    "eval",
    "loop",
    "scoring",
    "presets",
)
FROM_VIEWSTORE = {
    "generators": "randomness format files images store shards",
    "loaders": "randomness format files images sources store costs",
    "train": "randomness format files images sources store loaders",
}
COMPOSES = ("build", "cli")  # these see the other folders, inside functions
FORBIDDEN = ("allow_pickle=True", "shell=True", "pickle.load", "torch.load(", "eval(")


def allowed(room: str) -> set[str]:
    """Return the rooms that a room may import."""
    folder, _, inner = room.partition(".")
    if folder not in FROM_VIEWSTORE:
        return set(VIEWSTORE[room].split()) | GROUND
    rooms = set(FROM_VIEWSTORE[folder].split()) | GROUND
    if folder == "loaders":
        above = LOADERS[: LOADERS.index(inner)] if inner else LOADERS
        return rooms | {f"loaders.{each}" for each in above}
    if folder == "train":
        below = TRAIN[: TRAIN.index(inner)] if inner else TRAIN
        return rooms | {f"train.{each}" for each in below}
    if folder == "generators":
        inside = GENERATORS[inner].split() if inner else GENERATORS
        return rooms | {f"generators.{each}" for each in inside}
    return rooms


def test_every_arrow_is_one_of_the_plan() -> None:
    wrong = []
    for arrow in arrows(modules()):
        source, target = room_of(arrow.source), room_of(arrow.target)
        folder, aim = source.partition(".")[0], target.partition(".")[0]
        if source == target:
            continue
        if folder in COMPOSES and aim in FOLDERS:
            if not arrow.inside:
                wrong.append(f"{arrow.source} imports {arrow.target} outside of functions")
        elif aim == "loaders" and folder == "train":
            continue
        elif target not in allowed(source):
            wrong.append(f"{arrow.source} imports {arrow.target}")
    assert wrong == []


def test_no_modules_and_no_rooms_import_each_other_in_a_circle() -> None:
    found = arrows(modules())
    assert circles((arrow.source, arrow.target) for arrow in found) == []
    rooms = {(room_of(arrow.source), room_of(arrow.target)) for arrow in found}
    assert circles((source, target) for source, target in rooms if source != target) == []


def test_a_circle_would_be_found() -> None:
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]
    assert circles([("a", "b"), ("a", "c"), ("b", "c")]) == []


def test_every_room_has_a_door_and_is_in_the_wheel() -> None:
    """A folder with modules is a package that says what it is, and pyproject.toml lists it."""
    listed = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = modules()
    packages = sorted(name for name, path in found.items() if path.name == "__init__.py")
    assert packages == sorted(listed)
    folders = {path.parent for path in found.values()}
    assert folders == {found[name].parent for name in packages}
    for name in packages:
        assert found[name].read_text().startswith('"""'), name


def test_nothing_executes_what_it_reads() -> None:
    for module, path in modules().items():
        code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
        for word in FORBIDDEN:
            pattern = r"(?<![\w.])" + re.escape(word)
            assert not re.search(pattern, code), f"{module} uses {word}"
