"""A loop written for lightly: a batch is (views, targets, filenames), views a list of tensors.

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
python examples/lightly_style.py views
"""

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import viewstore
from viewstore.loaders import ViewLoader

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPOCHS = 4


class LightlyBatches:
    """An epoch of a loader in lightly's form; `filenames` are the keys of the samples."""

    def __init__(self, loader: ViewLoader, filenames: list[str]) -> None:
        self.loader, self.filenames = loader, filenames

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor, list[str]]]:
        for batch in self.loader:
            names = [self.filenames[row] for row in batch.index.tolist()]
            yield batch.normalised(), batch.label, names


class NTXentLoss(nn.Module):
    """Stands where `from lightly.loss import NTXentLoss` would, and is called as that is."""

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        z = F.normalize(torch.cat([out0, out1]), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(out0)))


def train(dataloader: LightlyBatches, criterion: nn.Module) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64))
    model.to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(EPOCHS):
        for step, (views, _targets, _filenames) in enumerate(dataloader):
            x0, x1 = (view.to(DEVICE) for view in views)
            loss = criterion(model(x0), model(x1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {epoch} step {step} loss {loss.item():.6f}")


def main(path: str) -> None:
    store = viewstore.open(path)
    with ViewLoader(store, "near,near", batch_size=64, seed=0, device=DEVICE) as loader:
        train(LightlyBatches(loader, list(store.keys)), NTXentLoss())


if __name__ == "__main__":
    main(*sys.argv[1:])
