"""One run a place in a bucket: a second is told, a dead one's place is free, one that was overtaken writes no more."""

import json
import subprocess
import sys

import pytest

from data.buckets import lease, mirror
from data.errors import UserError


@pytest.fixture
def place(scheme, cache, request, monkeypatch) -> mirror.Mirror:
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "PATIENCE", 2.0)
    return mirror.written(f"{scheme}://bucket/leases/{request.node.name.partition('[')[0]}")


def of(place: mirror.Mirror) -> lease.Lease:
    return lease.Lease(place.store, place.store.path)


def test_a_second_run_is_told(place):
    with of(place), pytest.raises(UserError, match="another process trains there: wait for its end"), of(place):
        pass
    with of(place) as again:  # the first has left
        again.check()
    assert place.store.list(place.store.path) == {}


def test_the_place_of_a_run_that_was_killed_is_free(place, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for host in (of(place)._facts["host"], "elsewhere"):
        owner = {"token": "a", "host": host, "process": ended.pid, "beat": 3}
        place.store.write(f"{place.store.path}/{lease.NAME}", json.dumps(owner).encode())
        if host != "elsewhere":
            monkeypatch.setattr(lease, "PATIENCE", 1e6)  # on its own machine it is known to be dead
        with of(place):
            pass
        monkeypatch.setattr(lease, "PATIENCE", 0.5)


def test_who_was_overtaken_sends_nothing_more(place):
    with of(place) as place.lease:
        (place.path).mkdir()
        (place.path / "a").write_bytes(b"mine")
        place.push()
        place.store.write(f"{place.store.path}/{lease.NAME}", json.dumps({"token": "another"}).encode())
        (place.path / "a").write_bytes(b"mine, later")
        with pytest.raises(UserError, match="another run took this place over"):
            place.push()
    assert place.store.read(f"{place.store.path}/a") == b"mine"
    assert place.store.read(f"{place.store.path}/{lease.NAME}") is not None, "the other's lease stays"
