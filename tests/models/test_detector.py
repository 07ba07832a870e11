"""The detector against PyTorch on copied weights, and its boxes and loss against one another."""

import jax
import numpy as np
import pytest
import torch
from jax import numpy as jnp
from torch import nn
from torch.nn import functional

from tests.tolerances import float32
from unimedi_jax.evaluation import yolo
from unimedi_jax.models import detector

GRID = (7, 5)  # odd: the coarse map has a last row of its own
WIDTHS = (6, 4, 2)


@pytest.fixture(scope="module")
def subject():
    model = detector.Detector(GRID, WIDTHS)
    tokens = jax.random.normal(jax.random.key(1), (2, 35, 8))
    return model, jax.jit(model.init)(jax.random.key(0), tokens), tokens


def _block(params, x):
    kernel = torch.tensor(np.array(params["conv"]["kernel"])).permute(3, 2, 0, 1)
    norm = nn.BatchNorm2d(len(kernel))
    return nn.LeakyReLU(0.1)(norm(functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)))


def _dense(params, x):
    kernel, bias = (torch.tensor(np.array(params[name])) for name in ("kernel", "bias"))
    return functional.conv2d(x, kernel.T[:, :, None, None], bias)


def test_equals_torch(subject):
    model, variables, tokens = subject
    params = variables["params"]
    x = torch.tensor(np.array(tokens)).reshape(2, *GRID, 8).permute(0, 3, 1, 2)
    up = torch.tensor(np.array(params["up"]["kernel"])).flip(0, 1)  # flax does not turn the kernel round
    maps = [
        functional.max_pool2d(_dense(params["pool"], x), 2, ceil_mode=True),
        _dense(params["same"], x),
        functional.conv_transpose2d(x, up.permute(2, 3, 0, 1), torch.tensor(np.array(params["up"]["bias"])), stride=2),
    ]
    above, expected = None, []
    for scale, part in enumerate(maps):
        if above is not None:
            above = functional.interpolate(_block(params[f"lateral{scale}"], above), scale_factor=2)
            part = torch.cat([above[:, :, : part.shape[2], : part.shape[3]], part], dim=1)
        for number in range(6):
            part = _block(params[f"block{scale}_{number}"], part)
            above = part if number == 4 else above
        actual = _dense(params[f"answer{scale}"], part)
        expected.append(actual.permute(0, 2, 3, 1).reshape(2, *part.shape[2:], 3, 6).detach().numpy())
    actual, _ = jax.jit(lambda *x: model.apply(*x, train=True, mutable=["batch_stats"]))(variables, tokens)
    assert [x.shape[1:3] for x in actual] == [(4, 3), (7, 5), (14, 10)]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_answers_that_the_loss_wants_are_the_boxes():
    """Descending the loss alone brings out the true boxes: targets and decoding mean the same."""
    boxes = jnp.array([[[0.3, 0.4, 0.2, 0.3], [0.8, 0.9, 0.1, 0.05], [0, 0, 0, 0]]])
    real = jnp.array([[True, True, False]])
    answers = [jnp.zeros((1, *shape, 3, 6)) for shape in ((4, 3), (7, 5), (14, 10))]

    @jax.jit
    def step(answers, _):
        grads = jax.grad(yolo.loss)(answers, boxes, real, GRID)
        # The mean over a map makes single cells' gradients small: its size is given back.
        return jax.tree.map(lambda x, g: x - 0.1 * x[..., 0].size * g, answers, grads), None

    answers, _ = jax.lax.scan(step, answers, None, length=600)
    actual = detector.decode(answers, GRID)
    sure = np.asarray(actual.objectness[0] > 0)
    assert sure.sum() == 2 * 3  # one anchor of each scale
    distance = np.abs(np.asarray(actual.place[0])[sure][:, None] - np.asarray(boxes[0, :2])).max(axis=-1)
    assert sorted(distance.argmin(axis=1).tolist()) == [0, 0, 0, 1, 1, 1]
    assert distance.min(axis=1).max() < 0.01


def test_loss_is_that_of_its_formula():
    """One box in one cell of the middle scale, written out."""
    x = np.zeros((1, 7, 5, 3, 6), np.float32)
    box = np.array([0.5, 0.5, *detector.anchors(1)[1]], np.float32)  # exactly an anchor: no size to learn
    padded = jnp.asarray(np.stack([box, np.zeros(4, np.float32)]))[None]
    actual = jax.jit(lambda *x: yolo._of_scale(*x, 1, GRID))(x, padded, np.array([[True, False]]))
    cells, half = 7 * 5 * 3, np.log(2)
    shape, others = detector.anchors(1)[1], detector.anchors(1)[[0, 2]]
    both = np.minimum(shape, others).prod(axis=1)
    ignored = (both / (shape.prod() + others.prod(axis=1) - both) > 0.5).sum()
    expected = 2.5 * 2 * half / cells + (half + 0.5 * half * (cells - 1 - ignored)) / cells + half
    assert float(actual) == pytest.approx(float(expected), abs=float32(cells))


def test_no_boxes_is_a_finite_loss_and_gradient():
    answers = [jnp.ones((2, *shape, 3, 6)) for shape in ((4, 3), (7, 5), (14, 10))]
    grad = jax.jit(jax.value_and_grad(lambda answers, *boxes: yolo.loss(answers, *boxes, GRID)))
    value, grads = grad(answers, jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), bool))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)
    assert all((np.asarray(g)[..., :4] == 0).all() for g in grads)


def test_the_published_loss_is_mgcas_box_by_box():
    """Against a slow version of its arithmetic in torch: BCELoss and MSELoss of masked maps, anchors one by one."""
    rng = np.random.default_rng(0)
    grid, strides = (4, 6), (2.0, 1.0, 0.5)
    answers = [rng.standard_normal((2, *shape, 3, 6)).astype(np.float32) for shape in ((2, 3), (4, 6), (8, 12))]
    boxes = np.array([[[0.3, 0.4, 0.2, 0.3], [0.8, 0.9, 0.05, 0.04]], [[0.6, 0.1, 0.9, 0.8], [0, 0, 0, 0]]], np.float32)
    real = np.array([[True, True], [True, False]])
    bce, mse, expected = torch.nn.BCELoss(), torch.nn.MSELoss(), 0.0
    for scale, answer in enumerate(answers):
        cell = strides[scale] / np.array(grid)
        anchors = detector.anchors(scale) / cell  # heights and widths in cells
        shape = answer.shape[:-1]
        mask, empty, target = np.zeros(shape), np.ones(shape), np.zeros((*shape, 4))
        for case in range(2):
            for box in boxes[case][real[case]]:
                at, size = box[:2] / cell, box[2:] / cell
                place = (case, *at.astype(int))
                both = (np.minimum(size, anchors) + 1).prod(axis=1)
                overlap = both / ((size + 1).prod() + (anchors + 1).prod(axis=1) - both)
                empty[(*place, overlap > 0.5)] = 0
                chosen = (*place, overlap.argmax())
                mask[chosen] = 1
                target[chosen] = [*(at - at.astype(int)), *np.log(size / anchors[overlap.argmax()])]
        maps = (answer, mask, empty, target)
        x, mask, empty, target = (torch.tensor(np.asarray(part), dtype=torch.float64) for part in maps)
        sure, found = torch.sigmoid(x[..., 4]), torch.sigmoid(x[..., 5])
        for axis in range(2):
            expected += 2.5 * bce(torch.sigmoid(x[..., axis]) * mask, target[..., axis] * mask)
            expected += 2.5 * mse(x[..., 2 + axis] * mask, target[..., 2 + axis] * mask)
        expected += bce(sure * mask, mask) + 0.5 * bce(sure * empty, empty * 0)
        expected += bce(found * mask, mask)
    actual = jax.jit(lambda *x: yolo.loss(*x, grid, published=True))(answers, boxes, real)
    ours = jax.jit(lambda *x: yolo.loss(*x, grid))(answers, boxes, real)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    assert float(ours) != pytest.approx(float(expected), rel=1e-2)
