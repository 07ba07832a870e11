"""Windows of original slices around nodules, and the rate of a random choice beside a simulation of it."""

import numpy as np
import pytest

from unimedi_jax.metrics import slice_windows, slices


def drawn(lengths, rng, count=4000, whole=200):
    """Nodules of these lengths anywhere in a scan, and the windows around them."""
    first = rng.integers(slice_windows.DEPTH, whole - 2 * slice_windows.DEPTH, count)
    extents = [(float(a), float(a + n)) for a, n in zip(first, rng.choice(lengths, count), strict=True)]
    return extents, np.array([slice_windows.start(extent, whole, rng) for extent in extents])


def test_the_random_rate_is_the_papers_and_that_of_a_simulation():
    """Nodules of 3 to 30 mm in slices of 1.25 to 2.5 mm are 1 to 9 slices long, mostly 3 to 5."""
    rng = np.random.default_rng(0)
    extents, starts = drawn([1, 2, 3, 3, 4, 4, 5, 6, 9], rng)
    near = slice_windows.positive(extents, starts)
    layers = 8
    k = slice_windows.chosen(layers)
    assert (k, slice_windows.chosen(32)) == (2, 6)
    rate = slices.hit_rate(rng.random((len(near), layers)), near, k)
    hits = [
        any(slice_is_near[4 * layer : 4 * layer + 4].any() for layer in rng.permutation(layers)[:k])
        for slice_is_near in near
    ]
    assert rate.random == pytest.approx(np.mean(hits), abs=4 * 0.5 / len(hits) ** 0.5)
    assert rate.random == pytest.approx(0.5373, abs=0.01), "36 of 67 is what the authors report"


def test_a_window_contains_its_nodule_and_begins_anywhere_that_lets_it():
    rng = np.random.default_rng(1)
    starts = np.array([slice_windows.start((40.0, 45.0), 200, rng) for _ in range(2000)])
    assert (starts.min(), starts.max()) == (45 - 32, 40)
    assert len(set(starts)) == 28
    assert slice_windows.start((0.0, 4.0), 32, rng) == 0
    assert slice_windows.start((0.0, 4.0), 31, rng) is None
    assert slice_windows.start((10.0, 60.0), 100, rng) == 19, "longer than a window: its middle"
    assert {slice_windows.start((95.0, 99.0), 100, rng) for _ in range(50)} <= set(range(67, 69))


def test_two_nodules_are_two_windows():
    """At 4 and 26, slices 12 to 18 are not positive: there is none."""
    near = slice_windows.positive([(4.0, 5.0), (26.0, 27.0)], np.array([0, 0]))
    assert np.flatnonzero(near[0]).tolist() == list(range(1, 8))
    assert np.flatnonzero(near[1]).tolist() == list(range(23, 30))


def test_extents_of_masks_and_boxes():
    mask = np.zeros((20, 10, 10), np.uint8)
    mask[2:5, 3:5, 3:5] = 1
    mask[5, 5, 5] = 1  # joined at a corner
    mask[12:14, 1:3, 1:3] = 254
    mask[12:14, 6:8, 6:8] = 2
    assert slice_windows.parts_of(mask, (1, 254)) == [(2.0, 6.0), (12.0, 14.0)]
    boxes = np.array([[0, 1.5, 0, 0, 4, 9, 9], [3, 7, 0, 0, 8, 1, 1]], np.float32)
    assert slice_windows.of_boxes(boxes, (0, 1)) == [(1.5, 4.0)]
