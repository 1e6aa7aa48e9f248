"""Decoders and encoders of torch.export with hostile bytes: our errors, little memory, nothing run.

What the reader of such files refuses by name is in tests/generators/checkpoints/test_exported.py.
"""

from __future__ import annotations

import contextlib
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generators.pairs import write_pair
from tests.hostile.fuzzing import CPU_SECONDS, MEMORY_BYTES, altered_records, mutated
from viewstore.build.roles import load_model
from viewstore.errors import CheckpointError, ViewStoreError

SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=["gan", "inverter"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    role: str = request.param
    return write_pair(tmp_path_factory.mktemp(role))[role].rename(
        tmp_path_factory.mktemp("files") / role
    )


def check(path: Path) -> None:
    """Read a file as what its name says, and use what was read."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ViewStoreError):
        module = load_model(path.name, path)
        if path.name == "gan":
            module.synthesis(torch.zeros(3, module.num_codes, module.w_dim))
        else:
            module(torch.zeros(3, 1, 16, 16))
    assert time.process_time() - began < CPU_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_BYTES >> 10


def test_the_valid_file_is_read(pair: Path) -> None:
    assert load_model(pair.name, pair).takes[0] is None


@SETTINGS
@given(data=st.data())
def test_damage_anywhere_is_our_error_or_none(pair: Path, data: st.DataObject) -> None:
    damaged = pair.parent / "damaged" / pair.name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(data.draw(mutated([pair.read_bytes()])))
    check(damaged)


@SETTINGS
@given(data=st.data())
def test_records_that_say_something_else_are_our_error_or_none(
    pair: Path, data: st.DataObject
) -> None:
    changed = with_record(pair, "model.json", lambda record: data.draw(altered_records([record])))
    check(changed)


def test_an_op_that_is_no_function_of_tensors_is_refused(pair: Path) -> None:
    last = b"conv_transpose2d.input" if pair.name == "gan" else b"conv2d.default"
    for op in (b"save.default", b"from_file.default", b"normal_.default", b"rand.default"):
        hostile = with_record(pair, "model.json", lambda record, op=op: record.replace(last, op))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match=f"aten.{op.decode()} is not known"):
            load_model(pair.name, hostile)


def with_record(pair: Path, ending: str, change: Callable[[bytes], bytes]) -> Path:
    """Write a copy of a file in which a record is another one; return it."""
    altered = pair.parent / "altered" / pair.name
    altered.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(pair) as archive, zipfile.ZipFile(altered, "w") as copy:
        for name in archive.namelist():
            data = archive.read(name)
            copy.writestr(name, change(data) if name.endswith(ending) else data)
    return altered
