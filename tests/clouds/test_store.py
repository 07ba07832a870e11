"""One way to speak to both kinds of buckets: what passes is tried again, what lasts is one line."""

import hashlib
import importlib
import os

import fsspec
import pytest

from data.buckets import store
from data.errors import UserError
from tests import buckets
from tests.clouds.proxy import Proxy


@pytest.fixture
def bucket(scheme, cache) -> store.Store:
    return store.Store(f"{scheme}://{buckets.BUCKET}")


def test_objects_come_back_as_they_were_sent(bucket, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for content in (b"", b"some", os.urandom(1 << 20)):
        source.write_bytes(content)
        bucket.put(source, "bucket/back/a b/é.bin")
        (listed,) = bucket.list("bucket/back").items()
        assert listed[0] == "bucket/back/a b/é.bin"
        assert listed[1].size == len(content)
        bucket.get(*[listed[0], target, listed[1]])
        assert target.read_bytes() == content
    before = bucket.list("bucket/back")["bucket/back/a b/é.bin"].tag
    bucket.write("bucket/back/a b/é.bin", content[::-1])
    assert bucket.list("bucket/back")["bucket/back/a b/é.bin"].tag != before
    bucket.remove("bucket/back/a b/é.bin")
    bucket.remove("bucket/back/a b/é.bin")
    assert bucket.list("bucket/back") == {}
    assert bucket.read("bucket/back/a b/é.bin") is None
    with pytest.raises(FileNotFoundError):
        bucket.get(listed[0], target, listed[1])


def test_a_byte_that_flips_on_its_way_is_fetched_again(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "WAITS", (0.0, 0.0))
    content, target = os.urandom(1000), tmp_path / "target"
    bucket.write("bucket/flip", content)
    listed = bucket.list("bucket/flip")["bucket/flip"]
    assert listed.md5 == hashlib.md5(content).hexdigest()
    fetch, fetched = bucket._files.get_file, []

    def flipped(name: str, path: str) -> None:
        fetch(name, path)
        fetched.append(name)
        if len(fetched) == 1:
            target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(bucket._files, "get_file", flipped)
    bucket.get("bucket/flip", target, listed)
    assert target.read_bytes() == content
    assert len(fetched) == 2


def test_tags_of_s3_that_are_no_md5_cost_one_more_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WAITS", (0.0, 0.0))
    with buckets.s3() as variables, buckets.variables(variables):
        bucket = store.Store(f"s3://{buckets.BUCKET}")
        bucket.write("bucket/coded", b"some")
        listed = bucket.list("bucket/coded")["bucket/coded"]._replace(md5="0" * 32)
        fetch, fetched = bucket._files.get_file, []
        monkeypatch.setattr(bucket._files, "get_file", lambda *pair: (fetched.append(pair), fetch(*pair)))
        for _ in range(3):
            bucket.get("bucket/coded", tmp_path / "target", listed)
            assert (tmp_path / "target").read_bytes() == b"some"
        assert len(fetched) == 4
        bucket._files.pipe_file("bucket/parts", os.urandom(11 << 20), chunksize=5 << 20)
        assert bucket.list("bucket/parts")["bucket/parts"].md5 == ""


def test_of_several_who_create_an_object_one_does(bucket):
    assert [bucket.create("bucket/lock", name) for name in (b"a", b"b", b"c")] == [True, False, False]
    assert bucket.read("bucket/lock") == b"a"
    assert bucket.create("bucket/lock", b"a"), "the answer to the first try may have been lost"


def test_what_lasts_is_one_line_and_what_to_do(bucket, server, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"^\w\w://nobody/a: there is no such bucket"):
        store.Store(f"{bucket.scheme}://nobody/a").list("nobody/a")
    monkeypatch.setattr(store, "WAITS", (0.0,))
    (tmp_path / "one").write_bytes(b"1")
    bucket.put(tmp_path / "one", "bucket/one")
    listed = bucket.list("bucket/one")["bucket/one"]
    with pytest.raises(UserError, match=r"^\w\w://bucket: could not read bucket/one \(OSError: 1 of 2 bytes"):
        bucket.get("bucket/one", tmp_path / "two", listed._replace(size=2))
    if bucket.scheme == "gs":
        with pytest.raises(UserError, match="other bytes than were stored"):
            bucket.get("bucket/one", tmp_path / "two", listed._replace(md5="0" * 32))
    with pytest.raises(UserError, match="is no address in a bucket"):
        store.Store(f"{bucket.scheme}://")
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: importlib.import_module("no_such_package"))
    with pytest.raises(
        UserError, match=rf"takes {store.PACKAGES[bucket.scheme]}: pip install -r requirements-cloud.txt"
    ):
        store.Store(f"{bucket.scheme}://bucket")


def test_missing_credentials_are_one_line(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"^s3://bucket/a: no credentials that it takes: aws configure, or AWS_"):
        store.Store("s3://bucket/a").list("bucket/a")

    class HttpError(Exception):
        code = 401

    line = store._lasting(HttpError("Anonymous caller does not have storage.objects.list access"), "gs://b", "gs")
    assert line.startswith("gs://b: no credentials that it takes: gcloud auth application-default login")
    assert "may not do that" in store._lasting(PermissionError("Forbidden"), "gs://b", "gs")
    assert store._lasting(OSError("reset"), "gs://b", "gs") == ""


def test_answers_that_are_slow_cut_reset_or_503_change_nothing(server, monkeypatch, tmp_path):
    scheme, variables = server
    name = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[scheme]
    monkeypatch.setattr(store, "WAITS", (0.0, 0.05) * 6)
    with Proxy(int(variables[name].rpartition(":")[2]), share=0.15) as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        bucket = store.Store(f"{scheme}://bucket")
        contents = {f"bucket/bad/{i}": os.urandom(200 * i) for i in range(30)}
        for key, content in contents.items():
            (tmp_path / "sent").write_bytes(content)
            bucket.put(tmp_path / "sent", key)
        listed = bucket.list("bucket/bad")
        assert listed.keys() == contents.keys()
        for key, entry in listed.items():
            bucket.get(key, tmp_path / "fetched", entry)
            assert (tmp_path / "fetched").read_bytes() == contents[key]
    assert sum(proxy.counts.values()) > 5, proxy.counts
