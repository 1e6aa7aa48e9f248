"""SimCLR on several processes: the same batches, and so the same losses, on any number of them.

viewstore build --generator digits --view-set near --views 4 --limit 512 --out views
torchrun --standalone --nproc-per-node 2 examples/ddp.py views
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from viewstore.loaders import ViewLoader

EPOCHS = 4


def everywhere(z: Tensor) -> Tensor:
    """Return the rows of all ranks, [2, W * B, D] of [2, B, D]; gradients reach those of z."""
    parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[dist.get_rank()] = z
    return torch.cat(parts, 1)


def main(store: str) -> None:
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(8, outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64))
    model = DistributedDataParallel(network.to(device), [device] if cuda else None)
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    # batch_size is over all ranks; the loader finds its rank and the number of them.
    with ViewLoader(store, "near,near", batch_size=64, seed=0, device=device) as loader:
        for epoch in range(EPOCHS):
            for batch in loader:
                z = F.normalize(model(torch.cat(batch.normalised())), dim=1)
                z = everywhere(z.view(2, len(batch), -1)).flatten(0, 1)
                itself = torch.eye(len(z), dtype=torch.bool, device=device)
                logits = (z @ z.T / 0.5).masked_fill(itself, -torch.inf)
                partner = torch.arange(len(z), device=device).roll(len(z) // 2)
                loss = F.cross_entropy(logits, partner)
                optimizer.zero_grad()
                # A rank has the gradients of its own rows; DDP takes the mean, the sum is wanted.
                (loss * dist.get_world_size()).backward()
                optimizer.step()
                if dist.get_rank() == 0:
                    print(f"epoch {epoch} step {batch.step} loss {loss.item():.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
