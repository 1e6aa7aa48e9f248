"""A data module for Lightning: the threads of a ViewLoader, with its state in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from viewstore.errors import ConfigError, UnavailableError
from viewstore.loaders.adapters.recipe import Recipe
from viewstore.loaders.batches.store_views import StoreOrPath
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import AnyViews
from viewstore.loaders.settings import LoaderArguments, LoaderSettings

try:
    from lightning import LightningDataModule
except ImportError as error:
    raise UnavailableError(
        "ViewDataModule needs the package lightning", fix="pip install 'viewstore[lightning]'"
    ) from error


class ViewDataModule(LightningDataModule):
    """Hands a ViewLoader to a Trainer, for the trainer's rank.

    Use Trainer(use_distributed_sampler=False): the loader cuts every step over the ranks itself.
    A checkpoint holds the loader's state, in mid epoch too; it resumes on any number of ranks.
    """

    def __init__(
        self,
        store: StoreOrPath | Sequence[StoreOrPath],
        views: AnyViews,
        **settings: Unpack[LoaderArguments],
    ) -> None:
        """Take the arguments of ViewLoader but rank and world_size, which are the trainer's."""
        super().__init__()
        if "rank" in settings or "world_size" in settings:
            raise ConfigError("rank and world_size of a data module are those of its trainer")
        settings = {**settings, "rank": 0, "world_size": 1}
        self._recipe = Recipe(store, views, LoaderSettings(**settings))
        self._loader: ViewLoader | None = None
        self._state: dict[str, Any] | None = None

    def train_dataloader(self) -> ViewLoader:
        """Return the loader of the trainer's rank; it goes on where the last one stood."""
        state = self.state_dict()
        self._close()
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        self._loader = self._recipe.make(rank=rank, world_size=world)
        if state:
            self._loader.load_state_dict(state)
        return self._loader

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes after the last batch that was trained on."""
        return self._state or {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there in the next train_dataloader().

        Lightning restores a loader's own state only where a run was stopped in mid epoch.
        """
        self._state = state_dict

    def teardown(self, stage: str) -> None:
        """Join the threads of the loader; its state is kept."""
        self._state = self.state_dict()
        self._close()

    def _close(self) -> None:
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Return the batch on `device`."""
        return batch.to(device)
