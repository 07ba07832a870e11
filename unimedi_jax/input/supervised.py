"""Batches of labelled records for downstream training: chosen rows of a split, endless, in seeded order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

INPUTS = ("tokens", "lateral")  # what networks take of a batch, the second where they distinguish lateral X-rays
Sampler = Callable[[dict[str, Any], np.random.Generator | None], dict[str, np.ndarray]]


def training(
    source: Sequence[dict[str, Any]], sampler: Sampler, rows: Sequence[int], batch: int, *, seed: int, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of the records `rows` of a source, shuffled anew every epoch, augmented by `sampler`."""
    records = grain.MapDataset.source([int(row) for row in rows]).map(source.__getitem__)
    batches = records.seed(seed).shuffle().repeat().random_map(sampler).batch(batch, drop_remainder=True)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch)))


def evaluation(
    source: Sequence[dict[str, Any]], sampler: Sampler, batch: int, rows: Sequence[int]
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """The records `rows` once, in order, without augmentation, and how many of each batch are real.

    The last batch is filled with copies of its last record.
    """
    for start in range(0, len(rows), batch):
        samples = [sampler(source[i], None) for i in rows[start : start + batch]]
        real = len(samples)
        samples += [samples[-1]] * (batch - real)
        yield {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}, real
