"""A checkpoint of the demo's network at a tiny size, shared by the downstream tests."""

import pathlib

import grain
import jax
import pytest

from configs import pretrain
from tests.conftest import once
from unimedi_jax import checkpoint
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.inference import pretrained
from unimedi_jax.input import records
from unimedi_jax.train import loop
from unimedi_jax.train.job import TrainingJob, build_job


@pytest.fixture(scope="session")
def checkpoint_dir(records_dir) -> pathlib.Path:
    """A run's folder with one checkpoint: weights as the seed gives them, no step trained."""
    return once("run", lambda workdir: save_run(records_dir, workdir))


def small_job(records_dir: pathlib.Path, workdir: pathlib.Path, preset: str = "demo") -> TrainingJob:
    """A run of a preset of the demo at a tiny size."""
    config = pretrain.get_config(preset)
    config.compilations = ""
    config.data_dir = str(records_dir)
    config.batch.xray, config.batch.ct, config.evals.rows = 1, 1, 4
    config.model.update(projection_hidden=16, prototypes_cls=8, prototypes_patch=8, head_hidden=16, head_bottleneck=8)
    config.model.image_size = 56
    config.model.image_patch = (8, 8)
    config.model.slice_size = 56
    return build_job(typed(PretrainConfig, config), workdir)


def save_run(records_dir: pathlib.Path, workdir: pathlib.Path, preset: str = "demo") -> None:
    """Leaves the folder of a run with one checkpoint."""
    job = small_job(records_dir, workdir, preset)
    iterator = iter(grain.MapDataset.range(3).to_iter_dataset())
    with jax.set_mesh(job.mesh), checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, job.init(jax.random.key(5)), iterator, loop.facts(job))


@pytest.fixture(scope="session")
def trained(checkpoint_dir) -> pretrained.Pretrained:
    return pretrained.load(checkpoint_dir)


@pytest.fixture(scope="session")
def phantom(records_dir) -> records.RecordSet:
    return records.open_set(records_dir, "phantom")
