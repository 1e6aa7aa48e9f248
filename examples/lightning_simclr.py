"""SimCLR with Lightning: a checkpoint holds the loader's place, in the middle of an epoch too.

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
python examples/lightning_simclr.py views run
"""

import sys
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from viewstore.loaders import Batch
from viewstore.loaders.adapters.lightning import ViewDataModule

EPOCHS = 4


class SimCLR(lightning.LightningModule):
    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projector = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        first, second = batch.normalised()  # float32 [B, 3, H, W], on the device
        z = [self.projector(self.backbone(x)) for x in (first, second)]
        z = F.normalize(torch.cat(z), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        partner = torch.arange(len(z), device=z.device).roll(len(batch))
        loss = F.cross_entropy(logits, partner)
        print(f"epoch {batch.epoch} step {batch.step} loss {loss.item():.6f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def main(store: str, folder: str) -> None:
    lightning.seed_everything(0, verbose=False)
    data = ViewDataModule(store, "near,near", batch_size=64, seed=0)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        use_distributed_sampler=False,  # the loader cuts every step over the ranks itself
        callbacks=[ModelCheckpoint(folder, save_last=True, every_n_train_steps=5)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = Path(folder) / "last.ckpt"
    trainer.fit(
        SimCLR(), datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
