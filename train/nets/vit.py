"""Vision transformers, ViT-Ti, ViT-S and ViT-B, with tokens of patches and drop path.

Source: arXiv:2010.11929; sizes and weights as in DINO (arXiv:2104.14294); masks as in iBOT
(arXiv:2111.07832). Tensors have the names of timm.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import ConfigError
from viewstore.train.nets.backbone import Backbone
from viewstore.train.nets.heads import draw_truncated

PATCH = 16
DEPTH = 12
HEAD_WIDTH = 64
PROBED_BLOCKS = 4
EPS = 1e-6  # of layer norms


class DropPath(nn.Module):
    """Leave out a residual branch of a sample at `rate`, in training. Source: arXiv:1603.09382."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep) / keep


class Attention(nn.Module):
    """Self-attention of all tokens, [N, T, F] to [N, T, F].

    Written out: the fused kernels of torch do not give the same gradients twice on a GPU.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) * HEAD_WIDTH**-0.5).softmax(3)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class PatchEmbed(nn.Module):
    """Patches as tokens: [N, C, H, W] to [N, F, H / patch, W / patch]."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class VisionTransformer(Backbone):
    """A vision transformer; its features are the class token behind the last layer norm.

    Attributes:
        patch: Side of a patch in pixels.
        mask_token: Stands for masked patches, [1, 1, F]; None until `add_mask_token`.
    """

    mask_token: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        size: int,
        patch: int | None,
        drop_path: float,
        depth: int = DEPTH,
    ) -> None:
        """Make one for images of `size` pixels; others have their positions interpolated.

        Drop path grows linearly from 0 to `drop_path` over the blocks.

        Raises:
            ConfigError: `size` is no multiple of `patch`.
        """
        super().__init__()
        self.width = width
        self.num_stages = depth + 1
        self.patch = patch or PATCH
        self._grid, _ = self.grid_of(size, size)
        rates = [drop_path * number / (depth - 1) for number in range(depth)]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self._grid**2, width))
        self.register_parameter("mask_token", None)
        self.patch_embed = PatchEmbed(in_channels, width, self.patch)
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=EPS)
        draw_truncated(self)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def add_mask_token(self) -> None:
        """Let `tokens` take masks: add the learned token, which starts at 0 as in iBOT."""
        self.mask_token = nn.Parameter(torch.zeros_like(self.cls_token))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x)[0]

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the class token [N, F] and the patch tokens [N, T, F], behind the last layer norm.

        `mask`: bool [N, T] or [N, H / patch, W / patch]; where it is true a patch is not seen.

        Raises:
            ConfigError: The sides of the images are no multiples of `patch`.
        """
        *_, last = self._outputs(x, mask)
        out = self.norm(last)
        return out[:, 0], out[:, 1:]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the number of rows and of columns of patches of images of these sides.

        Raises:
            ConfigError: The sides are no multiples of `patch`.
        """
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"the sides of images must be multiples of the patch of {self.patch} pixels, "
                f"got {height} x {width}",
                fix="set patch to a divisor of the size, or choose another size",
            )
        return height // self.patch, width // self.patch

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        return self._outputs(x, None)

    def probe_features(self, x: Tensor) -> Tensor:
        """Return the class tokens [N, 4 F] behind the last four blocks, each normed.

        Source: arXiv:2104.14294, appendix F.2.
        """
        last = list(self._outputs(x, None))[-PROBED_BLOCKS:]
        return torch.cat([self.norm(tokens[:, 0]) for tokens in last], dim=1)

    def _outputs(self, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """Yield the tokens [N, 1 + T, F] before the first block, and after each."""
        rows, columns = self.grid_of(*x.shape[2:])
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        if mask is not None:
            assert self.mask_token is not None, "masks need add_mask_token"
            tokens = torch.where(mask.flatten(1)[:, :, None], self.mask_token, tokens)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(rows, columns)
        yield tokens
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the positions [1, 1 + rows * columns, F], interpolated if the grid is another."""
        if (rows, columns) == (self._grid, self._grid):
            return self.pos_embed
        grid = self.pos_embed[0, 1:].view(self._grid, self._grid, -1)
        along = _bicubic(self._grid, rows, grid.device)
        across = _bicubic(self._grid, columns, grid.device)
        with torch.autocast(grid.device.type, enabled=False):
            found = torch.einsum("ri,cj,ijf->rcf", along, across, grid)
        return torch.cat([self.pos_embed[:, :1], found.flatten(0, 1)[None]], dim=1)


@lru_cache(maxsize=64)
def _bicubic(source: int, target: int, device: torch.device) -> Tensor:
    """Return the matrix [target, source] of bicubic interpolation along one axis.

    As a matrix, because the gradient of torch's interpolation is not the same twice on a GPU.
    """
    with torch.inference_mode(False):
        one_hot = torch.eye(source).view(1, source, source, 1)
        found = F.interpolate(one_hot, (target, 1), mode="bicubic", align_corners=False)
        return found[0, :, :, 0].T.contiguous().to(device)
