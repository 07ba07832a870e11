"""A small configuration, shared by the tests that run the whole way."""

import ml_collections
import pytest

from tests.faults import config as toy


@pytest.fixture
def config(records_dir) -> ml_collections.ConfigDict:
    return toy.short(records_dir)
