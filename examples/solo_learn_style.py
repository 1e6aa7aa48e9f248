"""A method written for solo-learn: a batch is (indexes, [X1, X2, ...], targets).

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
python examples/solo_learn_style.py views
"""

import sys

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.loaders import Batch
from viewstore.loaders.adapters.lightning import ViewDataModule

EPOCHS = 4
SoloBatch = tuple[Tensor, list[Tensor], Tensor]


class SoloLearnData(ViewDataModule):
    """Hands over tuples: pixels reach the device as uint8 and become floats there."""

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> SoloBatch:
        return batch.index, batch.normalised(), batch.label


class Method(lightning.LightningModule):
    """SimCLR on any number of crops, with a classifier that trains on detached features."""

    def __init__(self, num_crops: int, num_classes: int, temperature: float = 0.5) -> None:
        super().__init__()
        self.num_crops, self.temperature = num_crops, temperature
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projector = nn.Linear(128, 64)
        self.classifier = nn.Linear(128, num_classes)

    def training_step(self, batch: SoloBatch, batch_idx: int) -> Tensor:
        indexes, X, targets = batch
        assert len(X) == self.num_crops
        feats = torch.cat([self.backbone(x) for x in X])
        nce_loss = self.contrast(self.projector(feats), indexes.repeat(self.num_crops))
        logits = self.classifier(feats.detach())
        targets = targets.repeat(self.num_crops)  # -1 where a sample has no label
        class_loss = F.cross_entropy(logits, targets, ignore_index=-1)
        losses = f"nce {nce_loss.item():.6f} class {class_loss.item():.6f}"
        print(f"epoch {self.current_epoch} step {batch_idx} {losses}")
        return nce_loss + class_loss

    def contrast(self, z: Tensor, indexes: Tensor) -> Tensor:
        """Rows of one index are positives; each is weighed against all other rows."""
        z = F.normalize(z, dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        positive = (indexes[:, None] == indexes) & ~itself
        return -logits.log_softmax(1)[positive].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def main(store: str, views: str = "near,near") -> None:
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    method = Method(num_crops=len(views.split(",")), num_classes=10)
    trainer.fit(method, datamodule=SoloLearnData(store, views, batch_size=64, seed=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
