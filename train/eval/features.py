"""Images as a probe sees them: rows of a source, rendered by the threads of a loader.

`features_of` gives the features of the evaluation transform, in the order of the rows; what trains
on images takes its batches from `open_loader`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.images.policies import ViewPolicy
from viewstore.loaders.loader import ViewLoader
from viewstore.loaders.plan.asked import Online
from viewstore.progress import Progress, Silent, tracked
from viewstore.sources.table import SourceTable
from viewstore.train.encoder_file import Encoder
from viewstore.train.eval.samples import Floats, Labels, Rows, Samples, check_labels
from viewstore.train.source_store import store_of_source

BATCH_PIXELS = 1 << 22  # of a batch whose features are computed: bounds the memory of activations
MOST_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled rows of a source.

    Attributes:
        table: The source; that of a store is its `source_table`.
        rows: Rows of it, int64 [N], ascending.

    Raises:
        ConfigError: There are no rows, they do not ascend, or one has no label.
    """

    table: SourceTable
    rows: Rows

    def __post_init__(self) -> None:
        if (np.diff(self.rows) <= 0).any():
            raise ConfigError("rows of images must ascend")
        check_labels(self.labels)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Labels:
        """The label of each row, int64 [N]."""
        return np.asarray(self.table.label, np.int64)[self.rows]

    def take(self, chosen: NDArray[Any]) -> Images:
        """Return the rows where a mask [N] is true, or those of these ascending numbers."""
        return replace(self, rows=self.rows[chosen])


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where and how a probe works.

    Attributes:
        device: Torch device of the networks.
        threads: Threads that render images; None takes the CPUs that the process may use.
        progress: Shows how far it is.
    """

    device: str = "cpu"
    threads: int | None = None
    progress: Progress = field(default_factory=Silent)


def open_loader(
    table: SourceTable,
    rows: Rows,
    policy: ViewPolicy,
    work: Work,
    *,
    size: int,
    batch_size: int,
    shuffle: bool = False,
    drop: bool = False,
    seed: int = 0,
) -> ViewLoader:
    """Return a loader of one view of each image, `size` pixels wide and high; close it after use.

    Args:
        table: The source.
        rows: Rows of it, ascending.
        policy: Draws and renders the view; Pillow's bilinear filter resizes unless it has its own.
        work: Has the threads.
        size: Side of the views.
        batch_size: Images of a batch.
        shuffle: Whether their order is drawn anew in each epoch.
        drop: Whether to drop a short last batch, as batch norms in training mode need.
        seed: Of order and draws.
    """
    return ViewLoader(
        store_of_source(table),
        [Online(policy, size=size, filter="pil")],
        batch_size=batch_size,
        rows=rows,
        shuffle="global" if shuffle else "none",
        tail="drop" if drop else "keep",
        seed=seed,
        rank=0,  # each rank of a distributed run probes alone
        world_size=1,
        num_threads=work.threads,
    )


def as_input(pixels: Tensor, device: str) -> Tensor:
    """Return the input of an encoder, float32 in [0, 1] on a device, of uint8 [B, 3, H, W]."""
    return pixels.to(device, non_blocking=True).float() / 255


def last_features(encoder: Encoder, x: Tensor) -> Tensor:
    """Return the features [B, F] of the last layer: what neighbours are found with."""
    return encoder.features(x)


def probe_features(encoder: Encoder, x: Tensor) -> Tensor:
    """Return the features [B, F] of linear probes: of a ViT, [CLS] of its last four blocks."""
    return encoder.probe_features(x)


def features_of(
    encoder: Encoder,
    images: Images,
    policy: ViewPolicy,
    work: Work,
    *,
    for_knn: bool = False,
) -> Samples:
    """Return the features of images, float32, in the order of their rows, and their labels.

    Args:
        encoder: Frozen, in evaluation mode.
        images: The images.
        policy: What is done to them, as `EvalTransform.policy`.
        work: Device, threads and progress.
        for_knn: Whether to take the last layer's features instead of those of linear probes.

    Raises:
        FormatError: An image cannot be read.
    """
    read = last_features if for_knn else probe_features
    features = unlabelled_features(encoder, images.table, images.rows, policy, work, read=read)
    return Samples(features, images.labels)


def unlabelled_features(
    encoder: Encoder,
    table: SourceTable,
    rows: Rows,
    policy: ViewPolicy,
    work: Work,
    *,
    read: Callable[[Encoder, Tensor], Tensor] = last_features,
) -> Floats:
    """Return features [N, F] of rows of a source, in their order, as `features_of`."""
    size = encoder.size
    ascending, places = np.unique(rows, return_inverse=True)
    at_once = max(1, min(MOST_AT_ONCE, BATCH_PIXELS // size**2))
    found: Floats | None = None
    begin = 0
    with (
        open_loader(table, ascending, policy, work, size=size, batch_size=at_once) as loader,
        tracked(work.progress, "features", len(ascending), "images") as progress,
        torch.inference_mode(),
    ):
        for batch in loader:
            features = read(encoder, as_input(batch.views[0].pixels, work.device)).float().cpu()
            if found is None:
                found = np.empty((len(ascending), features.shape[1]), np.float32)
            found[begin : begin + len(features)] = features.numpy()
            begin += len(features)
            progress.advance(len(features))
    assert found is not None, "there is a row"
    return found if np.array_equal(rows, ascending) else found[places]
