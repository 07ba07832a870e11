"""A small built set and a small configuration, shared by the tests that run the whole way."""

import pathlib

import ml_collections
import pytest

from configs import pretrain
from data import phantom, records


@pytest.fixture(scope="session")
def records_dir(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("records")
    source = phantom.source(xrays=40, cts=20, seed=7)
    records.build(source, data_dir=folder, name="phantom", workers=2)
    return folder


@pytest.fixture
def config(records_dir) -> ml_collections.ConfigDict:
    """The demo made smaller still: three steps, a batch that eight simulated devices can share."""
    config = pretrain.get_config("demo")
    config.compilations = ""
    config.data_dir = str(records_dir)
    config.steps = 3
    config.log_every = 1
    config.batch.xray, config.batch.ct = 1, 1
    config.model.update(
        vision_size="Mu", projection_hidden=32, prototypes_cls=32, prototypes_patch=16,
        head_hidden=32, head_bottleneck=16,
    )  # fmt: skip
    config.checkpoint.every = 2
    config.evals.update(every=2, rows=1, limit=4)
    return config
