"""A folder here is what the bucket holds, and the other way round; marks go last."""

import os
import pathlib
import shutil

import pytest

from data.buckets import cache as caching
from data.buckets import mirror, store
from data.errors import UserError


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: pathlib.Path, files: dict[str, bytes]) -> dict[str, bytes]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def names_in(url: str) -> set[str]:
    place = store.Store(url)
    return {name.removeprefix(f"{place.path}/") for name in place.list(place.path)}


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
    assert names_in(url) == {
        "mine/contract.json",
        "other/contract.json",
        "mine.rejected.jsonl",
        "new/contract.json",
        ".salt",
    }


def test_a_set_of_which_a_part_was_sent_does_not_count_as_one_and_stays_here(scheme, cache, monkeypatch):
    url, only = f"{scheme}://bucket/half", ("mine", ".salt")
    put, names = store.Store.put, []

    def send(self, path, name):
        if len(names) == 3:
            raise KeyboardInterrupt
        names.append(name)
        put(self, path, name)

    place = mirror.written(url, only)
    files = {f"mine/{name}": name.encode() for name in ("contract.json", "ct/a", "ct/b", "members.json", "xray/a")}
    fill(place.path, files)
    monkeypatch.setattr(mirror, "THREADS", 1)
    monkeypatch.setattr(store.Store, "put", send)
    with pytest.raises(KeyboardInterrupt):
        place.push()
    assert len(names) == 3
    assert "bucket/half/mine/contract.json" not in names
    place.close()
    monkeypatch.setattr(store.Store, "put", put)
    place = mirror.written(url, only)
    assert contents(place.path) == files, "what was not sent yet is still here"
    place.push()
    place.close()
    cache("other")
    assert contents(mirror.fetch(url, only)) == files
    cache("cache")
    shared = store.Store(url)
    for name in files:
        shared.remove(f"bucket/half/{name}")
    assert contents(mirror.written(url, only).path) == {}, "a set that was whole there and is removed there goes here"


@pytest.mark.parametrize("only", [("b", ".salt"), ()])
def test_what_has_gone_from_the_cache_is_not_removed_from_the_bucket(scheme, cache, only):
    url = f"{scheme}://bucket/emptied{len(only)}"
    place = mirror.written(url, ("a", ".salt"))
    fill(place.path, {"a/contract.json": b"{}", "a/ct/records": b"a", ".salt": b"s", "a.rejected.jsonl": b""})
    place.push()
    place.close()
    shutil.rmtree(place.path.parent)
    place = mirror.written(url, only)
    fill(place.path, {"b/contract.json": b"{}", "b.rejected.jsonl": b""})
    place.push()
    assert {"a/contract.json", "a/ct/records", "b/contract.json", "a.rejected.jsonl"} <= names_in(url)
    (place.path / "b.rejected.jsonl").unlink()
    place.push()
    assert "b.rejected.jsonl" not in names_in(url), "what the job itself removes goes, beside its set too"


def test_an_entry_whose_removal_is_interrupted_has_no_index(scheme, cache, monkeypatch):
    place = mirror.written(f"{scheme}://bucket/evicted")
    fill(place.path, {"a": b"a"})
    place.push()
    place.close()
    index = place.path.parent.with_suffix(".json")
    assert index.exists()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        caching._removed(index)
    assert not index.exists()


def test_what_does_not_fit_or_is_not_there_is_one_line(scheme, cache, monkeypatch):
    with pytest.raises(UserError, match=rf"^there is nothing at {scheme}://bucket/nothing$"):
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
