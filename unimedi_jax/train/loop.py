"""The pre-training job: restore, train, evaluate, report. One loop for every configuration."""

import contextlib
import dataclasses
import logging
import pathlib
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

from data import contract
from data.buckets import mirror
from data.errors import StoppedError, UserError
from unimedi_jax import checkpoint, compile_cache, hosts, sharding, trackers, trees, validations, writers
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import evaluator
from unimedi_jax.input import pipeline, places
from unimedi_jax.report import loss_names
from unimedi_jax.train import job as jobs
from unimedi_jax.train import plan, profiling, run_report, saved_config, signals
from unimedi_jax.train import state as states
from unimedi_jax.train.alone import alone
from unimedi_jax.train.job import TrainingJob
from unimedi_jax.train.loss_monitor import LossMonitor, LossSpike, StepResult, host_values, record_ids
from unimedi_jax.train.speed import Speed

LOG = logging.getLogger(__name__)
Start = tuple[states.TrainState, int, LossMonitor]  # state after so many steps, and what watches the next


def run(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Trains until `config.steps`, resuming from the newest checkpoint of `workdir`, and writes the report page.

    Parameters come from (1) the workdir's newest checkpoint that is whole, else (2) `config.init`, else (3) the seed.
    SIGTERM and SIGINT end it with a checkpoint and `StoppedError`, or at once where there is nothing to save.
    """
    settings = typed(PretrainConfig, config)
    compile_cache.enable(settings.compilations)
    hosts.connect(**vars(settings.distributed))
    primary, place = jax.process_index() == 0, mirror.of(workdir)
    with signals.SignalHandler() as stopping, hosts.none_lost():
        if place is None:
            hosts.check_shared(workdir)
        else:
            place.active = primary
        with alone(workdir, primary=primary):
            with hosts.primary_first("the workdir is fetched", place):
                if place is not None and primary:
                    place.pull()  # what another run sent before this one held the place
            _run(settings, workdir, stopping)


def _run(config: PretrainConfig, workdir: pathlib.Path, stopping: signals.SignalHandler) -> None:
    job = jobs.build_job(config, workdir)
    primary = jax.process_index() == 0
    measured = places.of_sets([record_set for record_set, _ in job.sets])
    keep = {name: getattr(config.checkpoint, name) for name in ("keep", "keep_every", "keep_best")}
    keep["place"] = mirror.of(workdir)
    with (
        jax.set_mesh(job.mesh),
        checkpoint.Checkpoints(workdir, **keep) as checkpoints,
        contextlib.closing(jobs.open_batches(job)) as batches,
    ):
        state, first, monitor = _start(job, checkpoints, batches, workdir)
        if first == config.steps and run_report.finished(workdir):
            print(run_report.summary(workdir, measured))
            print(f"nothing left to do: {workdir} is at step {first} of {config.steps}")
            return
        evaluate = jobs.build_evaluator(job)
        _warn_of_missing_splits(evaluate, [record_set.name for record_set, _ in job.sets])
        plan.announce(job)
        shown = trackers.start(config.track, workdir, saved_config.shareable(job.saved_config)) if primary else ()
        with (
            writers.Writer(workdir, resume_step=first, active=primary, trackers=shown) as writer,
            profiling.Profiler(config.profile, workdir / "profile") as profiler,
        ):
            running = _Running(job, batches, checkpoints, writer, evaluate, stopping, profiler)
            while True:
                try:
                    state = _train(running, state, monitor, first=first)
                    break
                except LossSpike as spike:
                    last = spike.step
                # Here, where no traceback holds the state that is given up: devices need not have room for two.
                state, first, monitor = _roll_back(job, checkpoints, monitor, workdir, last=last)
                writer.cut(first)
            checkpoints.wait()
            if evaluate.can_measure("test"):
                LOG.info("evaluating on held-out patients, trained and untrained")
            with stopping.safe_to_exit():
                trained = states.variables(state, config.evals.network)
                del state  # with the optimiser's part: devices need not have room for two
                untrained = states.variables(job.init(jax.random.key(config.seed)))
                page = run_report.final(evaluate, writer, job, trained, untrained)
            writer.page(page)
    if primary:
        print(run_report.summary(workdir, measured))
        print(f"report page: {page}")


def _warn_of_missing_splits(evaluate: evaluator.Evaluator, sets: Sequence[str]) -> None:
    """Once, before the first step: which evaluations of which sets there will not be."""
    missing = {
        "val": "nothing is validated while the run trains",
        "test": "the page at its end shows losses alone, and no number of held-out patients",
    }
    for split, consequence in missing.items():
        measured = {place.dataset.name for place in evaluate.measured(split)}
        for name in sets:
            if name not in measured:
                what = consequence if not measured else "its numbers are missing there"
                LOG.warning("the set %s has no %s records: %s", name, split, what)


def _start(
    job: TrainingJob, checkpoints: checkpoint.Checkpoints, batches: pipeline.Batches, workdir: pathlib.Path
) -> Start:
    guard = vars(job.config.guard)
    restored = checkpoints.restore(job.abstract)
    if restored is None:
        state = jobs.initial_state(job, workdir)
        trained = jax.eval_shape(job.partition.split, state.params)
        whole, trained = (trees.count(x) / 1e6 for x in (state.params, trained))
        LOG.info("new run: %.1f M parameters, %.3g M of them train (%.1f %%)", whole, trained, 100 * trained / whole)
        return state, 0, LossMonitor(workdir, **guard)
    if not job.config.resume.force:
        contract.check_resumed(restored.meta["contracts"], job.contracts)
    rows = restored.meta["config"].get("global_batch", job.batch)  # another one, where a run was forced to change it
    batches.set_state(pipeline.moved(restored.position, rows, job.batch))
    LOG.info("resuming from step %d", restored.step)
    return restored.state, restored.step, LossMonitor(workdir, **guard, memory=restored.meta["guard"])


def _roll_back(
    job: TrainingJob, checkpoints: checkpoint.Checkpoints, monitor: LossMonitor, workdir: pathlib.Path, *, last: int
) -> Start:
    """The state of step `last` or before, while the data goes on: the batches that brought the spikes are left out.

    Nothing is saved here. A run that is killed before its next checkpoint meets the same spikes, and goes back again.
    """
    restored = checkpoints.restore(job.abstract, last)
    if restored is None:
        state, step, memory = jobs.initial_state(job, workdir), 0, {}
    else:
        state, step, memory = restored.state, restored.step, restored.meta["guard"]
    LOG.warning("back to step %d: training continues from there with the data that follow", step)
    return state, step, LossMonitor(workdir, **vars(job.config.guard), memory=monitor.rolled_back(memory))


@dataclasses.dataclass(frozen=True)
class _Running:
    """What a run holds open while it trains."""

    job: TrainingJob
    batches: pipeline.Batches
    checkpoints: checkpoint.Checkpoints
    writer: writers.Writer
    evaluate: evaluator.Evaluator
    stopping: signals.SignalHandler
    profiler: profiling.Profiler

    def validate(self, state: states.TrainState, step: int) -> None:
        """Evaluates on the validation patients and writes the line, after the save before it.

        Raises:
            UserError: some records cannot be read. The run goes on from here with the whole line, or not at all.
        """
        self.checkpoints.wait()
        with self.stopping.safe_to_exit():
            scalars, embedded = self.evaluate(states.variables(state, self.job.config.evals.network), "val")
        if unread := self.evaluate.unread("val", embedded):
            raise UserError(
                f"not validated: {unread}, whose records cannot be read (see above). Step {step} is saved: put the "
                "records right, and the same command continues from there"
            )
        self.writer.scalars(step, {f"val/{name}": value for name, value in scalars.items()})
        LOG.info("step %d, validation: %s", step, run_report.progress(scalars, self.evaluate.places))

    @property
    def ranking(self) -> validations.Ranking:
        """What `keep_best` goes by, of all validations so far."""
        return validations.ranking(self.writer.workdir, self.job.config.checkpoint.best)

    def warn_of_ranking(self) -> None:
        """A line where checkpoints are ranked by something else than the config asks for, or by nothing."""
        asked, (metric, scores, others) = self.job.config.checkpoint, self.ranking
        if not asked.keep_best or (metric == asked.best and max(scores.values(), default=0) > -np.inf):
            return
        instead = "none is kept as the best" if metric == asked.best else f"{metric} ranks the checkpoints instead"
        known = ", ".join(others) or "nothing that could"
        LOG.warning("validations lack config.checkpoint.best=%s: %s; they also have %s", asked.best, instead, known)


def _train(running: _Running, state: states.TrainState, monitor: LossMonitor, *, first: int) -> states.TrainState:
    """Steps `first` + 1 to `config.steps`. The order within a step is law: batch, step, log, save, evaluate, stop.

    A checkpoint at step s holds the state after s steps and the iterator after s batches; nothing fetches batches ahead
    of the iterator, or the saved position would be ahead of the state. Lines are written before the save: after a kill
    the run either has both or repeats the steps, and later lines are cut off. Before an evaluation the state is saved,
    so that a stop or a kill in there costs nothing: the evaluation is what is repeated.
    """
    job, checkpoints, stopping = running.job, running.checkpoints, running.stopping
    config, meta = job.config, facts(job)
    kind, samples = jax.devices()[0].device_kind, sum(job.batch.values())
    speed = Speed(first=first, last=config.steps, samples=samples, device_kind=kind, devices=job.mesh.size)
    lengths = (*config.input.report_buckets, config.input.report_length)
    work = {length: job.flops(job.batch, length) for length in lengths}

    every = config.evals.every if running.evaluate.can_measure("val") else 0

    def due(step: int) -> bool:
        return every > 0 and 0 < step < config.steps and step % every == 0

    def validate(step: int) -> None:
        running.validate(state, step)
        if step - first <= every:  # the first one since the run was started or resumed
            running.warn_of_ranking()

    if due(first) and first not in running.ranking.scores:
        validate(first)  # the run ended in there
    before: StepResult | None = None
    for step in range(first + 1, config.steps + 1):
        started = time.perf_counter()
        host_batch = next(running.batches)
        length = pipeline.report_length(host_batch, lengths)
        if len(lengths) > 1:
            length = hosts.largest(length, job.mesh)  # one program on all hosts
        batch = sharding.put_batch(_arrays(pipeline.trimmed(host_batch, length)), job.mesh)
        speed.waited(time.perf_counter() - started)
        speed.worked(work[length])
        if step == first + 1:
            hosts.compile_together(job.step, state, batch)
        running.profiler.before(step)
        state, metrics = job.step(state, batch)
        running.profiler.after(step, metrics)
        # The step before is looked at while this one runs: the device never waits for the log.
        _log(before, running, speed, monitor)
        before = StepResult(step, metrics, record_ids(host_batch))
        if step == first + 1:
            jax.block_until_ready(metrics)
            LOG.info("first step after %.0f s, compilation included", time.perf_counter() - started)
            LOG.info("%s", loss_names.explained(loss_names.of(metrics)))
            speed.restart(step)
            compiled = time.perf_counter()
            stopping.mark_dirty()
        if step == first + 1 + plan.MEASURED < config.steps:
            jax.block_until_ready(metrics)
            LOG.info("%s", plan.time_left(job, (time.perf_counter() - compiled) / plan.MEASURED, step))
        checkpoints.check()
        stop_now = stopping.requested(job.mesh)
        if due(step) or stop_now or step == config.steps or step % config.checkpoint.every == 0:
            _log(before, running, speed, monitor)
            before = None
            running.writer.sync()
            checkpoints.save(step, state, running.batches, meta | {"guard": monitor.memory}, running.ranking.scores)
            if stop_now:
                checkpoints.wait()
                raise StoppedError(f"stopped after step {step}, which is saved: the same command resumes")
            if due(step):
                validate(step)
            speed.restart(step)
    return state


def _arrays(batch: pipeline.HostBatch) -> dict[str, dict[str, np.ndarray]]:
    """What the device sees of a batch: record ids stay on the host."""
    return {modality: {name: value for name, value in part.items() if name != "id"} for modality, part in batch.items()}


def _log(result: StepResult | None, running: _Running, speed: Speed, monitor: LossMonitor) -> None:
    if result is None:
        return
    monitor.update(result)
    step, config = result.step, running.job.config
    if step % config.log_every and step != config.steps:
        return
    values = host_values(result.metrics) | speed.report(step)
    running.writer.scalars(step, values)
    LOG.info("%s", speed.line(step, values))


def facts(job: TrainingJob) -> dict[str, Any]:
    """What every checkpoint carries beside the arrays: config, contracts of the data, versions."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "config": job.saved_config,
        "contracts": job.contracts,
        "versions": {name: metadata.version(name) for name in packages} | {"python": platform.python_version()},
    }
