"""Files made to harm whoever opens them, or cut and flipped ones: refused, unexecuted."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.generators.network_files import (
    Module,
    ada_file,
    dump,
    network,
    rosinality_checkpoint,
    snapshot,
    tensorflow_file,
    torch_file,
)
from tests.hostile.hostile_files import (
    Touch,
)
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.read import read_checkpoint

REPO = Path(__file__).parents[2]
ORIGINALS = ("pickle", "protocol 2", "tensorflow", "tensorflow protocol 2", "zip", "legacy")


@pytest.mark.parametrize("name", ["os_system", "no_g_ema", "empty"])
def test_fixtures_are_refused(gan_fixtures: Path, name: str) -> None:
    reasons = {
        "os_system": "global posix.system is not allowed",
        "no_g_ema": "the pickle holds G, but no G_ema",
        "empty": "it is neither a torch file nor a pickle of protocol 2 or newer",
    }
    with pytest.raises(CheckpointError, match=reasons[name]):
        read_checkpoint(gan_fixtures / "hostile" / f"{name}.pkl")


def test_ordinary_unpickling_would_have_executed_what_the_reader_refuses(tmp_path: Path) -> None:
    """The control of this module: without it the tests could pass on harmless files."""
    called, embedded = tmp_path / "called", tmp_path / "embedded"
    source = f"from pathlib import Path; Path({str(embedded)!r}).touch()"
    files = {
        called: (Touch(called), r"global (_io|io)\.open is not allowed"),
        embedded: (Module("Generator", module_src=source), "G_ema has the parts none"),
    }
    code = (
        "import pickle, sys\n"
        f"sys.path.insert(0, {str(REPO)!r})\n"
        "from tests.generators.network_files import foreign_modules\n"
        "with foreign_modules(): pickle.load(open(sys.argv[1], 'rb'))"
    )
    for marker, (value, reason) in files.items():
        path = tmp_path / "control.pkl"
        path.write_bytes(dump(snapshot(value)))
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)
        assert not marker.exists()
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)
        assert marker.exists()


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    checkpoint = rosinality_checkpoint(network())
    return {
        "pickle": ada_file(),
        "protocol 2": ada_file(2),
        "tensorflow": tensorflow_file(),
        "tensorflow protocol 2": tensorflow_file(2),
        "zip": torch_file(checkpoint),
        "legacy": torch_file(checkpoint, legacy=True),
    }


def outcome(path: Path, data: bytes) -> bool:
    """Tell whether `data` is read; an error that is not a CheckpointError fails the test."""
    path.write_bytes(data)
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("name", ORIGINALS)
def test_truncated_files_are_refused(
    tmp_path: Path, originals: dict[str, bytes], name: str
) -> None:
    data = originals[name]
    assert outcome(tmp_path / "whole", data)
    lengths = np.random.default_rng(1).integers(0, len(data), 46).tolist()
    for length in [1, 2, len(data) - 2, len(data) - 1, *lengths]:
        assert not outcome(tmp_path / "cut", data[:length]), length


@pytest.mark.parametrize("name", ORIGINALS)
def test_flipped_bytes_raise_nothing_else(
    tmp_path: Path, originals: dict[str, bytes], name: str
) -> None:
    draw = random.Random(2)
    refused = 0
    for _ in range(500 if name in ("pickle", "tensorflow") else 150):
        data = bytearray(originals[name])
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        refused += not outcome(tmp_path / "flipped", bytes(data))
    assert refused > 20
