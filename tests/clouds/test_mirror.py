"""A folder here is what the bucket holds, and the other way round; manifests go last."""

import os
import pathlib

import pytest

from data.buckets import mirror, store
from data.errors import UserError


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: pathlib.Path, files: dict[str, bytes]) -> dict[str, bytes]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """The names of objects that were sent or fetched, in order."""
    names: list[str] = []
    put, get = store.Store.put, store.Store.get
    monkeypatch.setattr(store.Store, "put", lambda self, path, name: (names.append(name), put(self, path, name)))
    monkeypatch.setattr(store.Store, "get", lambda self, name, *rest: (names.append(name), get(self, name, *rest)))
    return names


def test_what_is_written_on_one_machine_is_read_on_another(scheme, cache, sent):
    url = f"{scheme}://bucket/round/trip"
    place = mirror.written(url)
    files = fill(place.path, {"1/state/a": b"a" * 9, "1/manifest.json": b"{}", "metrics.jsonl": b"1\n", ".salt": b"s"})
    fill(place.path, {"2.partial": b"", "3.orbax-checkpoint-tmp/a": b"", ".lock": b"", "4.old/a": b""})
    place.push()
    assert sent[-1].endswith("1/manifest.json")
    assert len(sent) == 4
    cache("other")
    assert contents(mirror.fetch(url)) == files
    assert len(sent) == 8
    mirror.fetch(url)
    assert len(sent) == 8, "what is there is not fetched again"

    cache("cache")
    (place.path / "metrics.jsonl").write_bytes(b"1\n2\n")
    (place.path / "1" / "state" / "a").unlink()
    place.push()
    assert sent[8:] == ["bucket/round/trip/metrics.jsonl"]
    cache("other")
    (path := mirror.fetch(url) / "metrics.jsonl").write_bytes(b"somebody's")
    os.utime(path, (1, 1))
    files |= {"metrics.jsonl": b"1\n2\n"}
    del files["1/state/a"]
    assert contents(mirror.fetch(url)) == files, "what was changed here is fetched anew"


def test_a_folder_to_write_is_one_process_alone_and_one_to_read_is_shared(scheme, cache):
    url = f"{scheme}://bucket/alone/a.npz"
    first, second = mirror.written(url), mirror.written(url)
    assert first.path != second.path
    assert {first.path.name, second.path.name} == {"a.npz"}
    first.path.write_bytes(b"numbers")
    first.path.with_name("a.npz.rejected.jsonl").write_bytes(b"{}\n")
    first.push()
    second.pull()
    assert second.path.read_bytes() == b"numbers"
    assert mirror.fetch(url) == mirror.fetch(url)
    assert store.Store(url).read("bucket/alone/a.npz.rejected.jsonl") == b"{}\n"
    assert mirror.of(first.path / "inner") is first
    assert mirror.of(pathlib.Path("/elsewhere")) is None
    settings = {"init": {"checkpoint": f"{first.path}:best"}, "data": "a", "out": str(first.path)}
    assert mirror.named(settings) == {"init": {"checkpoint": f"{url}:best"}, "data": "a", "out": url}
    words = f"in {first.path}, {second.path}/x and {first.path}-2"
    assert mirror.named(words) == f"in {url}, {url}/x and {first.path}-2"
    second.active = False
    second.path.write_bytes(b"of a host that only reads")
    second.push()
    assert store.Store(url).read("bucket/alone/a.npz") == b"numbers"


def test_sets_are_fetched_by_name_and_others_are_left_alone(scheme, cache):
    url = f"{scheme}://bucket/records"
    place = mirror.written(url)
    fill(place.path, {"mine/contract.json": b"{}", "other/contract.json": b"{}", "mine.rejected.jsonl": b""})
    place.push()
    cache("reader")
    folder = mirror.fetch(url, ["mine", "phantom"])
    fill(folder, {"phantom/contract.json": b"built here"})
    assert contents(mirror.fetch(url, ["mine", "phantom"])).keys() == {"mine/contract.json", "phantom/contract.json"}
    builder = mirror.written(url, ["new", ".salt"])
    fill(builder.path, {"new/contract.json": b"{}", ".salt": b"s"})
    builder.push()
    names = {name.removeprefix("bucket/records/") for name in store.Store(url).list("bucket/records")}
    assert names == {"mine/contract.json", "other/contract.json", "mine.rejected.jsonl", "new/contract.json", ".salt"}


def test_what_does_not_fit_or_is_not_there_is_one_line(scheme, cache, monkeypatch):
    with pytest.raises(UserError, match=rf"^{scheme}://bucket/nothing: there is nothing$"):
        mirror.fetch(f"{scheme}://bucket/nothing")
    for name in ("old", "new"):
        place = mirror.written(f"{scheme}://bucket/{name}")
        fill(place.path, {"a": bytes(600)})
        place.push()
    cache("small")
    monkeypatch.setenv("UNIMEDI_CACHE_GB", "1e-6")
    old = mirror.fetch(f"{scheme}://bucket/old")
    with pytest.raises(UserError, match=r"UNIMEDI_CACHE_GB=1e-06 is in use: raise it, or mount the bucket"):
        mirror.fetch(f"{scheme}://bucket/new")
    next(one for one in mirror._OPEN if one.path == old).close()  # the process that read it has ended
    assert mirror.fetch(f"{scheme}://bucket/new").is_dir()
    assert not old.exists()
    monkeypatch.setenv("UNIMEDI_CACHE_GB", "1e-7")
    with pytest.raises(UserError, match=r"has 0.0 GB, above UNIMEDI_CACHE_GB=1e-07"):
        mirror.fetch(f"{scheme}://bucket/old")
    monkeypatch.setenv("UNIMEDI_CACHE_GB", "much")
    with pytest.raises(UserError, match="UNIMEDI_CACHE_GB=much is no number"):
        mirror.fetch(f"{scheme}://bucket/old")


def test_a_name_that_leads_out_of_the_folder_is_refused(cache, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setattr(store.Store, "list", lambda *_: {"bucket/x/../../etc/passwd": store.Object(1, "t", "")})
    with pytest.raises(UserError, match="whose name is no path"):
        mirror.fetch("s3://bucket/x")
