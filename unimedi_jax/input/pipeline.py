"""grain pipelines: records to batches. The order depends on the seed alone, and the position can be saved."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from data import progress
from data.errors import UserError
from unimedi_jax.config.pretraining import InputConfig
from unimedi_jax.input import records, studies, transforms, workers

HostBatch = dict[str, dict[str, np.ndarray]]
MODALITIES = ("xray", "ct")
NAMES = {"xray": "X-rays", "ct": "CTs"}  # for messages
TEXTS = ("text", "other", "negated")  # token sequences that a sample may have
AHEAD = 8  # batches that are read before they are asked for
THREADS = InputConfig(processes=0)


def train(
    sets: Sequence[tuple[records.RecordSet, float]],
    samplers: Mapping[str, transforms.ToSample],
    batch: Mapping[str, int],
    reading: InputConfig = THREADS,
    *,
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> "Batches":
    """Endless batches {"xray": {...}, "ct": {...}} with `batch[modality]` rows each for this host.

    `sets` come with mixing weights (see `reading.set_shares`). Each set is shuffled anew every epoch, and a modality
    with 0 rows is left out of the batch. Hosts read disjoint shares: concatenated, they are the batch that one host
    would read, row by row, so that neither the losses nor the position in the data depend on the number of hosts.
    `reading` holds the number of threads or processes that read, and the share of a set that may be unreadable; each
    process counts its own.
    """
    parts = {}
    for number, modality in enumerate(MODALITIES):
        if batch[modality]:
            # Cut last, in whole parts of a batch: order, mixing and random draws are those of a single host.
            mixed = _endless(sets, samplers[modality], 2 * seed + number, reading)
            parts[modality] = mixed.batch(batch[modality], drop_remainder=True)[host::hosts]
    if not parts:
        raise UserError("config.batch asks for neither X-rays nor CTs")
    # "Endless" is sys.maxsize records, so the number of batches differs with their size; zip wants one length.
    length = min(map(len, parts.values()))
    joined = grain.experimental.ZipMapDataset([part[:length] for part in parts.values()])
    names = tuple(parts)
    return Batches(joined.map(lambda rows: dict(zip(names, rows, strict=True))), reading.threads, reading.processes)


class Batches(Iterator[HostBatch]):
    """Batches in order, from a position that can be saved: the number of batches, whoever reads them.

    They are read by `threads` of this process or by `processes` of their own. Processes are for GPUs, where threads
    that hold Python's lock would delay the start of the next step.
    """

    def __init__(self, dataset: grain.MapDataset[HostBatch], threads: int, processes: int) -> None:
        self._dataset, self._threads, self._processes = dataset, threads, processes
        self._next = 0
        self._reader: grain.DatasetIterator[HostBatch] | None = None

    def __next__(self) -> HostBatch:
        try:
            starts = self._reader is None
            with workers.block_signals() if starts and self._processes else contextlib.nullcontext():
                self._reader = self._read() if starts else self._reader
                batch = next(self._reader)
        except RuntimeError as error:  # grain has no class of its own for it
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                "a process that reads records was killed, perhaps for its memory: the same command resumes from the "
                "last checkpoint, config.input.processes=0 reads with threads"
            ) from error
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position: how many batches were returned."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from a position."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends threads and processes."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self) -> grain.DatasetIterator[HostBatch]:
        rest = self._dataset[self._next :]
        if not self._processes:
            return iter(rest.to_iter_dataset(grain.ReadOptions(self._threads, max(self._threads, AHEAD))))
        ahead = max(AHEAD // self._processes, 1)
        # Batch i is of process i mod n: the order is that of one reader.
        dataset = rest.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        options = grain.MultiprocessingOptions(self._processes, per_worker_buffer_size=ahead)
        return iter(dataset.mp_prefetch(options, worker_init_fn=workers.exit_with_parent))


def _endless(
    sets: Sequence[tuple[records.RecordSet, float]], sampler: transforms.ToSample, seed: int, reading: InputConfig
) -> grain.MapDataset[Any]:
    datasets, weights = [], []
    for number, (record_set, weight) in enumerate(sets):
        size = record_set.size(sampler.modality, "train")
        if not size:
            continue
        fields = (*records.TRAINED_ON[sampler.modality], *sampler.keep)
        source = record_set.source(sampler.modality, "train", fields)
        if reading.max_damaged:
            source = records.SkipDamaged(source, reading.max_damaged)
        own = seed * 1000 + number
        if reading.per_study == "pictures":
            dataset = grain.MapDataset.source(source).seed(own).shuffle()
            datasets.append(dataset.repeat().random_map(sampler))
        else:
            of_set = studies.read(record_set, sampler.modality, reading.max_damaged)
            datasets.append(studies.samples(source, of_set, sampler, reading, own))
        weights.append(weight * math.sqrt(size) if reading.set_shares == "sqrt" else weight)
    if not datasets:
        names, kind = ", ".join(record_set.name for record_set, _ in sets), sampler.modality
        raise UserError(f"no training {kind} records in {names}: set config.batch.{kind}=0 to train without them")
    return datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)


def moved(position: dict[str, int], before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """A position in batches of `before` rows, as `Batches.get_state` gives it, in batches of `after` rows.

    No record that was read comes again in its epoch; fewer records than a batch has are left out. Where X-rays and CTs
    share the batch in another way, the modality that has got further decides.
    """
    if dict(before) == dict(after):
        return position
    count = position["next_index"]
    return position | {
        "next_index": max(math.ceil(count * before[name] / rows) for name, rows in after.items() if rows)
    }


def report_length(batch: HostBatch, lengths: Sequence[int]) -> int:
    """The smallest of `lengths` that holds every report of a batch; the largest one holds every report."""
    masks = (part[f"{name}_mask"] for part in batch.values() for name in TEXTS if name in part)
    longest = max(int(mask.sum(axis=1).max()) for mask in masks)
    return min(length for length in lengths if length >= longest)


def trimmed(batch: HostBatch, length: int) -> HostBatch:
    """The batch with its reports cut to `length` tokens."""
    texts = {*TEXTS, *(f"{name}_mask" for name in TEXTS)}
    return {
        modality: {name: value[:, :length] if name in texts else value for name, value in part.items()}
        for modality, part in batch.items()
    }


def evaluation(
    record_set: records.RecordSet, sampler: transforms.ToSample, split: str, rows: int, *, limit: int = 0
) -> Iterator[dict[str, Any]]:
    """Every record of a split once, in order, in batches of `rows`; at most `limit` records (0 = all).

    The last batch is filled with copies of its last record; `mask` (rows,) is False there. Fields that do not
    stack, such as boxes, come as lists. Threads read while the device is at work.
    """
    dataset = grain.MapDataset.source(record_set.source(sampler.modality, split))[: limit or None].map(sampler)
    reader = iter(dataset.to_iter_dataset(grain.ReadOptions(THREADS.threads, prefetch_buffer_size=2 * rows)))
    with contextlib.closing(reader), progress.shown(len(dataset), f"{NAMES[sampler.modality]} of {split}") as tick:
        while samples := list(itertools.islice(reader, rows)):
            real = len(samples)
            samples += [samples[-1]] * (rows - real)
            yield {"mask": np.arange(rows) < real} | {name: _stack([s[name] for s in samples]) for name in samples[0]}
            tick(real)


def _stack(values: list[Any]) -> Any:
    shapes = {np.shape(value) for value in values}
    return np.stack(values) if len(shapes) == 1 and not isinstance(values[0], bytes) else values
