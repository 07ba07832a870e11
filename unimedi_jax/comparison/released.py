"""Released encoders beside trained presets: the linear probe on their frozen features, no step of training."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections

from data import pages
from data.errors import UserError
from data.reports.prompts import Pair
from unimedi_jax import fingerprint, writers
from unimedi_jax.evaluation import trials
from unimedi_jax.evaluation.evaluator import Evaluator
from unimedi_jax.inference import pretrained, prompts, released
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import places, records
from unimedi_jax.report import tables
from unimedi_jax.train import dataset

LOG = logging.getLogger(__name__)
FACTS = "encoder.json"  # in a measured encoder's folder: what was measured, on what


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One of `config.encoders`."""

    name: str  # of its row
    checkpoint: str  # its address
    folder: pathlib.Path  # of its numbers


class _Leaks(NamedTuple):
    """What `trials.check_leaks` reads of a job's settings."""

    allow_leaks: bool


def planned(config: ml_collections.ConfigDict, workdir: pathlib.Path, *, taken: set[str]) -> list[Encoder]:
    """The addresses of `config.encoders`, each row named after its file or folder; `taken` are the other rows' names.

    Raises:
        UserError: no address, or a name twice.
    """
    encoders = [_encoder(item.strip(), workdir) for item in config.encoders.split(",") if item.strip()]
    names = [*taken, *(encoder.name for encoder in encoders)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"config.encoders: {twice[0]} is the name of two rows: give files of different names")
    for encoder in encoders:
        released.read(encoder.checkpoint)  # a file may be refused: before hours of training, not behind them
    return encoders


def _encoder(item: str, workdir: pathlib.Path) -> Encoder:
    if not released.is_address(item):
        raise UserError(
            f"config.encoders: {item} is not timm:FILE or hf:FOLDER_OR_ID; size, mean and deviation follow it, as "
            "in timm:mgca.pth:size=224:mean=0.5:deviation=0.5"
        )
    name = pathlib.PurePath(released.parse(item).place.partition("@")[0]).name
    name = name.removesuffix(pathlib.PurePath(name).suffix) if item.startswith("timm:") else name
    return Encoder(name, item, workdir / f"encoder-{name}")


def measure(encoder: Encoder, config: ml_collections.ConfigDict) -> dict[str, float]:
    """Test numbers of X-rays as a run's last line has them: the probe of all labels, and what its reports allow.

    They are in the encoder's folder, from where a second call takes them if they are of the same weights, sets, prompts
    and score.

    Raises:
        UserError: the set does not fit.
    """
    sets = [one for one, _ in dataset.open_sets(config.data, config.data_dir)]
    trained, evals = pretrained.load(encoder.checkpoint), config.base.evals
    trials.check_leaks(trained, sets, _Leaks(config.base.allow_leaks))
    asked = {one.name: prompts.of_set(evals.prompts, one.contract) for one in sets}
    facts = {
        "checkpoint": encoder.checkpoint,
        "weights": fingerprint.facts(fingerprint.arrays(trained.variables)),
        "config": fingerprint.facts(trained.config),
        "sets": {one.name: one.contract["content_sha256"] for one in sets},
        "prompts": asked,
        "score": evals.score,
    }
    path = encoder.folder / FACTS
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == facts:
        LOG.info("nothing left to do for %s", encoder.name)
    else:
        LOG.info("%s: probing it on the X-rays of %s", encoder.checkpoint, ", ".join(one.name for one in sets))
        scalars = _scalars(trained, sets, asked, evals)
        encoder.folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it must not stand beside others' numbers, wherever this is killed
        with writers.Writer(encoder.folder, resume_step=-1) as writer:
            writer.scalars(0, {f"test/{name}": value for name, value in scalars.items()})
        pages.write(path, json.dumps(facts, indent=2) + "\n")
    line = tables.final(writers.read(encoder.folder))
    # Of X-rays alone there is no gap.
    names = {key: key.removeprefix("test/") for key in line if key.startswith("test/") and "/gap/" not in key}
    return {name: line[key] for key, name in names.items() if line[key] is not None}


def _scalars(
    trained: Pretrained,
    sets: Sequence[records.RecordSet],
    asked: Mapping[str, Mapping[str, Pair]],
    evals: ml_collections.ConfigDict,
) -> dict[str, float]:
    evaluate = Evaluator(
        places=places.of_sets(sets),
        samplers={"xray": trained.sampler("xray", keep=("report", "labels", "patient"))},
        embedder=trained.embedder(rows=evals.rows),
        tokenizer=trained.tokenizer,
        length=trained.report_length,
        limit=0,  # all X-rays
        slices=0,
        prompts=asked,
        score=evals.score,
        has_joint_space=trained.tokenizer is not None,
    )
    with jax.set_mesh(trained.mesh):
        scalars, _ = evaluate(trained.variables, "test", final=True)
    return scalars
