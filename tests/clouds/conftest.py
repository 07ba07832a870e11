"""A bucket of each kind on loopback, once for the folder."""

import pytest

from data.buckets import mirror
from tests import buckets


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request):
    """The scheme of a bucket that is empty, and the variables of its server, which are set."""
    with buckets.SERVERS[request.param]() as variables, buckets.variables(variables):
        yield request.param, variables


@pytest.fixture
def scheme(server) -> str:
    return server[0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """`cache(name)`: from here on this process is a machine with a cache of that name."""

    def choose(name: str) -> None:
        monkeypatch.setenv("UNIMEDI_CACHE", str(tmp_path / name))

    choose("cache")
    yield choose
    mirror.close_all()
