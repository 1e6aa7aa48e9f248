"""The folder with the small files of a store in a bucket, where no bucket answers."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from viewstore.errors import ConfigError, RemoteError
from viewstore.files import working_copy
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import WorkingCopy, store_at
from viewstore.format.manifest import BlobRecord

BLOBS = 200


class Gone(Bucket):
    """A bucket whose requests fail: the first at once, the others after a while."""

    asked = itertools.count()

    def get(
        self, name: str, limit: int, is_whole: Callable[[bytes], bool] = lambda data: True
    ) -> bytes:
        if next(self.asked):
            time.sleep(0.5)
        raise RemoteError("the bucket did not answer")


def test_a_bucket_that_does_not_answer_is_not_asked_for_every_blob(tmp_path: Path) -> None:
    root = tmp_path / "views" / "simclr"
    blobs = [
        BlobRecord(role="params", name=f"{number:06d}-{0:016x}.params", bytes=1, sha256="0" * 64)
        for number in range(BLOBS)
    ]
    with pytest.raises(RemoteError):
        WorkingCopy(tmp_path, Gone("s3://gone/views")).fetch_blobs(root, blobs)
    assert next(Gone.asked) < BLOBS


@pytest.mark.parametrize("is_locked", [False, True], ids=["before it was locked", "then"])
def test_the_copy_of_a_process_that_was_killed_goes(
    is_locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{working_copy.PREFIX}left"
    left.mkdir()
    if is_locked:
        (left / working_copy.LOCK).touch()
    os.utime(left, (0, 0))
    with pytest.raises(ConfigError), store_at("s3:///no-bucket"):
        pass
    assert not left.exists()
