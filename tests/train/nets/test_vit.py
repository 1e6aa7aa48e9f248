"""Vision transformers: tokens, positions for other sizes, masks and drop path."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from viewstore.errors import ConfigError
from viewstore.train.nets.backbone import stage
from viewstore.train.nets.domains import quiet_statistics
from viewstore.train.nets.network import NetworkSettings, seeded_network
from viewstore.train.nets.vit import Attention, DropPath, VisionTransformer, _bicubic


def make(*, size: int = 32, patch: int = 8, drop_path: float = 0.0) -> VisionTransformer:
    settings = NetworkSettings(backbone="vit-ti", projector=(8,), patch=patch, drop_path=drop_path)
    backbone = seeded_network(settings, 0, size=size).backbone
    assert isinstance(backbone, VisionTransformer)
    return backbone


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_tokens_have_the_shapes_of_the_grid_and_the_class_token_is_the_feature() -> None:
    backbone = make().eval()
    for size, count in ((32, 16), (16, 4), (40, 25)):
        token, patches = backbone.tokens(images(size))
        assert (token.shape, patches.shape) == ((2, 192), (2, count, 192))
        assert torch.equal(backbone(images(size)), token)
    assert backbone.tokens(torch.zeros(1, 3, 16, 32))[1].shape == (1, 8, 192)


def test_a_probe_reads_the_class_tokens_of_the_last_four_blocks() -> None:
    backbone = make().eval()
    found = backbone.probe_features(images())
    assert found.shape == (2, 4 * 192)
    assert torch.equal(found[:, -192:], backbone(images()))
    for place, k in enumerate((9, 10, 11, 12)):
        token = stage(backbone, images(), k).view(2, 17, 192)[:, 0]
        torch.testing.assert_close(found[:, place * 192 :][:, :192], backbone.norm(token))


def test_the_first_stage_is_the_embedding_and_no_block_runs_for_it() -> None:
    backbone = make().eval()
    backbone.blocks[0].register_forward_hook(lambda *_: pytest.fail("a block ran"))
    found = stage(backbone, images(), 0).view(2, 17, 192)
    assert torch.equal(
        found[:, 0], (backbone.cls_token + backbone.pos_embed[:, :1])[:, 0].expand(2, -1)
    )
    x = images()[:, :, 8:16, 16:24].reshape(2, -1)  # row 1, column 2 of the patches
    wanted = F.linear(
        x, backbone.patch_embed.proj.weight.flatten(1), backbone.patch_embed.proj.bias
    )
    torch.testing.assert_close(found[:, 1 + 4 + 2], wanted + backbone.pos_embed[:, 1 + 4 + 2])


@torch.no_grad()
def test_attention_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    attention = Attention(128).double()
    x = torch.randn(1, 5, 128, dtype=torch.float64)
    q, k, v = (
        x[0] @ w.T + b
        for w, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    heads = []
    for head in range(2):
        part = slice(64 * head, 64 * (head + 1))
        rows = []
        for i in range(5):
            scores = [float(q[i, part] @ k[j, part]) / math.sqrt(64) for j in range(5)]
            total = sum(map(math.exp, scores))
            rows.append(sum(math.exp(s) / total * v[j, part] for j, s in enumerate(scores)))
        heads.append(torch.stack(rows))
    wanted = torch.cat(heads, dim=1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x)[0], wanted)


@pytest.mark.parametrize(("source", "target"), [(14, 6), (4, 5), (8, 8), (1, 3)])
def test_positions_are_interpolated_as_torch_does(source: int, target: int) -> None:
    grid = torch.rand(1, 3, source, source, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(grid, (target, 7), mode="bicubic", align_corners=False)
    along = _bicubic(source, target, grid.device)
    across = _bicubic(source, 7, grid.device)
    torch.testing.assert_close(along @ grid @ across.T, wanted, atol=1e-5, rtol=1e-5)


def test_positions_learn_from_images_of_another_size_even_behind_inference() -> None:
    backbone = make()
    with torch.inference_mode():
        backbone(images(24))
    backbone(images(24))[:, 0].sum().backward()  # the norm behind it fixes the sum of all
    assert backbone.pos_embed.grad is not None
    assert (backbone.pos_embed.grad.abs().sum(2) > 0).all()


def test_a_masked_patch_is_not_seen_and_its_token_learns() -> None:
    backbone = make().eval()
    assert "mask_token" not in backbone.state_dict()
    backbone.add_mask_token()
    assert "mask_token" in backbone.state_dict()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    changed = images()
    changed[0, :, 8:16, 16:24] = 0
    for found, same in zip(
        backbone.tokens(images(), mask), backbone.tokens(changed, mask), strict=True
    ):
        assert torch.equal(found, same)
    assert torch.equal(
        backbone.tokens(images(), mask.flatten(1))[0], backbone.tokens(images(), mask)[0]
    )
    plain, masked = backbone(images()), backbone.tokens(images(), mask)[0]
    assert torch.equal(plain[1], masked[1])
    assert not torch.allclose(plain[0], masked[0])
    none = torch.zeros_like(mask)
    assert torch.equal(backbone.tokens(images(), none)[0], plain)
    assert backbone.mask_token is not None
    masked[0].square().sum().backward()
    assert backbone.mask_token.grad is not None
    assert backbone.mask_token.grad.abs().sum() > 0


def test_drop_path_leaves_branches_of_samples_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    found = drop(torch.ones(4000, 2, 3))
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(found, found[:, :1, :1].expand_as(found))
    assert abs(found.mean().item() - 1) < 0.05
    assert torch.equal(drop.eval()(found), found)


def test_rates_grow_over_the_blocks_and_quiet_forwards_move_no_generator() -> None:
    backbone = make(drop_path=0.22).train()
    rates = [block.drop_path.rate for block in backbone.blocks]
    assert rates == pytest.approx([0.02 * number for number in range(12)])
    before = torch.get_rng_state()
    with quiet_statistics(backbone):
        quiet = backbone(images())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(backbone(images()), quiet)
    assert not torch.equal(torch.get_rng_state(), before)


def test_autocast_keeps_positions_exact() -> None:
    backbone = make().eval()
    exact = backbone._positions(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone._positions(3, 3), exact)


def test_sides_that_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of the patch of 16 pixels, got 28 x 28"):
        make(size=28, patch=16)
    with pytest.raises(ConfigError, match="multiples of the patch of 8 pixels, got 32 x 20"):
        make()(torch.zeros(1, 3, 32, 20))
