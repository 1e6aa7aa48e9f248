"""What is installed is what the repository holds, and nothing of the user's can take its place."""

import subprocess
import sys
import zipfile
from pathlib import Path

from viewstore import randomness
from viewstore.images import resize

REPO = Path(__file__).parents[1]
FOLDERS = {"viewstore": "viewstore"} | {
    name: f"viewstore/{name}" for name in ("generators", "loaders", "train")
}


def test_wheel_holds_every_file(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(REPO)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in packed if name.endswith(".so")}
    assert len(compiled) == sum(each is not None for each in (resize.compiled, randomness.compiled))
    in_repo = {
        f"{target}/{path.relative_to(REPO / folder)}"
        for folder, target in FOLDERS.items()
        for path in (REPO / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".c", ".so")
    }
    assert packed - compiled == in_repo


def test_user_files_cannot_shadow_ours(tmp_path: Path) -> None:
    for name in ("generators", "loaders", "train"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('shadowed')")
    names = "viewstore.generators, viewstore.loaders, viewstore.train"
    subprocess.run([sys.executable, "-c", f"import {names}"], check=True, cwd=tmp_path)
