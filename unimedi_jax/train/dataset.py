"""What a run is trained on: its sets, the tokenizer of their reports, and the batches of this host."""

import dataclasses
import logging
import math
import pathlib
import shutil
from typing import Any

import jax
import joblib

from data import contract, members
from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax.config.pretraining import BatchConfig, PretrainConfig
from unimedi_jax.inference import address
from unimedi_jax.input import leaks, pipeline, records, transforms
from unimedi_jax.models import towers
from unimedi_jax.objectives import Objective

LOG = logging.getLogger(__name__)
READERS = 4  # processes a device
SHARED = pathlib.Path("/dev/shm")
Sets = tuple[tuple[records.RecordSet, float], ...]  # with mixing weights


def open_sets(data: str, data_dir: str | pathlib.Path) -> Sets:
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
    first = sets[0][0]
    for other, _ in sets[1:]:  # what is cut out of their records has one size in any case: `check_grids`
        where = f"the set {other.name} beside {first.name}"
        contract.check_inputs(first.contract, other.contract, where=where, grids=False)
    return tuple(sets)


def check_sets(sets: Sets, model: towers.UniMedI, *, uses_reports: bool) -> None:
    """Raises UserError where the sets do not hold what the model and its objective need."""
    if not 0 <= model.slices <= model.volume_grid[0]:
        raise UserError(f"config.model.slices={model.slices}, but volumes have {model.volume_grid[0]} depth layers")
    if not any(record_set.size(m, "train") for record_set, _ in sets for m in pipeline.MODALITIES):
        raise UserError("the sets of config.data hold no training records")
    silent = [record_set.name for record_set, _ in sets if record_set.contract["source"].get("reports", True) is None]
    if silent and uses_reports:
        names = ", ".join(silent)
        raise UserError(f"config.data: {names} have no reports to learn from: these sets are for evaluation")


def check_grids(sets: Sets, config: PretrainConfig) -> None:
    """Raises UserError where the records of a set are too small for what the run cuts out of them."""
    cut, size = config.input.crop, config.model.ct_input[0]
    for record_set, _ in sets:
        grid, name = record_set.grid, record_set.name
        if record_set.size("xray", "train") and config.batch.xray and cut > grid.film_size:
            raise UserError(
                f"config.input.crop={cut}, but the X-rays of {name} have {grid.film_size} pixels a side: crop fewer, "
                "or build the set with a larger config.film_size"
            )
        if not (record_set.size("ct", "train") and config.batch.ct) or None in grid.volume_shape:
            continue
        if any(own < new for own, new in zip(grid.volume_shape, size, strict=True)):
            raise UserError(
                f"config.model.volume_size={config.model.volume_size} (with config.model.slice_source: {size}) is "
                f"finer than the volumes of {name}, {grid.volume_shape}: lower it, or build the set with a larger "
                "config.volume"
            )


def share_rows(config: PretrainConfig, sets: Sets) -> BatchConfig:
    """Rows of each modality a device: `config.batch`, or as many in all by the square root of the training records.

    Of two modalities each has a row at least; a run of one alone, and one whose sets lack a modality, stay as they are.

    Raises:
        UserError: `config.batch.total` cannot be shared in that way.
    """
    batch = config.batch
    counts = {name: sum(record_set.size(name, "train") for record_set, _ in sets) for name in pipeline.MODALITIES}
    if config.input.modality_shares != "sqrt" or not (batch.xray and batch.ct and all(counts.values())):
        return batch
    roots = {name: math.sqrt(count) for name, count in counts.items()}
    rows = batch.xray + batch.ct
    cts = min(max(round(rows * roots["ct"] / sum(roots.values())), 1), rows - 1)
    LOG.info("%d X-rays and %d CTs per device and step, for %d and %d records", rows - cts, cts, *counts.values())
    try:
        return dataclasses.replace(batch, xray=rows - cts, ct=cts)
    except ValueError as error:
        raise UserError(f"config.input.modality_shares=sqrt: {error}") from error


def check_leaks(config: PretrainConfig, sets: Sets, workdir: pathlib.Path) -> None:
    """Refuses sets whose test records are learnt from; `members.json` says in the workdir what the run learns from.

    That is the training records of its sets, and those of the checkpoint that it starts from.
    """
    opened = [one for one, _ in sets]
    trained = leaks.of_sets(opened)
    leaks.check(trained, opened, allowed=config.allow_leaks)
    if config.init.checkpoint:
        earlier = members.read(address.parse(config.init.checkpoint).place)
        leaks.check(
            earlier, opened, allowed=config.allow_leaks, where=f"config.init.checkpoint={config.init.checkpoint}"
        )
        trained = (earlier or {}) | trained
    if len(leaks.of_sets(opened)) == len(opened) and members.read(workdir) is None and not jax.process_index():
        members.write(workdir, trained)


def run_tokenizer(name: str, sets: Sets, workdir: pathlib.Path) -> Any:
    """The run's own copy if it has one; else the named one, the only set's, or one trained on all sets' reports."""
    folder, partial = workdir / "tokenizer", workdir / "tokenizer.partial"
    if folder.exists():
        return tokenizer.load(folder)
    shutil.rmtree(partial, ignore_errors=True)
    if name or len(sets) == 1:
        copied = tokenizer.load(name or sets[0][0].folder / "tokenizer")
        copied.save_pretrained(partial)
        partial.replace(folder)
        return copied
    texts = [
        records.text(record["report"])
        for record_set, _ in sets
        for modality in pipeline.MODALITIES
        if record_set.size(modality, "train")
        for record in record_set.source(modality, "train", ("report",))
    ]
    tokenizer.save(tokenizer.train(texts), partial)
    partial.replace(folder)
    return tokenizer.load(folder)


def check_ids(objective: Any, reports: Any) -> None:
    """An objective that masks words has to mean the tokens of this vocabulary; other ids would train all the same.

    Raises:
        UserError: the settings `mask_id` and `special_ids` of `objective` are not those of the tokenizer `reports`.
    """
    if not hasattr(objective, "mask_id"):
        return
    if reports.mask_token_id is None:
        raise UserError(f"the tokenizer has no mask token, but config.objective.name={objective.name} hides words")
    special = (reports.pad_token_id, reports.cls_token_id, reports.sep_token_id)
    if objective.mask_id != reports.mask_token_id or not set(special) <= set(objective.special_ids):
        raise UserError(
            f"config.objective.mask_id={objective.mask_id} and special_ids={objective.special_ids} are "
            f"not those of the run's tokenizer: give --config.objective.mask_id={reports.mask_token_id} "
            f'"--config.objective.special_ids={special}"'
        )


def check_labels(objective: Any, sets: Sets) -> None:
    """A classifier of findings needs the same ones in all sets, and as many as `objective` has outputs.

    Raises:
        UserError: they differ.
    """
    if not hasattr(objective, "labels"):
        return
    first, *others = (record_set for record_set, _ in sets)
    names = first.contract["labels"]
    for other in others:
        if other.contract["labels"] != names:
            raise UserError(
                f"config.data: {first.name} and {other.name} differ in their labels, which "
                "config.objective.name=supervised learns: train on sets of the same labels"
            )
    if len(names) != objective.labels:
        raise UserError(
            f"config.objective.labels={objective.labels}, but {first.name} has {len(names)} labels: "
            f"give --config.objective.labels={len(names)}"
        )


def samplers(
    config: PretrainConfig, reports: Any, objective: Objective | None = None, sets: Sets = ()
) -> dict[str, transforms.ToSample]:
    """How each modality's records become samples: by the config of a run, with what its objective takes of them.

    `sets` say whether several of their pictures belong together.
    """
    changes: dict[str, Any] = {
        "grouped": config.input.group_studies and any(one.contract.get(contract.SHARING) for one, _ in sets)
    }
    if objective:
        changes |= {"texts": objective.texts, "keep": ("labels",) if objective.uses_labels else ()}
    made = {name: transforms.ToSample.of(name, reports, config.input, config.model) for name in pipeline.MODALITIES}
    return {name: dataclasses.replace(sampler, **changes) for name, sampler in made.items()}


def reader_processes(asked: int, batch: int) -> int:
    """Processes that read a host's batches of `batch` bytes; -1: as many as its devices are likely to want.

    Raises:
        UserError: batches of so many processes do not fit into the shared memory, through which they come.
    """
    count = asked
    if asked < 0:
        beside = 0 if jax.default_backend() == "cpu" else READERS * jax.local_device_count()
        count = min(beside, joblib.cpu_count() // 2)  # of the cores that a launcher or container leaves this process
    room = shutil.disk_usage(SHARED).free if count and SHARED.exists() else math.inf
    need = (pipeline.AHEAD + 3 * count) * batch  # those that wait, and what each is making and handing over
    if need <= room:
        return count
    problem = f"{count} reading processes need {need / 1e6:.0f} MB of {SHARED}, which has {room / 1e6:.0f} MB left"
    if asked > 0:
        raise UserError(f"{problem}: config.input.processes=0 reads with threads; docker run --shm-size=2g gives more")
    advice = "threads read instead, and the device may wait for data; docker run --shm-size=2g gives more"
    LOG.warning("%s: %s", problem, advice)
    return 0
