"""What a run is going to take, in the log before its first step and after the first ones that were measured."""

import logging
import math

import jax

from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.input import pipeline
from unimedi_jax.input.pipeline import NAMES
from unimedi_jax.train.job import TrainingJob

LOG = logging.getLogger(__name__)
MEASURED = 2  # steps after the first, which compiles
FULL_SIZES = ("S", "B", "L")  # of the ViT; smaller ones are made for CPUs
DEMO = "configs/pretrain.py:demo is the small run, made for CPUs"


def announce(job: TrainingJob) -> None:
    """The line at the start: devices, hosts, mesh, precision, steps, global batch, records and epochs.

    And a line for what a person may not expect of it: another batch than the learning rate was chosen for, one that
    repeats records, or a network that is too large for the device.
    """
    sizes = {name: sum(one.size(name, "train") for one, _ in job.sets) for name in pipeline.MODALITIES}
    batch = {name: rows for name, rows in job.batch.items() if rows}
    for line in repeats(batch, sizes, grouped=any(sampler.grouped for sampler in job.samplers.values())):
        LOG.warning("%s", line)
    device, config = job.mesh.devices.flat[0], job.config
    epochs = {name: config.steps * rows / sizes[name] for name, rows in batch.items()}
    counts = ", ".join(
        f"{rows} {NAMES[name]} of {sizes[name]} ({epochs[name]:.1f} epochs)" for name, rows in batch.items()
    )
    hosts = jax.process_count()
    LOG.info(
        "%d x %s on %d host%s, mesh %s, %s, %d steps of %s",
        *(job.mesh.size, device.device_kind, hosts, "s" if hosts > 1 else ""),
        " x ".join(f"{axis} {size}" for axis, size in job.mesh.shape.items()),
        *(config.model.dtype, config.steps, counts),
    )
    if line := other_batch(config, sum(batch.values()), job.mesh.size):
        LOG.info("%s", line)
    if on_cpu(job) and config.model.vision_size in FULL_SIZES:
        LOG.warning("ViT-%s on a CPU: %s", config.model.vision_size, DEMO)


def other_batch(config: PretrainConfig, samples: int, devices: int) -> str:
    """A line where a step has other than the samples that its learning rate was chosen for; "" where it has these."""
    optim = config.optim
    if samples == optim.chosen_for:
        return ""
    grows = "" if config.batch.total else f", and grows with the {devices} device{'s' if devices > 1 else ''}"
    remedy = "choose another" if config.batch.total else f"config.batch.total={optim.chosen_for} fixes it there"
    chosen = f"config.optim.peak_lr={optim.peak_lr:g} was chosen for {optim.chosen_for}"
    return f"the global batch is {samples}{grows}: {chosen}, {remedy}"


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
