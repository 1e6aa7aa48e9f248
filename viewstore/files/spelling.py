"""The one spelling of a path that is recorded, however a user gives it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def absolute_path(path: str | Path) -> Path:
    """Return a path as it is recorded: absolute, nothing in it doubled, no "." and no "..".

    Links are not resolved, since machines that share a file system may lead to it by other ones.
    So `..` behind a link stays, and a relative path begins with the working folder as the shell
    has it in PWD.
    """
    absolute = Path(path)
    if not absolute.is_absolute():
        absolute = _working_folder() / absolute
    found = Path(absolute.anchor)
    for name in absolute.parts[1:]:
        leads_back = name == ".." and found.name != ".."
        if leads_back and found.is_dir() and not found.is_symlink():
            found = found.parent
        else:
            found /= name
    return found


def _working_folder() -> Path:
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if Path(named).is_absolute() and Path(named).samefile("."):
            return Path(named)
    return Path.cwd()
