"""From the settings to the objects of a run: model, objective, compiled step, data, evaluations."""

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data.buckets import mirror
from data.errors import UserError
from unimedi_jax import checkpoint_reading, flops, hosts, lora, machine, objectives, optim, sharding, trainable
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.evaluation import evaluator
from unimedi_jax.inference import features, prompts, start
from unimedi_jax.input import pipeline, places, transforms
from unimedi_jax.models import towers
from unimedi_jax.train import dataset, saved_config, state, step
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
STEP_SETTINGS = ("accumulate", "freeze_last_layer_steps")
TOKENIZERS_STAY = ("vision/(patch|subpatch)_", "frozen")  # config.freeze_patch_embed as a rule of config.trainable
COMPILER_OPTIONS = {  # by the platform of a device, and by its kind
    # The part of a TPU's VMEM that one fusion may use: with the 16 MiB of the default the step does not compile for
    # v5e, where a gradient's all-reduce runs inside the loss over the prototypes.
    "tpu": {"xla_tpu_scoped_vmem_limit_kib": 32768},
    # No product inside another's fusion: where layers are computed again, libtpu's compiler for v5e weighs such nests
    # until its stack overflows.
    "TPU v5 lite": {"xla_tpu_dot_dot_fusion": False},
    # No sums in the order in which threads come by: a step moves 1.5 % more bytes, and gives the same again.
    "gpu": {"xla_gpu_exclude_nondeterministic_ops": True},
}


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A step and what it is made of, for a mesh whose devices need not be there. It knows no data."""

    config: PretrainConfig
    mesh: Mesh
    model: towers.UniMedI
    objective: objectives.Objective
    init: Callable[[jax.Array], state.TrainState]  # jitted, onto the mesh
    abstract: PyTree  # ShapeDtypeStructs with shardings: the restore target
    step: Callable[..., Any]  # jitted
    partition: trainable.Partition  # of the parameters: what trains

    def lower(self, rows: Mapping[str, int], length: int) -> jax.stages.Lowered:
        """The step for `rows` of each modality a device and reports of `length` tokens, by shapes alone."""
        one = jax.eval_shape(lambda: self.objective.example_batch(self.model, length))
        batch = towers.example(one, rows, sharding.batch_sharding(self.mesh), self.mesh.size)
        with jax.set_mesh(self.mesh):
            return self.step.lower(self.abstract, batch)

    def flops(self, rows: Mapping[str, int], length: int) -> float | None:
        """Floating-point operations that a step on `rows` of each modality with reports of `length` tokens needs.

        None where they are not counted: of other objectives than UniMedI's.
        """
        objective = self.config.objective
        if objective.name != "unimedi":
            return None
        return flops.training_step(self.model, objective, xrays=rows["xray"], cts=rows["ct"], report_length=length)


@dataclasses.dataclass(frozen=True)
class TrainingJob(TrainStep):
    """A step with the data that it trains on: everything a run is made of."""

    sets: dataset.Sets
    tokenizer: Any  # of the reports
    samplers: dict[str, transforms.ToSample]
    batch: dict[str, int]  # global rows a step
    saved_config: dict[str, Any]  # plain, as it stands in config.json

    @property
    def contracts(self) -> dict[str, Any]:
        """How the records were made, by name of the set."""
        return {record_set.name: record_set.contract for record_set, _ in self.sets}


def build_train_step(config: PretrainConfig, vocab_size: int, mesh: Mesh) -> TrainStep:
    """The model and what is compiled of it for a mesh.

    Raises:
        UserError: a setting of the model, the objective or the sharding is wrong.
    """
    device = mesh.devices.flat[0]
    try:
        model = towers.build_model(config.model, vocab_size, device)
        objective = objectives.make(**dataclasses.asdict(config.objective))
        model = model.clone(head=objective.heads(model))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"config.model or config.objective: {error}") from error
    if config.evals.network == "teacher" and not objective.teacher_parts(model):
        raise UserError(f"config.evals.network=teacher: the objective {objective.name} has none with these settings")
    tx, schedule = optim.make(config.optim, config.steps)
    try:
        partition = _partition(config, model, objective)
        if config.optim.layer_decay < 1 or partition.choices:
            tx = trainable.scaled(tx, functools.partial(partition.rates, layer_decay=config.optim.layer_decay))
        init = state.make_init(model, tx, objective, partition)
        abstract = jax.eval_shape(init, jax.random.key(config.seed))
    except ValueError as error:  # what modules say of their settings; other errors are ours
        raise UserError(f"config.model: {error}") from error
    try:
        layout = sharding.layout(abstract, mesh, config.sharding)
    except ValueError as error:
        raise UserError(f"config.sharding: {error}") from error
    ema = optim.ema_schedule(**vars(config.ema), steps=config.steps)
    settings = {name: getattr(config, name) for name in STEP_SETTINGS} | {"partition": partition}
    train_step = step.make_train_step(model, tx, objective=objective, schedule=schedule, ema=ema, **settings)
    flags = COMPILER_OPTIONS.get(device.platform, {}) | COMPILER_OPTIONS.get(device.device_kind, {})
    options = {"out_shardings": (layout, None), "compiler_options": flags}
    placed = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, layout)
    init, train_step = jax.jit(init, out_shardings=layout), jax.jit(train_step, donate_argnames="state", **options)
    return TrainStep(config, mesh, model, objective, init, placed, train_step, partition)


def _partition(config: PretrainConfig, model: towers.UniMedI, objective: objectives.Objective) -> trainable.Partition:
    """What trains by the settings. Raises UserError where a rule fits no parameter."""
    asked = (TOKENIZERS_STAY, *config.trainable) if config.freeze_patch_embed else config.trainable
    if asked == rules.EVERYTHING and config.optim.layer_decay == 1:
        return trainable.EVERYTHING
    key = jax.random.key(config.seed)
    params = jax.eval_shape(lambda: state.init_variables(model, key, objective)[0]["params"])
    try:
        return trainable.partition(asked, params)
    except ValueError as error:
        raise UserError(f"config.trainable: {error}") from error


def build_job(config: PretrainConfig, workdir: pathlib.Path) -> TrainingJob:
    """Builds the run; writes `config.json` and `tokenizer/` into a new workdir, reads them from that of a saved run.

    Raises:
        UserError: settings and data do not fit each other, or the run that the workdir holds.
    """
    sets = dataset.open_sets(config.data, config.data_dir)
    config = dataclasses.replace(config, batch=dataset.share_rows(config, sets))
    mesh = sharding.make_mesh(**vars(config.mesh))
    place = mirror.of(workdir)
    plain = mirror.named(json.loads(json.dumps(dataclasses.asdict(config))))
    plain["machine"] = here = machine.describe(mesh)
    plain["global_batch"] = config.batch.rows(mesh.size)
    with hosts.primary_first("config.json is there", place):
        if jax.process_index() == 0 and not checkpoint_reading.started(workdir):
            saved_config.forget_start(workdir)
        if config.resume.force:
            _check_steps(config, workdir)
        plain = saved_config.keep(plain, workdir, force=config.resume.force)
    machine.warn_of_another(plain.get("machine", {}), here)
    batch = plain["global_batch"]
    check_batch(config, batch, mesh.size)
    with hosts.primary_first("the list of members is there", place):
        dataset.check_leaks(config, sets, workdir)
    with hosts.primary_first("the tokenizer is there", place):
        # A run that goes on has its own copy, and asks no hub for anything.
        known = config.tokenizer or (workdir / "tokenizer" / "tokenizer.json").exists()
        name = config.tokenizer if known else start.tokenizer(**vars(config.init))
        tokenizer = dataset.run_tokenizer(name, sets, workdir)
    dataset.check_grids(sets, config)
    dataset.check_ids(config.objective, tokenizer)
    dataset.check_labels(config.objective, sets)
    train_step = build_train_step(config, len(tokenizer), mesh)
    dataset.check_sets(sets, train_step.model, uses_reports=train_step.objective.uses_reports)
    samplers = dataset.samplers(config, tokenizer, train_step.objective, sets)
    return TrainingJob(*vars(train_step).values(), sets, tokenizer, samplers, batch, plain)


def _check_steps(config: PretrainConfig, workdir: pathlib.Path) -> None:
    """Raises UserError where a forced run would end before the step that it has reached."""
    last = max(checkpoint_reading.steps(workdir), default=0)
    if last > config.steps:
        raise UserError(
            f"{workdir} is at step {last}, beyond config.steps={config.steps}: give at least {last} steps, or another "
            "--workdir to start anew"
        )


def check_batch(config: PretrainConfig, batch: Mapping[str, int], devices: int, section: str = "config") -> None:
    """Refuses a global batch of so many rows of each modality that devices, parts or chunks do not divide.

    Raises:
        UserError: it says which, and names the settings in their `section`.
    """
    if config.accumulate < 1 or any(rows % (devices * config.accumulate) for rows in batch.values()):
        raise UserError(
            f"the run's global batch {batch} does not divide over {devices} devices in {config.accumulate} parts: "
            f"see {section}.accumulate and {section}.batch.total"
        )
    rows, chunk = sum(batch.values()), getattr(config.objective, "contrastive_chunk", 0)
    name = f"{section}.objective.contrastive_chunk"
    if chunk and rows % chunk:
        raise UserError(f"{name}={chunk} does not divide the global batch of {rows}")
    if chunk and getattr(config.objective, "compares_within_modality", False):
        for modality, count in batch.items():
            if count > chunk and count % chunk:
                raise UserError(
                    f"{name}={chunk} does not divide the {count} samples of {modality} in the global batch, which are "
                    "compared with each other alone"
                )


def open_batches(job: TrainingJob) -> pipeline.Batches:
    """This host's batches of the job's sets, without end."""
    share = {"host": jax.process_index(), "hosts": jax.process_count()}
    rows = {name: count // share["hosts"] for name, count in job.batch.items()}
    size = sum(count * job.samplers[name].bytes for name, count in rows.items())
    processes = dataset.reader_processes(job.config.input.processes, size)
    reading = dataclasses.replace(job.config.input, processes=processes)
    return pipeline.train(job.sets, job.samplers, rows, reading, seed=job.config.seed, **share)


def initial_state(job: TrainingJob, workdir: pathlib.Path) -> state.TrainState:
    """The state before the first step: of the seed, with the weights of `config.init` in it."""
    return load_pretrained(job.init(jax.random.key(job.config.seed)), job, workdir)


def load_pretrained(fresh: state.TrainState, job: TrainingJob, workdir: pathlib.Path) -> state.TrainState:
    """`fresh` with the weights of `config.init` in it, teacher included."""
    if not any(vars(job.config.init).values()):
        return fresh
    filled, summaries = start.fill(state.variables(fresh), job.model, job.contracts, **vars(job.config.init))
    for summary in summaries:
        LOG.info("%s", summary)
    if jax.process_index() == 0:
        start.write(summaries, workdir / "init.json")
    params = filled["params"]
    adapters = {lora.KEY: fresh.params[lora.KEY]} if lora.KEY in fresh.params else {}
    batch_stats = jax.tree.map(_like, filled["batch_stats"], fresh.model_state["batch_stats"])
    return dataclasses.replace(
        fresh,
        params=jax.tree.map(_like, {**params, **adapters}, fresh.params),
        teacher=jax.tree.map(_like, {part: params[part] for part in fresh.teacher}, fresh.teacher),
        model_state=fresh.model_state | {"batch_stats": batch_stats},
    )


def _like(array: Any, old: jax.Array) -> jax.Array:
    """A host array where the old one lies; what is on the devices already was not replaced."""
    if isinstance(array, jax.Array):
        return old
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: np.array(array[index]))


def build_evaluator(job: TrainingJob) -> evaluator.Evaluator:
    """The evaluations of a run, on all of its sets."""
    keep, evals = ("report", "labels", "patient", "lesion_mask", "volume", "image"), job.config.evals
    sets = [record_set for record_set, _ in job.sets]
    prompts.check(evals.prompts, itertools.chain(*(one.contract["labels"] for one in sets)))
    return evaluator.Evaluator(
        places=places.of_sets(sets),
        samplers={
            name: dataclasses.replace(sampler, keep=keep, grouped=False) for name, sampler in job.samplers.items()
        },
        embedder=features.Embedder.of(job.model, job.mesh, rows=evals.rows, ct_slices=evals.ct_slices),
        tokenizer=job.tokenizer,
        length=job.config.input.report_length,
        limit=evals.limit,
        slices=job.model.slices,
        prompts={one.name: prompts.of_set(evals.prompts, one.contract) for one in sets},
        score=evals.score,
        has_joint_space=job.objective.has_joint_space,
        has_classifier=job.objective.uses_labels,
    )
