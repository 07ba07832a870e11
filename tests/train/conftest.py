"""A small built set and a small configuration, shared by the tests that run the whole way."""

import pathlib

import ml_collections
import pytest

from data import phantom, records
from tests.faults import config as toy


@pytest.fixture(scope="session")
def records_dir(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("records")
    source = phantom.source(xrays=40, cts=20, seed=7)
    records.build(source, data_dir=folder, name="phantom", workers=2)
    return folder


@pytest.fixture
def config(records_dir) -> ml_collections.ConfigDict:
    return toy.short(records_dir)
