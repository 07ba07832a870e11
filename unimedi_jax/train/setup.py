"""From the configuration to the objects of a run: data, tokenizer, program, evaluations.

With `program.py` and `loop.py` the only reader of the config.
"""

import dataclasses
import json
import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import joblib
import ml_collections
import numpy as np
from jax.sharding import Mesh

from data import contract
from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import hosts, objectives, sharding
from unimedi_jax.evaluation import evaluator
from unimedi_jax.inference import features, start
from unimedi_jax.input import pipeline, records, transforms
from unimedi_jax.models import towers
from unimedi_jax.train import program as programs
from unimedi_jax.train import state
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
# What may differ when a run goes on: how often it speaks and saves, never what it computes.
FREE = (
    "log_every",
    "data_dir",
    "checkpoint",
    "evals",
    "show_reports",
    "mesh",
    "sharding",
    "guard",
    "resume",
    "distributed",
    "compilations",
    "accumulate",
    "model.attention",
    "model.remat",
    "model.layers",
    "objective.contrastive_chunk",
    "objective.local_chunk",
    "input.report_buckets",
    "input.threads",
    "input.processes",
)

READERS = 4  # processes a device
SHARED = pathlib.Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything a run is made of."""

    sets: tuple[tuple[records.RecordSet, float], ...]
    reports: Any  # tokenizer
    model: towers.UniMedI
    objective: objectives.Objective
    mesh: Mesh
    init: Callable[[jax.Array], state.TrainState]  # jitted, onto the mesh
    abstract: PyTree  # ShapeDtypeStructs with shardings: the restore target
    step: Callable[..., Any]  # jitted
    samplers: dict[str, transforms.ToSample]
    batch: dict[str, int]  # global rows a step
    config: dict[str, Any]  # plain, as it goes into config.json


def make(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Run:
    """Builds the run; writes `config.json` and `tokenizer/` into a new workdir, reads them from an old one."""
    plain = json.loads(config.to_json_best_effort())
    _check(config)
    sets = open_sets(config.data, config.data_dir)
    mesh = sharding.make_mesh(**config.mesh)
    plain["global_batch"] = {name: rows * mesh.size for name, rows in plain["batch"].items()}
    with hosts.chief_first("config.json is there"):
        plain = _same_run(plain, workdir, force=config.resume.force)
    batch = plain["global_batch"]
    if config.accumulate < 1 or any(rows % (mesh.size * config.accumulate) for rows in batch.values()):
        raise UserError(
            f"the run's global batch {batch} does not divide over {mesh.size} devices in {config.accumulate} parts: "
            "see config.accumulate"
        )
    if (chunk := config.objective.get("contrastive_chunk", 0)) and sum(batch.values()) % chunk:
        raise UserError(
            f"config.objective.contrastive_chunk={chunk} does not divide the global batch of {sum(batch.values())}"
        )
    with hosts.chief_first("the tokenizer is there"):
        # A run that goes on has its own copy, and asks no hub for anything.
        known = config.tokenizer or (workdir / "tokenizer" / "tokenizer.json").exists()
        reports = _tokenizer(config.tokenizer if known else start.tokenizer(**config.init), sets, workdir)
    _check_ids(dict(config.objective), reports)
    what = programs.make(config, vocab_size=len(reports), mesh=mesh)
    _check_records(sets, what.model, reads=what.objective.uses_reports)
    return Run(
        sets=sets,
        reports=reports,
        model=what.model,
        objective=what.objective,
        mesh=mesh,
        init=what.init,
        abstract=what.abstract,
        step=what.step,
        samplers=samplers(config, reports),
        batch=batch,
        config=plain,
    )


def readers(asked: int, batch: int) -> int:
    """Processes that read a host's batches of `batch` bytes; -1: as many as its devices are likely to want.

    Raises:
        UserError: batches of so many processes do not fit into the shared memory, through which they come.
    """
    if asked < 0:
        beside = 0 if jax.default_backend() == "cpu" else READERS * jax.local_device_count()
        wanted = min(beside, joblib.cpu_count() // 2)  # of the cores that a launcher or container leaves this process
    else:
        wanted = asked
    room = shutil.disk_usage(SHARED).free if wanted and SHARED.exists() else math.inf
    need = (pipeline.AHEAD + 3 * wanted) * batch  # those that wait, and what each is making and handing over
    if need <= room:
        return wanted
    told = f"{wanted} reading processes need {need / 1e6:.0f} MB of {SHARED}, which has {room / 1e6:.0f} MB left"
    if asked > 0:
        raise UserError(f"{told}: config.input.processes=0 reads with threads; docker run --shm-size=2g gives more")
    LOG.warning("%s: threads read instead, and may hinder the device; docker run --shm-size=2g gives more", told)
    return 0


def pretrained(
    fresh: state.TrainState, job: Run, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> state.TrainState:
    """The state before the first step with the weights of `config.init` in it, teacher included; `fresh` if none."""
    if not any(config.init.values()):
        return fresh
    sets = {found.name: found.contract for found, _ in job.sets}
    filled, summaries = start.fill(state.variables(fresh), job.model, sets, **config.init)
    for summary in summaries:
        LOG.info("%s", summary)
    if jax.process_index() == 0:
        start.write(summaries, workdir / "init.json")
    params = filled["params"]
    batch_stats = jax.tree.map(_like, filled["batch_stats"], fresh.model_state["batch_stats"])
    return dataclasses.replace(
        fresh,
        params=jax.tree.map(_like, params, fresh.params),
        teacher=jax.tree.map(_like, {part: params[part] for part in fresh.teacher}, fresh.teacher),
        model_state=fresh.model_state | {"batch_stats": batch_stats},
    )


def _like(array: Any, old: jax.Array) -> jax.Array:
    """A host array where the old one lies; what is on the devices already was not replaced."""
    if isinstance(array, jax.Array):
        return old
    return jax.make_array_from_callback(old.shape, old.sharding, lambda index: np.array(array[index]))


def make_suite(run: Run, config: ml_collections.ConfigDict) -> evaluator.Suite:
    """The evaluations of a run, on the first of its sets."""
    keep = ("report", "labels", "lesion_mask", "volume", "image")
    return evaluator.Suite(
        found=run.sets[0][0],
        samplers={k: dataclasses.replace(v, keep=keep) for k, v in run.samplers.items()},
        embedder=features.Embedder.of(run.model, run.mesh, rows=config.evals.rows, ct_slices=config.evals.ct_slices),
        reports=run.reports,
        length=config.input.report_length,
        limit=config.evals.limit,
        slices=run.model.slices,
        aligned=run.objective.has_joint_space,
    )


def open_sets(data: str, data_dir: str | pathlib.Path) -> tuple[tuple[records.RecordSet, float], ...]:
    """Sets and mixing weights of `config.data`: "mine", or "mine,phantom:0.5"."""
    sets = []
    for part in filter(None, (part.strip() for part in data.split(","))):
        name, _, weight = part.partition(":")
        try:
            share = float(weight or 1)
        except ValueError:
            share = 0.0
        if not 0 < share < float("inf"):
            raise UserError(f"config.data: the weight of {name!r} is {weight!r}, not a number above 0")
        sets.append((records.open_set(data_dir, name), share))
    if not sets:
        raise UserError("config.data names no set: give built sets, such as phantom or mine,phantom:0.5")
    for found, _ in sets[1:]:
        contract.check(sets[0][0].contract, found.contract, where=f"the set {found.name} beside {sets[0][0].name}")
    return tuple(sets)


def samplers(config: ml_collections.ConfigDict, reports: Any) -> dict[str, transforms.ToSample]:
    """How each modality's records become samples, by the config of a run."""
    model, given = config.model, config.input
    return {
        modality: transforms.ToSample(
            modality,
            reports,
            given.report_length,
            given.crop,
            model.image_size,
            tuple(model.image_patch),
            tuple(model.volume_size),
            tuple(model.volume_patch),
            given.crop_shift,
            tuple(given.ct_shift),
            given.shuffle_sentences,
        )
        for modality in pipeline.MODALITIES
    }


def _tokenizer(name: str, sets: tuple[tuple[records.RecordSet, float], ...], workdir: pathlib.Path) -> Any:
    """The run's own copy if it has one; else the named one, the only set's, or one trained on all sets' reports."""
    folder, partial = workdir / "tokenizer", workdir / "tokenizer.partial"
    if folder.exists():
        return tokenizer.load(folder)
    shutil.rmtree(partial, ignore_errors=True)
    if name or len(sets) == 1:
        found = tokenizer.load(name or sets[0][0].folder / "tokenizer")
        found.save_pretrained(partial)
        partial.replace(folder)
        return found
    texts = [
        records.text(record["report"])
        for found, _ in sets
        for modality in pipeline.MODALITIES
        if found.size(modality, "train")
        for record in found.source(modality, "train", ("report",))
    ]
    tokenizer.save(tokenizer.train(texts), partial)
    partial.replace(folder)
    return tokenizer.load(folder)


def _check(config: ml_collections.ConfigDict) -> None:
    if config.accumulate > 1 and config.objective.name != "unimedi":
        raise UserError(
            f"config.accumulate divides batches of UniMedI's objective alone, not {config.objective.name}'s"
        )
    if config.steps < 1 or config.log_every < 1 or config.checkpoint.every < 1:
        raise UserError("config.steps, config.log_every and config.checkpoint.every are at least 1")
    if config.input.report_length > config.model.report_positions:
        raise UserError(
            f"config.input.report_length={config.input.report_length} exceeds "
            f"config.model.report_positions={config.model.report_positions}"
        )
    if any(not 2 < length < config.input.report_length for length in config.input.report_buckets):
        raise UserError(
            f"config.input.report_buckets={tuple(config.input.report_buckets)} are lengths below "
            f"config.input.report_length={config.input.report_length}"
        )
    if config.input.crop > 256 or config.input.crop % config.model.image_size:
        raise UserError(
            f"config.input.crop={config.input.crop} is at most 256 and a multiple of "
            f"config.model.image_size={config.model.image_size}"
        )


def _check_ids(objective: Mapping[str, Any], reports: Any) -> None:
    """An objective that masks words has to mean the tokens of this vocabulary; other ids would train all the same."""
    if "mask_id" not in objective:
        return
    if reports.mask_token_id is None:
        raise UserError(f"the tokenizer has no mask token, but config.objective.name={objective['name']} hides words")
    special = (reports.pad_token_id, reports.cls_token_id, reports.sep_token_id)
    if objective["mask_id"] != reports.mask_token_id or not set(special) <= set(objective["special_ids"]):
        raise UserError(
            f"config.objective.mask_id={objective['mask_id']} and special_ids={tuple(objective['special_ids'])} are "
            f"not those of the run's tokenizer: give --config.objective.mask_id={reports.mask_token_id} "
            f'"--config.objective.special_ids={special}"'
        )


def _check_records(sets: tuple[tuple[records.RecordSet, float], ...], model: towers.UniMedI, *, reads: bool) -> None:
    if not 0 <= model.slices <= model.volume_grid[0]:
        raise UserError(f"config.model.slices={model.slices}, but volumes have {model.volume_grid[0]} depth layers")
    if not any(found.size(m, "train") for found, _ in sets for m in pipeline.MODALITIES):
        raise UserError("the sets of config.data hold no training records")
    silent = [found.name for found, _ in sets if found.contract["source"].get("reports", True) is None]
    if silent and reads:
        raise UserError(
            f"config.data: {', '.join(silent)} have no reports to learn from: these sets are for evaluation"
        )


def _same_run(plain: dict[str, Any], workdir: pathlib.Path, *, force: bool) -> dict[str, Any]:
    """The config a workdir was started with, if it says the same of what is computed; else refuses, unless forced."""
    path = workdir / "config.json"
    if not path.exists():
        return _write_config(path, plain)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: bring back a copy of it, or name another --workdir") from error
    old, new = contract.flat(before), contract.flat(plain)
    free = (*FREE, "global_batch")  # the run keeps the global batch it began with on any device count
    changed = [
        f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if not {key, key.split(".")[0]} & set(free) and old.get(key) != new.get(key)
    ]
    if changed and not force:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(changed[:6])}): give the same ones to go on, "
            "another --workdir to start anew, or --config.resume.force=True to go on with these"
        )
    if not changed:
        return before
    LOG.warning("going on with other settings: %s", "; ".join(changed))
    return _write_config(path, plain)


def _write_config(path: pathlib.Path, plain: dict[str, Any]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return plain
