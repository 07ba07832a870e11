"""Dice, HD95 and NSD against MONAI and by hand, the rule for empty masks, sliding windows against MONAI's."""

import jax
import numpy as np
import pytest
import surface_distance
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from unimedi_jax.evaluation import dense_losses, sliding
from unimedi_jax.metrics import segmentation


def _ball(centre, radius, shape=(12, 20, 20)):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((grid - centre) ** 2).sum(-1) <= radius**2


def test_empty_masks_follow_the_stated_rule():
    nothing, ball = np.zeros((12, 20, 20), bool), _ball((6, 9, 9), 4)
    spacing, diagonal = (2.0, 1.0, 1.0), float(np.linalg.norm([24, 20, 20]))
    for truth, predicted, expected in (
        (nothing, nothing, (1, 0, 1)),
        (ball, nothing, (0, diagonal, 0)),
        (nothing, ball, (0, diagonal, 0)),
        (ball, ball, (1, 0, 1)),
    ):
        values, present = segmentation.case(
            truth.astype(np.uint8), predicted.astype(np.uint8), 1, spacing, tolerance=1.0
        )
        assert values[0] == pytest.approx(expected)
        assert present[0] == truth.any()


def test_absent_structures_count_by_the_rule_that_is_named():
    """UNETR's code gives 0 to whatever is not there, MONAI's means leave it out."""
    truth, predicted = np.zeros((4, 6, 6), np.uint8), np.zeros((4, 6, 6), np.uint8)
    truth[1:3, 1:3, 1:3] = predicted[1:3, 1:3, 1:3] = 1
    predicted[0, 5, 5] = 3  # 2 is in neither, 3 is predicted alone
    diagonal = float(np.linalg.norm([4, 6, 6]))
    for rule, nowhere, alone in (
        ("one", (1, 0, 1), (0, diagonal, 0)),
        ("zero", (0, diagonal, 0), (0, diagonal, 0)),
        ("skip", (np.nan,) * 3, (np.nan,) * 3),
    ):
        values, present = segmentation.case(truth, predicted, 3, (1, 1, 1), tolerance=1.0, absent=rule)
        np.testing.assert_allclose(values, [(1, 0, 1), nowhere, alone])
        assert present.tolist() == [True, False, False]
    both = np.stack([values, values])
    summary = segmentation.summarise(both, np.stack([present, present]), ["a", "b", "c"], resamples=10)
    assert summary["dice/mean"] == 1, "of the structures that are somewhere"
    assert summary["dice/mean/low"] == 1


@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")  # MONAI's, of its own argument
@pytest.mark.parametrize("seed", range(3))
def test_random_masks_equal_the_judges(seed):
    rng = np.random.default_rng(seed)
    truth = _ball((6, 9, 9), 4) | (rng.random((12, 20, 20)) < 0.01)
    predicted = _ball((6, 11, 9), 4.5) & (rng.random((12, 20, 20)) < 0.97)
    spacing = (2.0, 1.0, 0.7)
    values, _ = segmentation.case(truth.astype(np.uint8), predicted.astype(np.uint8), 1, spacing, tolerance=1.0)
    one = [torch.tensor(x)[None, None].float() for x in (predicted, truth)]
    assert values[0, 0] == pytest.approx(float(compute_dice(*one)), abs=1e-6)
    hd95 = compute_hausdorff_distance(*one, percentile=95, spacing=spacing)
    assert values[0, 1] == pytest.approx(float(hd95), abs=1e-5)
    assert values[0, 2] == pytest.approx(float(compute_surface_dice(*one, [1.0], spacing=spacing)), abs=1e-6)
    assert values[0, 0] == pytest.approx(surface_distance.compute_dice_coefficient(truth, predicted), abs=1e-9)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the judge's, of an old scipy name
def test_smooth_surfaces_agree_with_surface_distance_to_a_voxel():
    """It weighs surface elements by their area, here every border voxel counts the same: near, never equal."""
    truth, predicted = _ball((6, 9, 9), 5), _ball((6, 12, 9), 5)
    values, _ = segmentation.case(truth.astype(np.uint8), predicted.astype(np.uint8), 1, (1, 1, 1), tolerance=1.0)
    distances = surface_distance.compute_surface_distances(truth, predicted, (1, 1, 1))
    assert values[0, 1] == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95), abs=0.6)
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, 1.0)
    assert values[0, 2] == pytest.approx(expected, abs=0.12)


def test_a_square_moved_by_two_pixels():
    truth, predicted = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    predicted[5:15, 7:17] = 1
    values, _ = segmentation.case(truth, predicted, 1, (1.0, 1.0), tolerance=0.5)
    assert values[0, 0] == pytest.approx(0.8)
    assert values[0, 1] == pytest.approx(2)
    assert values[0, 2] == pytest.approx(2 * 16 / 72)  # of 36 border pixels each, 8 above and 8 below are shared


def test_summary_keeps_absent_structures_apart():
    values = np.array([[[1, 0, 1], [0.5, 2, 0.5]], [[0.8, 1, 0.9], [1, 0, 1.0]]])
    present = np.array([[False, True], [True, False]])
    predicted = segmentation.summarise(values, present, ["a", "b"], resamples=20)
    assert predicted["dice/a"] == pytest.approx(0.9)
    assert predicted["dice_present/a"] == pytest.approx(0.8)
    assert predicted["cases/b"] == 1
    assert predicted["dice/mean"] == pytest.approx(np.mean([0.9, 0.75]))
    assert predicted["dice/mean/low"] <= predicted["dice/mean"] <= predicted["dice/mean/high"]


@pytest.mark.parametrize("shape", [(8, 9, 13), (4, 6, 6)])
def test_sliding_windows_equal_monai(shape):
    rng = np.random.default_rng(0)
    volume, window = rng.normal(size=shape), (4, 6, 6)
    place = rng.normal(size=window)  # the network sees where in its window a voxel lies

    def network(x):
        return np.stack([x * place, x + place], axis=-1)

    predicted = sliding.predict(volume, window, network, rows=3)

    def judged(x):
        return torch.tensor(network(x[:, 0].numpy())).permute(0, 4, 1, 2, 3)

    expected = sliding_window_inference(
        torch.tensor(volume)[None, None], window, 3, judged, overlap=0.5, mode="gaussian"
    )[0].permute(1, 2, 3, 0)
    np.testing.assert_allclose(predicted, expected.numpy(), atol=2e-3)
    with pytest.raises(ValueError, match="does not fit"):
        sliding.starts(3, 4, 0.5)


def test_losses_equal_monai_and_the_formula():
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(2, 3, 4, 5, 4)).astype(np.float32), rng.integers(0, 4, (2, 3, 4, 5))
    judge = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    expected = judge(torch.tensor(logits).permute(0, 4, 1, 2, 3), torch.tensor(mask)[:, None])
    assert float(jax.jit(dense_losses.exclusive)(logits, mask)) == pytest.approx(float(expected), abs=1e-5)
    x, y = rng.normal(size=(2, 6, 6)).astype(np.float32), (rng.random((2, 6, 6)) < 0.3).astype(np.float32)
    p = 1 / (1 + np.exp(-x))
    right = np.where(y == 1, p, 1 - p)
    focal = -((1 - right) ** 2 * np.log(right)).mean()
    dice = (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    assert float(jax.jit(dense_losses.binary)(x, y)) == pytest.approx(10 * focal - np.log(dice), abs=1e-4)
