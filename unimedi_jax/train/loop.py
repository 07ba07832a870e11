"""The pre-training job: restore, train, evaluate, report. One loop for every configuration."""

import contextlib
import logging
import pathlib
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import ml_collections
import numpy as np

from data import contract
from data.errors import StoppedError
from unimedi_jax import checkpoint, compile_cache, hosts, sharding, trees, writers
from unimedi_jax.input import pipeline
from unimedi_jax.train import program as programs
from unimedi_jax.train import run_report, setup, signals
from unimedi_jax.train import state as states
from unimedi_jax.train.loss_monitor import LossMonitor, LossSpike, StepResult, host_values, record_ids
from unimedi_jax.train.speed import Speed

LOG = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until `config.steps`, going on from the newest checkpoint of `workdir`, and writes the report page.

    Parameters come from (1) the workdir's newest checkpoint that is whole, else (2) `config.init`, else (3) the seed.
    SIGTERM and SIGINT end it with a checkpoint and `StoppedError`, or at once where there is nothing to save.
    """
    compile_cache.enable(config.compilations)
    hosts.connect(**config.distributed)
    with signals.SignalHandler() as stopping, hosts.none_lost():
        _run(config, workdir, stopping)


def _run(config: ml_collections.ConfigDict, workdir: pathlib.Path, stopping: signals.SignalHandler) -> None:
    job = setup.make(config, workdir)
    primary = jax.process_index() == 0
    labels = job.sets[0][0].contract["labels"]
    keep = {name: config.checkpoint[name] for name in ("keep", "keep_every", "keep_best")}
    with (
        jax.set_mesh(job.mesh),
        checkpoint.Checkpoints(workdir, **keep) as checkpoints,
        contextlib.closing(_batches(config, job)) as batches,
    ):
        state, first, monitor = _start(config, job, checkpoints, batches, workdir)
        if first == config.steps and run_report.finished(workdir):
            print(run_report.summary(workdir, labels))
            print(f"nothing left to do: {workdir} is at step {first} of {config.steps}")
            return
        suite = setup.make_evaluator(job, config)
        with writers.Writer(workdir, resume_step=first, active=primary) as writer:
            while True:
                try:
                    state = _train(
                        config, job, state, batches, checkpoints, writer, suite, stopping, monitor, first=first
                    )
                    break
                except LossSpike as spike:
                    state, first, monitor = _roll_back(config, job, checkpoints, monitor, workdir, last=spike.step)
                    writer.cut(first)
            checkpoints.wait()
            LOG.info("evaluating on held-out patients, trained and untrained")
            with stopping.safe_to_exit():
                page = run_report.final(
                    suite,
                    writer,
                    workdir,
                    job.config,
                    step=config.steps,
                    show=config.show_reports,
                    trained=states.variables(state, config.evals.network),
                    untrained=states.variables(job.init(jax.random.key(config.seed))),
                )
    if primary:
        print(run_report.summary(workdir, labels))
        print(f"report page: {page}")


def _batches(config: ml_collections.ConfigDict, job: setup.Run) -> pipeline.Batches:
    hosts = jax.process_count()
    rows = {name: count // hosts for name, count in job.batch.items()}
    size = sum(count * job.samplers[name].bytes for name, count in rows.items())
    return pipeline.train(
        job.sets,
        job.samplers,
        rows,
        seed=config.seed,
        host=jax.process_index(),
        hosts=hosts,
        threads=config.input.threads,
        processes=setup.readers(config.input.processes, size),
        max_damaged=config.input.max_damaged,
    )


def _start(
    config: ml_collections.ConfigDict,
    job: setup.Run,
    checkpoints: checkpoint.Checkpoints,
    batches: Any,
    workdir: pathlib.Path,
) -> tuple[states.TrainState, int, LossMonitor]:
    found = checkpoints.restore(job.abstract)
    if found is None:
        state = setup.pretrained(job.init(jax.random.key(config.seed)), job, config, workdir)
        LOG.info("new run: %.1f M parameters", trees.count(state.params) / 1e6)
        return state, 0, LossMonitor(workdir, **config.guard)
    if not config.resume.force:
        contract.check_resumed(found.meta["contracts"], {one.name: one.contract for one, _ in job.sets})
    batches.set_state(found.position)
    LOG.info("going on from step %d", found.step)
    return found.state, found.step, LossMonitor(workdir, **config.guard, memory=found.meta["guard"])


def _roll_back(
    config: ml_collections.ConfigDict,
    job: setup.Run,
    checkpoints: checkpoint.Checkpoints,
    monitor: LossMonitor,
    workdir: pathlib.Path,
    *,
    last: int,
) -> tuple[states.TrainState, int, LossMonitor]:
    """The state of step `last` or before, while the data goes on: the batches that brought the spikes are left out.

    Nothing is saved here. A run that is killed before its next checkpoint meets the same spikes, and goes back again.
    """
    found = checkpoints.restore(job.abstract, last)
    if found is None:
        state, step, memory = setup.pretrained(job.init(jax.random.key(config.seed)), job, config, workdir), 0, {}
    else:
        state, step, memory = found.state, found.step, found.meta["guard"]
    LOG.warning("back to step %d: training goes on from there with the data that follow", step)
    return state, step, LossMonitor(workdir, **config.guard, memory=monitor.rolled_back(memory))


def _train(
    config: ml_collections.ConfigDict,
    job: setup.Run,
    state: states.TrainState,
    batches: Iterator[pipeline.HostBatch],
    checkpoints: checkpoint.Checkpoints,
    writer: writers.Writer,
    suite: Any,
    stopping: signals.SignalHandler,
    monitor: LossMonitor,
    *,
    first: int,
) -> states.TrainState:
    """Steps `first` + 1 to `config.steps`. The order within a step is law: batch, step, log, save, evaluate, stop.

    A checkpoint at step s holds the state after s steps and the iterator after s batches; nothing fetches batches ahead
    of the iterator, or the saved position would be ahead of the state. Lines are written before the save: after a kill
    the run either has both or repeats the steps, and later lines are cut off. Before an evaluation the state is saved,
    so that a stop or a kill in there costs nothing: the evaluation is what is repeated.
    """
    speed = _speed(config, job, first)
    meta = facts(job)
    lengths = (*config.input.report_buckets, config.input.report_length)
    work = {length: programs.work(config, job.model, job.batch, length) for length in lengths}

    def validate(step: int) -> None:
        checkpoints.wait()
        with stopping.safe_to_exit():
            scalars, _ = suite(states.variables(state, config.evals.network), "val")
        writer.scalars(step, {f"val/{name}": value for name, value in scalars.items()})
        LOG.info("step %d, validation: %s", step, run_report.headline(scalars))

    def due(step: int) -> bool:
        return 0 < step < config.steps and step % config.evals.every == 0

    if due(first) and first not in _scores(config, writer):
        validate(first)  # the run ended in there
    before: StepResult | None = None
    for step in range(first + 1, config.steps + 1):
        started = time.perf_counter()
        host_batch = next(batches)
        length = pipeline.report_length(host_batch, lengths)
        if len(lengths) > 1:
            length = hosts.largest(length, job.mesh)  # one program on all hosts
        batch = sharding.put_batch(_arrays(pipeline.trimmed(host_batch, length)), job.mesh)
        speed.waited(time.perf_counter() - started)
        speed.worked(work[length])
        state, metrics = job.step(state, batch)
        # The step before is looked at while this one runs: the device never waits for the log.
        _log(before, config, writer, speed, monitor)
        before = StepResult(step, metrics, record_ids(host_batch))
        if step == first + 1:
            jax.block_until_ready(metrics)
            LOG.info("first step after %.0f s, compilation included", time.perf_counter() - started)
            speed.restart(step)
            stopping.mark_dirty()
        checkpoints.check()
        stop_now = stopping.requested(job.mesh)
        if due(step) or stop_now or step == config.steps or step % config.checkpoint.every == 0:
            _log(before, config, writer, speed, monitor)
            before = None
            writer.sync()
            checkpoints.save(step, state, batches, meta | {"guard": monitor.memory}, _scores(config, writer))
            if stop_now:
                checkpoints.wait()
                raise StoppedError(f"stopped after step {step}, which is saved: the same command goes on")
            if due(step):
                validate(step)
            speed.restart(step)
    return state


def _scores(config: ml_collections.ConfigDict, writer: writers.Writer) -> dict[int, float]:
    """Step -> what `keep_best` goes by, of all validations so far; where it is undefined, the worst."""
    name = f"val/{config.checkpoint.best}"
    # One at a time: at every checkpoint of a long run there are more of them.
    lines = (line for line in writers.lines(writer.workdir) if any(key.startswith("val/") for key in line))
    return {line["step"]: -np.inf if line.get(name) is None else line[name] for line in lines}


def _speed(config: ml_collections.ConfigDict, job: setup.Run, first: int) -> Speed:
    return Speed(
        first=first,
        last=config.steps,
        samples=sum(job.batch.values()),
        device_kind=jax.devices()[0].device_kind,
        devices=job.mesh.size,
    )


def _arrays(batch: pipeline.HostBatch) -> dict[str, dict[str, np.ndarray]]:
    """What the device sees of a batch: record ids stay on the host."""
    return {modality: {name: value for name, value in part.items() if name != "id"} for modality, part in batch.items()}


def _log(
    done: StepResult | None,
    config: ml_collections.ConfigDict,
    writer: writers.Writer,
    speed: Speed,
    monitor: LossMonitor,
) -> None:
    if done is None:
        return
    monitor.update(done)
    step = done.step
    if step % config.log_every and step != config.steps:
        return
    values = host_values(done.metrics) | speed.report(step)
    writer.scalars(step, values)
    parts = " ".join(f"{key.removeprefix('loss/')} {values[key]:.3f}" for key in values if key.startswith("loss/"))
    mfu = f", MFU {values['speed/mfu']:.0%}" if "speed/mfu" in values else ""
    LOG.info(
        "step %d/%d  loss %.3f (%s)  %.0f samples/s%s, waiting for data %.1f%%, left %s",
        step,
        config.steps,
        values["loss"],
        parts,
        values["speed/samples_per_s"],
        mfu,
        100 * values["speed/wait_share"],
        speed.eta(step),
    )


def facts(job: setup.Run) -> dict[str, Any]:
    """What every checkpoint carries beside the arrays: config, contracts of the data, versions."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "config": job.config,
        "contracts": {found.name: found.contract for found, _ in job.sets},
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
    }
