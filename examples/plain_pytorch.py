"""SimCLR in plain PyTorch: run it again after it was stopped anywhere, and it goes on.

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
python examples/plain_pytorch.py views run.pt
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.loaders import ViewLoader


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64))


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Equation 1 of arXiv:2002.05709: each row against its partner and all other rows."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(first)))


def main(store: str, checkpoint: Path, epochs: int = 4) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    with ViewLoader(store, "near,near", batch_size=64, seed=0, device=device) as loader:
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            loader.load_state_dict(saved["loader"])
        while loader.epoch < epochs:
            for batch in loader:  # what is left of this epoch
                first, second = batch.normalised()  # float32 [B, 3, H, W]
                loss = nt_xent(model(first), model(second))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(f"epoch {batch.epoch} step {batch.step} loss {loss.item():.6f}")
                if batch.step % 5 == 4:
                    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    torch.save({**saved, "loader": batch.state}, f"{checkpoint}.part")
                    Path(f"{checkpoint}.part").replace(checkpoint)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
