"""What a run is going to take, in the log before its first step and after the first ones that were measured."""

import logging
import math

from unimedi_jax.input import pipeline
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.train.job import TrainingJob

LOG = logging.getLogger(__name__)
MEASURED = 2  # steps after the first, which compiles
FULL_SIZES = ("S", "B", "L")  # of the ViT; smaller ones are made for CPUs
DEMO = "configs/pretrain.py:demo is the small run, made for CPUs"


def announce(job: TrainingJob) -> None:
    """Device, precision, global batch, records, steps and epochs; a warning where a batch repeats records."""
    sizes = {name: sum(one.size(name, "train") for one, _ in job.sets) for name in pipeline.MODALITIES}
    batch = {name: rows for name, rows in job.batch.items() if rows}
    for line in repeats(batch, sizes, grouped=any(sampler.grouped for sampler in job.samplers.values())):
        LOG.warning("%s", line)
    device, config = job.mesh.devices.flat[0], job.config
    epochs = {name: config.steps * rows / sizes[name] for name, rows in batch.items()}
    counts = ", ".join(
        f"{rows} {NAMES[name]} of {sizes[name]} ({epochs[name]:.1f} epochs)" for name, rows in batch.items()
    )
    LOG.info("%d x %s, %s, %d steps of %s", job.mesh.size, device.device_kind, config.model.dtype, config.steps, counts)
    if on_cpu(job) and config.model.vision_size in FULL_SIZES:
        LOG.warning("ViT-%s on a CPU: %s", config.model.vision_size, DEMO)


def repeats(batch: dict[str, int], sizes: dict[str, int], *, grouped: bool = False) -> list[str]:
    """A line for each modality whose global batch of so many rows is larger than the training records are many.

    `grouped`: copies of a record are one study, like several pictures under one report.
    """
    role = "copies teach nothing more" if grouped else "copies are negatives of each other"
    return [
        f"every batch of {rows} {NAMES[name]} repeats records, as there are {sizes[name]}: {role}; a smaller "
        f"config.batch.{name} avoids it"
        for name, rows in batch.items()
        if 0 < sizes[name] < rows
    ]


def time_left(job: TrainingJob, seconds: float, step: int) -> str:
    """A line about the hours from `step` to the end at `seconds` a step."""
    hours = seconds * (job.config.steps - step) / 3600
    left = f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"
    line = f"about {left} left, at the {seconds:.2f} s a step of the first steps, evaluations not included"
    return f"{line}: {DEMO}" if hours > 24 and on_cpu(job) else line


def on_cpu(job: TrainingJob) -> bool:
    """Whether the run computes on CPUs."""
    return job.mesh.devices.flat[0].platform == "cpu"
