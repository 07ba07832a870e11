"""The phantom of the tests, an untrained network at a tiny size, and an index of both."""

import pathlib

import pytest

from tests.conftest import once
from tests.evaluation.conftest import checkpoint_dir, phantom, trained  # noqa: F401
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.inference import embed
from unimedi_jax.search import build, entries, store


@pytest.fixture(scope="session")
def model(trained) -> embed.Model:  # noqa: F811
    return embed.Model(trained, trained.embedder(rows=4))


@pytest.fixture(scope="session")
def parts(trained, records_dir) -> entries.Entries:  # noqa: F811
    return entries.of_sets(trained, str(records_dir), ["phantom"])


@pytest.fixture(scope="session")
def index_dir(model, parts) -> pathlib.Path:
    """An index with pictures and texts; to be read alone."""
    settings = SearchConfig()
    options = dict(picture_size=32, keep_reports=True, exact=settings.exact)
    return once("index", lambda folder: build.of_entries(folder, model, parts, **options))


@pytest.fixture(scope="session")
def index(index_dir) -> store.Index:
    return store.read(index_dir)
