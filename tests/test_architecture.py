"""The folders are the architecture: who may import whom, and what nobody may call."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[1]
MAY_IMPORT = {
    "viewstore": (),
    "generators": ("viewstore.generators",),
    "loaders": ("viewstore.loaders",),
    "train": ("viewstore.train", "viewstore.loaders"),
}
FOLDERS = ("viewstore.generators", "viewstore.loaders", "viewstore.train")
COMPOSES = re.compile(r"(cli(_\w+)?|compose|building|repair)\.py")
FORBIDDEN = ("allow_pickle=True", "shell=True", "pickle.load", "torch.load(", "eval(")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules a file imports, and whether that is inside a function."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, inside))
        elif isinstance(node, ast.Import):
            found.extend((name.name, inside) for name in node.names)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            walk(child, inside or function or typing_only)

    walk(ast.parse(path.read_text()), False)
    return found


def test_imports_follow_the_arrows() -> None:
    for folder, allowed in MAY_IMPORT.items():
        for path in (REPO / folder).glob("*.py"):
            for module, inside in imports(path):
                if not module.startswith(FOLDERS) or module.startswith(allowed or ("-",)):
                    continue
                here = f"{folder}/{path.name} imports {module}"
                assert folder == "viewstore", here
                assert COMPOSES.fullmatch(path.name), here
                assert inside, here


def test_nothing_executes_what_it_reads() -> None:
    for folder in MAY_IMPORT:
        for path in (REPO / folder).glob("*.py"):
            code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
            for word in FORBIDDEN:
                pattern = r"(?<![\w.])" + re.escape(word)
                assert not re.search(pattern, code), f"{folder}/{path.name} uses {word}"
