"""The pre-training job: restore, train, evaluate, report. One loop for every configuration."""

import contextlib
import logging
import pathlib
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import grain
import jax
import ml_collections
import numpy as np

from unimedi_jax import checkpoint, flops, sharding, trees, writers
from unimedi_jax.errors import UserError
from unimedi_jax.input import pipeline
from unimedi_jax.report import run as run_report
from unimedi_jax.train import setup
from unimedi_jax.train import state as states
from unimedi_jax.train.progress import Progress
from unimedi_jax.typing import Metrics

LOG = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until `config.steps`, going on from the newest checkpoint of `workdir`, and writes the report page.

    Parameters come from (1) the workdir's newest checkpoint, else (2) `config.init`, else (3) the seed.
    """
    job = setup.make(config, workdir)
    chief = jax.process_index() == 0
    with (
        jax.set_mesh(job.mesh),
        checkpoint.manager(workdir, **config.checkpoint) as manager,
        contextlib.closing(_batches(config, job)) as batches,
    ):
        state, first = _start(config, job, manager, batches, workdir)
        if first == config.steps and run_report.finished(workdir):
            print(run_report.summary(workdir))
            print(f"nothing left to do: {workdir} is at step {first} of {config.steps}")
            return
        suite = setup.make_suite(job, config)
        with writers.Writer(workdir, resume_step=first, active=chief) as writer:
            state = _train(config, job, state, batches, manager, writer, suite, first=first)
            manager.wait_until_finished()
            LOG.info("evaluating on held-out patients, trained and untrained")
            page = run_report.final(
                suite, writer, workdir, job.config, step=config.steps, show=config.show_reports,
                trained=states.variables(state, config.evals.network),
                untrained=states.variables(job.init(jax.random.key(config.seed))),
            )  # fmt: skip
    if chief:
        print(run_report.summary(workdir))
        print(f"report page: {page}")


def _batches(config: ml_collections.ConfigDict, job: setup.Run) -> grain.DatasetIterator:
    hosts = jax.process_count()
    dataset = pipeline.train(
        job.sets, job.samplers, {name: rows // hosts for name, rows in job.batch.items()},
        seed=config.seed, host=jax.process_index(), hosts=hosts, threads=config.input.threads,
    )  # fmt: skip
    return iter(dataset)


def _start(
    config: ml_collections.ConfigDict, job: setup.Run, manager: Any, batches: Iterator[Any], workdir: pathlib.Path
) -> tuple[states.TrainState, int]:
    latest = manager.latest_step()
    if latest is None:
        state = setup.pretrained(job.init(jax.random.key(config.seed)), job, config, workdir)
        LOG.info("new run: %.1f M parameters", trees.count(state.params) / 1e6)
        return state, 0
    state, _ = checkpoint.restore(manager, job.abstract, batches, step=latest)
    LOG.info("going on from step %d", latest)
    return state, latest


def _train(
    config: ml_collections.ConfigDict,
    job: setup.Run,
    state: states.TrainState,
    batches: Iterator[pipeline.HostBatch],
    manager: Any,
    writer: writers.Writer,
    suite: Any,
    *,
    first: int,
) -> states.TrainState:
    """Steps `first` + 1 to `config.steps`. The order within a step is law: batch, step, log, evaluate, save.

    A checkpoint at step s holds the state after s steps and the iterator after s batches; nothing fetches batches ahead
    of the iterator, or the saved position would be ahead of the state. Lines are written before the save: after a kill
    the run either has both or repeats the steps, and later lines are cut off.
    """
    progress = _progress(config, job, first)
    meta = facts(job)
    pending: tuple[int, Metrics] | None = None
    for step in range(first + 1, config.steps + 1):
        started = time.perf_counter()
        batch = sharding.put_batch(_arrays(next(batches)), job.mesh)
        progress.waited(time.perf_counter() - started)
        state, metrics = job.step(state, batch)
        # The metrics of the step before are fetched while this one runs: the device never waits for the log.
        _log(pending, config, writer, progress)
        pending = (step, metrics) if step % config.log_every == 0 or step == config.steps else None
        if step == first + 1:
            jax.block_until_ready(metrics)
            LOG.info("first step after %.0f s, compilation included", time.perf_counter() - started)
            progress.restart(step)
        last = step == config.steps
        evaluate = step % config.evals.every == 0 and not last
        save = last or step % config.checkpoint.every == 0
        if evaluate or save:
            _log(pending, config, writer, progress)
            pending = None
        if evaluate:
            scalars, _ = suite(states.variables(state, config.evals.network), "val")
            writer.scalars(step, {f"val/{name}": value for name, value in scalars.items()})
            LOG.info("step %d, validation: %s", step, run_report.headline(scalars))
        if save:
            checkpoint.save(manager, state, batches, meta, step=step, force=last)
        if evaluate or save:
            progress.restart(step)
    return state


def _progress(config: ml_collections.ConfigDict, job: setup.Run, first: int) -> Progress:
    work = flops.training_step(
        job.model, xrays=job.batch["xray"], cts=job.batch["ct"],
        report_length=config.input.report_length,
        mask_ratio=config.objective.mask_ratio, mask_mode=config.objective.mask_mode,
    )  # fmt: skip
    device = jax.devices()[0]
    return Progress(
        first=first, last=config.steps, samples=sum(job.batch.values()), flops_per_step=work,
        device_kind=device.device_kind, devices=job.mesh.size,
    )  # fmt: skip


def _arrays(batch: pipeline.HostBatch) -> dict[str, dict[str, np.ndarray]]:
    """What the device sees of a batch: record ids stay on the host."""
    return {modality: {name: value for name, value in part.items() if name != "id"} for modality, part in batch.items()}


def _log(
    pending: tuple[int, Metrics] | None,
    config: ml_collections.ConfigDict,
    writer: writers.Writer,
    progress: Progress,
) -> None:
    if pending is None:
        return
    step, metrics = pending
    values = {name: float(mean.value) for name, mean in jax.device_get(metrics).items()}
    bad = [name for name in ("loss", "norm/grads") if not np.isfinite(values[name])]
    values |= progress.report(step)
    writer.scalars(step, values)
    if bad:
        raise UserError(
            f"step {step}: {' and '.join(bad)} is not finite; training stops, checkpoints before it are kept. "
            "Try a lower config.optim.peak_lr or config.model.dtype=float32"
        )
    parts = " ".join(f"{k} {values[f'loss/{k}']:.3f}" for k in ("vl", "icl", "pcl") if f"loss/{k}" in values)
    mfu = f", MFU {values['speed/mfu']:.0%}" if "speed/mfu" in values else ""
    LOG.info(
        "step %d/%d  loss %.3f (%s)  %.0f samples/s%s, waiting for data %.1f%%, left %s",
        step, config.steps, values["loss"], parts, values["speed/samples_per_s"], mfu,
        100 * values["speed/wait_share"], progress.eta(step),
    )  # fmt: skip


def facts(job: setup.Run) -> dict[str, Any]:
    """What every checkpoint carries beside the arrays: config, contracts of the data, versions."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "config": job.config,
        "contracts": {found.name: found.contract for found, _ in job.sets},
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
    }
