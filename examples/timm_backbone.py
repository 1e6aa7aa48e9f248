"""SimCLR on a backbone of timm, with the mean and deviation that its weights were trained with.

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
python examples/timm_backbone.py views --model resnet18
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import nn

from viewstore.loaders import ViewLoader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--img-size", type=int, help="for models of one size, as vit_*")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.5)
    asked = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = timm.create_model(
        asked.model, pretrained=asked.pretrained, num_classes=0, img_size=asked.img_size
    )
    mean, std = backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
    model = nn.Sequential(backbone, nn.Linear(backbone.num_features, 64)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with ViewLoader(asked.store, "near,near", batch_size=64, seed=0, device=device) as loader:
        for epoch in range(asked.epochs):
            for batch in loader:
                x = torch.cat(batch.normalised(mean=mean, std=std))
                z = F.normalize(model(x), dim=1)
                itself = torch.eye(len(z), dtype=torch.bool, device=device)
                logits = (z @ z.T / asked.temperature).masked_fill(itself, -torch.inf)
                partner = torch.arange(len(z), device=device).roll(len(batch))
                loss = F.cross_entropy(logits, partner)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                print(f"epoch {epoch} step {batch.step} loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
