"""SETR-PUP and UNETR against PyTorch: the same weights, the same numbers."""

import itertools

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp
from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import nn

from unimedi_jax.models import setr, unetr

GENERATOR = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("patch", "channels"), [((16, 16), (12, 10, 8, 6)), ((8, 8), (10, 8, 6))])
def test_setr_equals_torch(patch, channels):
    tokens, width = jnp.asarray(draw(2, 6, 5)), 5
    model = setr.SetrPup(2, (2, 3), patch, channels=(12, 10, 8, 6))
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    stages, before = [], width
    for i, c in enumerate(channels):
        conv, norm = nn.Conv2d(before, c, 3, padding=1), nn.BatchNorm2d(c)
        params = variables["params"]
        with torch.no_grad():
            conv.weight.copy_(torch.tensor(np.array(params[f"conv{i}"]["kernel"])).permute(3, 2, 0, 1))
            conv.bias.zero_()
        stages += [conv, norm, nn.ReLU(), nn.UpsamplingBilinear2d(scale_factor=2)]  # align_corners=True
        before = c
    last = nn.Conv2d(before, 2, 3, padding=1)
    with torch.no_grad():
        last.weight.copy_(torch.tensor(np.array(params["logits"]["kernel"])).permute(3, 2, 0, 1))
        last.bias.zero_()
    judge = nn.Sequential(*stages, last)
    project = torch.tensor(np.array(params["project"]["kernel"]))
    x = (torch.tensor(np.array(tokens)) @ project).reshape(2, 2, 3, width).permute(0, 3, 1, 2)
    expected = judge(x).detach().permute(0, 2, 3, 1).numpy()
    train = jax.jit(lambda *x: model.apply(*x, train=True, mutable=["batch_stats"]))
    actual, updated = train(variables, tokens)
    assert actual.shape == (2, 2 * patch[0], 3 * patch[1], 2)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    for i, norm in enumerate(judge[1::4]):
        if isinstance(norm, nn.BatchNorm2d):
            mean = updated["batch_stats"][f"norm{i}"]["mean"]
            np.testing.assert_allclose(mean, norm.running_mean.numpy(), atol=1e-5)
            # torch's running variance is the unbiased one, flax's is not: taken over for the comparison below.
            norm.running_var.copy_(torch.tensor(np.array(updated["batch_stats"][f"norm{i}"]["var"])))
    expected = judge.eval()(x).detach().permute(0, 2, 3, 1).numpy()
    actual = jax.jit(model.apply)({**variables, **updated}, tokens)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 7)])
def test_doubling_aligns_corners(size):
    x = draw(1, *size, 3)
    expected = nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(setr.double(jnp.asarray(x)), expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_strides_multiply_to_the_patch():
    assert unetr.strides((4, 16, 16)) == [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    for patch in itertools.product((1, 2, 8, 16, 32), repeat=2):
        assert np.prod(unetr.strides((4, *patch)), axis=0).tolist() == [4, *patch]
    with pytest.raises(ValueError, match="powers"):
        unetr.strides((4, 12, 16))


def _conv(module, kernel) -> None:
    """A flax kernel, Dense or Conv, into a torch convolution without bias."""
    kernel = torch.tensor(np.array(kernel))
    kernel = kernel.reshape((1,) * (5 - kernel.ndim) + tuple(kernel.shape)) if kernel.ndim == 2 else kernel
    with torch.no_grad():
        module.conv.weight.copy_(kernel.permute(4, 3, 0, 1, 2))


def _residual(block, params) -> None:
    for name in ("conv1", "conv2", "conv3"):
        if name in params:
            _conv(getattr(block, name), params[name]["kernel"])


def _up(module, params, stride) -> None:
    kernel = torch.tensor(np.array(params["kernel"]["kernel"]))
    kernel = kernel.reshape(kernel.shape[0], *stride, -1)
    with torch.no_grad():
        module.conv.weight.copy_(kernel.permute(0, 4, 1, 2, 3))


@pytest.mark.parametrize("patch", [(16, 16, 16), (4, 16, 16)])
def test_unetr_equals_monais_blocks(patch):
    """MONAI's decoder block by block; the blocks take any stride, its UNETR class always doubles."""
    grid, width, f = (1, 2, 1), 6, 2
    volume = draw(1, *(g * p for g, p in zip(grid, patch, strict=True)))
    hidden, tokens = [draw(1, 2, width) for _ in range(3)], draw(1, 2, width)
    model = unetr.Unetr(3, grid, patch, features=f)
    variables = jax.jit(model.init)(jax.random.key(0), volume, hidden, tokens)
    params, steps = variables["params"], unetr.strides(patch)

    def spatial(x):
        return torch.tensor(x).reshape(1, *grid, width).permute(0, 4, 1, 2, 3)

    norm = dict(norm_name="instance", res_block=True)
    first = UnetrBasicBlock(3, 1, f, 3, 1, **norm)
    _residual(first.layer, params["encoder1"])
    skips = [first(torch.tensor(volume)[:, None])]
    for number, (state, ups) in enumerate(zip(hidden, (3, 2, 1), strict=True), start=2):
        c, mine = f * 2 ** (number - 1), params[f"encoder{number}"]
        block = UnetrPrUpBlock(3, width, c, ups - 1, 3, 1, upsample_kernel_size=2, conv_block=True, **norm)
        block.transp_conv_init = _transposed(width, c, steps[0])
        _up(block.transp_conv_init, mine["up0"], steps[0])
        for i, stage in enumerate(block.blocks, start=1):
            stage[0] = _transposed(c, c, steps[i])
            _up(stage[0], mine[f"up{i}"], steps[i])
            _residual(stage[1], mine[f"block{i}"])
        skips.append(block(spatial(state)))
    x = spatial(tokens)
    for number, step in zip((5, 4, 3, 2), steps, strict=True):
        skip = skips[number - 2]
        block = UnetrUpBlock(3, x.shape[1], skip.shape[1], 3, upsample_kernel_size=step, **norm)
        _up(block.transp_conv, params[f"decoder{number}_up"], step)
        _residual(block.conv_block, params[f"decoder{number}"])
        x = block(x, skip)
    kernel, bias = (torch.tensor(np.array(params["logits"][name])) for name in ("kernel", "bias"))
    expected = x.permute(0, 2, 3, 4, 1) @ kernel + bias
    actual = jax.jit(model.apply)(variables, volume, hidden, tokens)
    assert actual.shape == (*volume.shape, 3)
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=2e-4)


def _transposed(before: int, after: int, stride):
    module = nn.Module()
    module.conv = nn.ConvTranspose3d(before, after, stride, stride, bias=False)
    module.forward = module.conv.forward
    return module


def test_normalised_states_have_neither_scale_nor_shift():
    """Of each channel: those of a trained encoder differ by orders of magnitude."""
    grid, patch, width = (2, 2, 2), (4, 4, 4), 6
    volume, hidden, tokens = draw(1, 8, 8, 8), [draw(1, 8, width) for _ in range(3)], draw(1, 8, width)
    scale, shift = np.logspace(0, 2, width, dtype=np.float32), np.arange(width, dtype=np.float32)
    model = unetr.Unetr(3, grid, patch, features=2, norm=True)
    variables = jax.jit(model.init)(jax.random.key(0), volume, hidden, tokens)
    apply = jax.jit(model.apply)
    expected = apply(variables, volume, hidden, tokens)
    scaled = apply(variables, volume, [scale * state + shift for state in hidden], scale * tokens + shift)
    np.testing.assert_allclose(scaled, expected, atol=1e-3)
    raw = jax.jit(unetr.Unetr(3, grid, patch, features=2).apply)(variables, volume, hidden, tokens)
    assert np.abs(raw - expected).max() > 0.1
