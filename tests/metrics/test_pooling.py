"""Means by study against loops in Python."""

import math
import statistics

import numpy as np

from unimedi_jax.metrics import pooling

KEYS = ["b", "a", "b", "c", "a", "b"]


def test_means_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.random((6, 3)), rng.integers(0, 2, (6, 2)).astype(np.float32)
    labels[[0, 2, 5], 0] = np.nan
    labels[1, 1] = np.nan
    group, first = pooling.groups(KEYS)
    assert list(first) == [0, 1, 3]
    means, present = pooling.mean(x, group), pooling.present(labels, group)
    for place, key in enumerate(("b", "a", "c")):
        rows = [row for row, own in enumerate(KEYS) if own == key]
        for column in range(3):
            assert math.isclose(means[place, column], statistics.fmean(x[row, column] for row in rows))
        for column in range(2):
            known = [labels[row, column] for row in rows if not math.isnan(labels[row, column])]
            assert present[place, column] == max(known) if known else math.isnan(present[place, column])
