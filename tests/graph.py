"""The graph of imports, computed from the syntax trees: modules, rooms, arrows, and circles."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPO = Path(__file__).parents[1]
FOLDERS = ("viewstore", "generators", "loaders", "train")
Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True)
class Arrow:
    """One module imports another; `inside` a function, or for type checkers alone."""

    source: str
    target: str
    inside: bool


def modules() -> dict[str, Path]:
    """Return every module by the name it is imported by, stubs of compiled ones included."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((REPO / folder).rglob("*.py*")):
            if path.suffix not in (".py", ".pyi"):
                continue
            parts = path.relative_to(REPO).with_suffix("").parts
            parts = parts if folder == "viewstore" else ("viewstore", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module: "format", "loaders.plan"; one that stands alone is a room."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    depth = 2 if parts[0] in FOLDERS else 1
    return ".".join(parts[:depth])


def arrows(known: dict[str, Path]) -> list[Arrow]:
    """Return every import of one of the `known` modules by another."""
    found = []
    for module, path in known.items():
        for names, inside in _imports(ast.parse(path.read_text())):
            for name in names:
                target = next((each for each in name if each in known), None)
                if target is not None and target != module:
                    found.append(Arrow(module, target, inside))
    return found


def _imports(tree: ast.Module) -> Iterator[tuple[list[tuple[str, ...]], bool]]:
    """Yield what each import may mean, the likeliest first, and whether it is not at the top."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[list[tuple[str, ...]], bool]]:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [(f"{node.module}.{each.name}", node.module) for each in node.names]
            yield list(names), inside
        elif isinstance(node, ast.Import):
            yield [(each.name,) for each in node.names], inside
        checked = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or function or checked)

    return walk(tree, False)


def circles(pairs: Iterable[tuple[Node, Node]]) -> list[list[Node]]:
    """Return the groups of nodes that reach each other (Tarjan), each of more than one."""
    following: dict[Node, list[Node]] = {}
    for source, target in pairs:
        following.setdefault(source, []).append(target)
        following.setdefault(target, [])
    number: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    path: list[Node] = []
    found: list[list[Node]] = []

    def visit(node: Node) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for target in following[node]:
            if target not in number:
                visit(target)
            if target in path:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == number[node]:
            begin = path.index(node)
            if len(path) - begin > 1:
                found.append(sorted(path[begin:], key=str))
            del path[begin:]

    for node in following:
        if node not in number:
            visit(node)
    return found
