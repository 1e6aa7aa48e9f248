"""A real Lightning trainer: what it trains on, and where it goes on from a checkpoint."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import viewstore
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.loaders import Cached, Online, ViewLoader
from viewstore.store.store import Store

lightning = pytest.importorskip("lightning", reason="needs the extra lightning")
torch = pytest.importorskip("torch")

# What lightning itself warns of, under the versions it meets here.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:lightning")

VIEWS = [Cached("hard"), Online("digits"), Online("crop", on=0)]
SETTINGS: dict[str, Any] = {"batch_size": 12, "seed": 3, "num_threads": 1}
STEPS = 5


class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Notes every batch it is given; learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Any, ...]] = []

    def training_step(self, batch: Any, number: int) -> Any:  # noqa: ANN401
        pixels = tuple(view.pixels.numpy().tobytes() for view in batch.views)
        self.seen.append((batch.epoch, batch.step, tuple(batch.index.tolist()), *pixels))
        return (self.weight - 1) ** 2

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, **changes: Any) -> Any:  # noqa: ANN401
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"max_epochs": 3, "enable_checkpointing": False, **changes},
    )


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    """Trainer and data module hold each other: their loader ends when they are collected."""
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("viewstore-loader"):
            thread.join(timeout=20)
            assert not thread.is_alive()


@pytest.fixture
def module(digits: Store) -> Any:  # noqa: ANN401
    from viewstore.loaders.adapters.lightning import ViewDataModule

    return lambda: ViewDataModule(digits, VIEWS, **SETTINGS)


@pytest.fixture(scope="module")
def expected(digits: Store) -> list[tuple[Any, ...]]:
    """What a loop over the loader would see in three epochs."""
    model = Model()
    with ViewLoader(digits, VIEWS, **SETTINGS) as loader:
        for _ in range(3):
            for batch in loader:
                model.training_step(batch, 0)
    return model.seen


def test_a_trainer_sees_the_batches_of_the_loader(
    tmp_path: Path,
    module: Any,  # noqa: ANN401
    expected: list[Any],
) -> None:
    model = Model()
    trainer(tmp_path).fit(model, datamodule=module())
    assert model.seen == expected


class SaveAt(lightning.Callback):  # type: ignore[misc, name-defined]
    """Saves a checkpoint after a number of steps, and stops there as if the job was killed."""

    def __init__(self, stop: int, path: Path) -> None:
        self.stop, self.path = stop, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # noqa: ANN401
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.path)
            raise TimeoutError


@pytest.mark.parametrize("stop", [1, 4, 5, 8])
def test_a_checkpoint_of_a_killed_run_resumes_at_the_next_batch(
    tmp_path: Path,
    module: Any,  # noqa: ANN401
    expected: list[Any],
    stop: int,
) -> None:
    model, path = Model(), tmp_path / "stop.ckpt"
    with pytest.raises(TimeoutError):
        trainer(tmp_path, callbacks=[SaveAt(stop, path)]).fit(model, datamodule=module())
    assert model.seen == expected[:stop]
    resumed = Model()
    trainer(tmp_path).fit(resumed, datamodule=module(), ckpt_path=path, weights_only=True)
    assert resumed.seen == expected[stop:]


def test_joined_columns_reach_a_trainer(tmp_path: Path, copy: Store) -> None:
    from viewstore.loaders.adapters.lightning import ViewDataModule

    request = {"generator": "quality", "out": copy.root, "settings": {"of": "hard"}, "workers": 1}
    build(BuildRequest(**request))  # type: ignore[arg-type]
    store = viewstore.open(copy.root)
    stored = store.view_sets["quality"].params["luma_mean"]
    joined: list[bool] = []

    class Joined(Model):
        def training_step(self, batch: Any, number: int) -> Any:  # noqa: ANN401
            view = batch.views[0]
            wanted = stored[batch.index.numpy(), view.view.numpy()]
            joined.append(view.params["quality.luma_mean"].numpy().tobytes() == wanted.tobytes())
            return super().training_step(batch, number)

    views = [Cached("hard", params=("quality.luma_mean",))]
    module = ViewDataModule(store, views, **SETTINGS)
    trainer(tmp_path, max_epochs=1).fit(Joined(), datamodule=module)
    assert joined == [True] * STEPS


def test_a_checkpoint_after_the_last_step_of_a_run_resumes_at_the_next_batch(
    tmp_path: Path,
    module: Any,  # noqa: ANN401
    expected: list[Any],
) -> None:
    """Lightning takes the stopped epoch for a whole one, so that two are left of its three."""
    first = trainer(tmp_path, max_steps=2)
    first.fit(Model(), datamodule=module())
    first.save_checkpoint(tmp_path / "stop.ckpt")
    resumed = Model()
    trainer(tmp_path).fit(
        resumed, datamodule=module(), ckpt_path=tmp_path / "stop.ckpt", weights_only=True
    )
    assert resumed.seen == expected[2:10]


def test_loaders_that_are_made_anew_every_epoch_go_on(
    tmp_path: Path,
    module: Any,  # noqa: ANN401
    expected: list[Any],
) -> None:
    model = Model()
    trainer(tmp_path, reload_dataloaders_every_n_epochs=1).fit(model, datamodule=module())
    assert model.seen == expected


def test_the_rank_is_the_trainers(module: Any, digits: Store) -> None:  # noqa: ANN401
    from viewstore.loaders.adapters.lightning import ViewDataModule

    data = module()
    data.trainer = type("Trainer", (), {"global_rank": 2, "world_size": 3})()
    assert [len(batch) for batch in data.train_dataloader()] == [4] * STEPS
    data.teardown("fit")
    with pytest.raises(ConfigError, match="rank and world_size of a data module are those of its"):
        ViewDataModule(digits, VIEWS, **SETTINGS, rank=0)
