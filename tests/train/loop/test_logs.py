"""Logs of a run: what each kind writes, and what is refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from viewstore.errors import ConfigError, FormatError, UnavailableError
from viewstore.train.loop.logs import COLUMNS, log_kinds, open_logs

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def written(folder: Path, kinds: tuple[str, ...], *, after: int, until: int) -> None:
    logs = open_logs(kinds, folder, step=after)
    for step in range(after + 1, until + 1):
        logs.scalars(step, {"loss": step / 4, "epoch": step // 2})
    logs.scalars(until, {"knn": 0.5})
    logs.picture(until, "batch", PICTURE)
    logs.close()


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_has_the_numbers_and_the_picture(tmp_path: Path) -> None:
    written(tmp_path, ("tensorboard",), after=0, until=3)
    found = events(tmp_path)
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [
        (1, 0.25),
        (2, 0.5),
        (3, 0.75),
    ]
    assert [(each.step, each.value) for each in found.Scalars("knn")] == [(3, 0.5)]
    (image,) = found.Images("batch")
    decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert np.array_equal(decoded, PICTURE)


def test_tensorboard_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, ("tensorboard",), after=0, until=5)
    written(tmp_path, ("tensorboard",), after=3, until=4)
    steps = [each.step for each in events(tmp_path).Scalars("loss")]
    assert steps == [1, 2, 3, 4]


def test_the_table_has_its_columns_alone(tmp_path: Path) -> None:
    written(tmp_path, ("csv",), after=0, until=3)
    written(tmp_path, ("csv",), after=2, until=3)
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.split(",") == ["step", *COLUMNS]
    empty = "," * (len(COLUMNS) - 2)
    assert rows == [f"1,0,0.25{empty}", f"2,1,0.5{empty}", f"3,1,0.75{empty}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


class Wandb:
    """Takes down what a run of W&B is told."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **options: Any) -> Wandb:  # noqa: ANN401
        self.opened.append(options)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_goes_on_with_the_run_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=wandb.init, Image=np.copy))
    written(tmp_path, ("wandb",), after=0, until=1)
    written(tmp_path, ("wandb",), after=0, until=1)
    first, second = wandb.opened
    assert first == second
    assert (len(first["id"]), first["resume"], first["name"]) == (32, "allow", tmp_path.name)
    loss, knn, picture = wandb.logged[:3]
    assert (loss, knn) == ({"loss": 0.25, "epoch": 0, "step": 1}, {"knn": 0.5, "step": 1})
    assert np.array_equal(picture["batch"], PICTURE)
    assert wandb.finished == 2
    (tmp_path / "wandb.id").write_text("../other")
    with pytest.raises(FormatError, match="this is no id of a run"):
        open_logs(["wandb"], tmp_path, step=0)


def test_kinds_are_named_in_a_list() -> None:
    assert log_kinds("csv, tensorboard,csv") == ("csv", "tensorboard")
    assert log_kinds("") == ()
    with pytest.raises(ConfigError, match="there is no log 'tensorbord'; did you mean 'tensorb"):
        log_kinds("csv,tensorbord")
    with pytest.raises(ConfigError, match="there is no log 'tb'; did you mean 'tensorboard'"):
        log_kinds("tb")


@pytest.mark.parametrize(
    ("kind", "fix"),
    [("tensorboard", r"pip install 'viewstore\[logs\]'"), ("wandb", "pip install wandb")],
)
def test_a_missing_package_is_named(kind: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=f"--log {kind} needs the package {kind}") as caught:
        log_kinds(kind)
    assert caught.value.fix == fix.replace("\\", "")
