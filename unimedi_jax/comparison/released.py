"""Released ViTs beside trained presets: the linear probe on X-rays with their frozen CLS, no step of training."""

import copy
import dataclasses
import logging
import pathlib
from typing import NamedTuple

import jax
import ml_collections

from data import members
from data.errors import UserError
from unimedi_jax import compile_cache, sharding, writers
from unimedi_jax.comparison.runs import Run
from unimedi_jax.config import presets
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.convert import vit
from unimedi_jax.inference import start
from unimedi_jax.input import leaks
from unimedi_jax.models import towers
from unimedi_jax.train import job as jobs
from unimedi_jax.train import state as states
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)


class Encoder(NamedTuple):
    """A file of weights as a run without steps, and the grey levels in [0, 1] that the weights were trained with."""

    run: Run
    mean: float
    deviation: float


def planned(config: ml_collections.ConfigDict, workdir: pathlib.Path, *, taken: set[str]) -> list[Encoder]:
    """The files of `config.encoders`, named as they are called; `taken` are the names of other rows.

    Raises:
        UserError: no file, no ViT, or a name twice.
    """
    encoders = [_encoder(item, config, workdir) for item in config.encoders.split(",") if item]
    names = [*taken, *(encoder.run.name for encoder in encoders)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"config.encoders: {twice[0]} is the name of two rows: give files of different names")
    return encoders


def _encoder(item: str, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Encoder:
    file, *grey = item.split(":")
    path = pathlib.Path(file).expanduser()
    try:
        mean, deviation = map(float, grey or (0.5, 0.5))
    except ValueError:
        mean = deviation = 0.0
    if not path.is_file() or not deviation > 0:
        raise UserError(
            f"config.encoders: {item!r} is no file with, after colons, the mean and deviation of its grey levels"
        )
    settings = copy.deepcopy(config.base)
    # No step is trained: an objective without heads, and a batch that names the modality to evaluate.
    presets.apply(settings, {"objective": {"name": "contrast"}, "batch": {"xray": 1, "ct": 0}, "accumulate": 1})
    settings.update(data=config.data, data_dir=config.data_dir)
    settings.init.update({"checkpoint": "", "vision": str(path), "report": ""})
    plain = {"tokenizer": "linear", "type_embedding": False, "slice_embedding": False, "slices": 0}
    scores = {"cls_key": True, "score_layers": 0, "scores": "mean", "sink_norm": 0.0}
    settings.model.update({**vit.settings(path), **plain, **scores, "image_size": config.encoder_size})
    return Encoder(Run(path.stem, config.seeds[0], workdir / f"encoder-{path.stem}", settings), mean, deviation)


def measure(encoder: Encoder) -> None:
    """Probes the encoder and writes its numbers into its folder as a run does, unless they are there already.

    Raises:
        UserError: the weights or the set do not fit.
    """
    run = encoder.run
    grey = {"mean": encoder.mean, "deviation": encoder.deviation}
    line = next(iter(writers.read(run.folder)), None)
    if line and grey == {name: line[name] for name in grey}:
        LOG.info("nothing left to do for %s", run.name)
        return
    compile_cache.enable(run.settings.compilations)
    job = jobs.build_job(typed(PretrainConfig, run.settings), run.folder)
    known = members.read(pathlib.Path(run.settings.init.vision).parent)  # of an export, beside its files
    if known is not None:
        tested = [record_set for record_set, _ in job.sets]
        leaks.check(known, tested, allowed=run.settings.allow_leaks, where=run.settings.init.vision)
    with jax.set_mesh(job.mesh):
        fresh = jax.jit(lambda key: states.init_variables(job.model, key)[0])(jax.random.key(run.seed))
        variables, summary = weights({"batch_stats": {}, **fresh}, job.model, run.settings.init.vision, **grey)
        start.write([summary], run.folder / "init.json")
        LOG.info("%s; probing it on X-rays", summary)
        variables = sharding.put_replicated(variables, job.mesh)
        both = jobs.build_evaluator(job)
        alone = dataclasses.replace(both, samplers={"xray": both.samplers["xray"]}, has_joint_space=False)
        scalars, _ = alone(variables, "test", final=True)
    with writers.Writer(run.folder, resume_step=-1) as writer:
        writer.scalars(0, {**grey, **{f"test/{name}": value for name, value in scalars.items()}})


def weights(
    variables: PyTree, model: towers.UniMedI, path: str, *, mean: float, deviation: float
) -> tuple[PyTree, start.Summary]:
    """`variables` with the ViT of a file, adapted from (grey - mean) / deviation to the X-rays in [-1, 1] here.

    The tokenizer is linear: another scale of its input is another kernel and bias.
    """
    filled, (summary,) = start.fill(variables, model, {}, vision=path)
    scale, shift = 0.5 / deviation, (0.5 - mean) / deviation
    tower = filled["params"]["vision"]
    kernel, bias = tower["patch_2d"]["kernel"], tower["patch_2d"]["bias"]
    patch = {"kernel": scale * kernel, "bias": bias + shift * kernel.sum(0)}
    return {**filled, "params": {**filled["params"], "vision": {**tower, "patch_2d": patch}}}, summary
