"""Models of a hub: fetched by huggingface_hub's client, held against their hashes, and one line for whatever fails."""

import os
import pathlib
import subprocess
import sys

import pytest

from data.errors import UserError
from tests import hub as loopback
from tests.conftest import ROOT
from unimedi_jax.convert import checksums, hub

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 200, "evil.py": b"raise SystemExit(3)"}
PATTERNS = ("*.json", "*.safetensors")


@pytest.fixture
def server():
    with loopback.serve() as content:
        content.models["org/name"] = dict(FILES)
        yield content


@pytest.fixture
def fetch(server, tmp_path):
    """`fetch(name, **environment)`: what a process prints that fetches it: its folder, or the error's line."""

    def run(name: str, **changes: str) -> str:
        code = (
            "import sys; from data.errors import UserError; from unimedi_jax.convert import hub\n"
            f"try: print(hub.snapshot(sys.argv[1], {PATTERNS!r}))\n"
            "except UserError as error: print('error:', error)"
        )
        environment = os.environ | server.environment(tmp_path / "cache") | changes
        command = [sys.executable, "-c", code, name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()

    return run


def test_files_come_once_and_then_from_the_cache(server, fetch):
    folder = pathlib.Path(fetch("org/name"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }, "what is not asked for stays where it is"
    assert hub.label(folder) == f"org/name@{folder.name[:8]}"
    asked = len(server.requests)
    assert fetch("org/name", HF_HUB_OFFLINE="1") == str(folder)
    assert len(server.requests) == asked, "offline nobody is asked"
    assert fetch(f"org/name@{folder.name}") == str(folder)
    assert not [path for _, path, _ in server.requests[asked:] if "resolve" in path], "nothing comes twice"
    assert fetch("org/name", HF_ENDPOINT="http://127.0.0.1:9") == str(folder), "a hub that is away is the cache"


def test_a_broken_transfer_goes_on_where_it_broke(server, fetch):
    content = server.models["org/name"]["model.safetensors"] = bytes(range(256)) * (24 << 12)
    server.cut["model.safetensors"] = 1
    assert (pathlib.Path(fetch("org/name")) / "model.safetensors").read_bytes() == content
    transfers = [asked for verb, path, asked in server.requests if verb == "GET" and path.endswith(".safetensors")]
    assert transfers[0] == ""
    assert int(transfers[1].removeprefix("bytes=").removesuffix("-")) >= 1 << 20


def test_a_file_cut_short_is_refused(server, fetch):
    server.short.add("model.safetensors")
    assert "broke off (OSError): the same command tries again" in fetch("org/name")
    server.short.clear()
    assert fetch("org/name").startswith("/")


def test_a_changed_file_in_the_cache_is_refused_whatever_its_size(fetch):
    for name in ("model.safetensors", "config.json"):
        path = pathlib.Path(fetch("org/name")) / name
        right = path.read_bytes()
        path.resolve().write_bytes(b"x" + right[1:])
        for offline in ("0", "1"):
            assert f"{name} is not what the hub sent" in fetch("org/name", HF_HUB_OFFLINE=offline)
        path.resolve().write_bytes(right)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("org/other", {}, "has no such model, or a private one"),
        ("org/name@v2", {}, "no revision 'v2' of it"),
        ("org/name", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("org/name", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        ("org/secret", {}, "has no such model, or a private one"),
        ("org/secret", {"HF_TOKEN": loopback.Hub.TOKEN}, ""),
    ],
)
def test_what_cannot_be_had_is_one_line(server, fetch, name, changes, words):
    server.models["org/secret"] = dict(FILES)
    server.private.add("org/secret")
    line = fetch(name, **changes)
    assert words in line
    assert line.startswith("error: " if words else "/")


def test_a_path_of_ones_own_is_never_sent_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/pretrian", "./org/name", "/org/name", "~/name", "a/b/c", "name", "org/name:best", "", "a/../b"):
        assert not hub.is_id(name), name
    for name in ("org/name", "org/name@main", "timm/vit_small.dino", "o/n@refs/pr/1"):
        assert hub.is_id(name), name


def test_checksums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a b.json").write_text("{}")
    (tmp_path / "weights").write_bytes(bytes(1000))
    checksums.write(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", checksums.FILE], cwd=tmp_path, check=True, capture_output=True)
    checksums.check(tmp_path, [tmp_path / "deep" / "a b.json", tmp_path / "weights"])
    (tmp_path / "weights").write_bytes(bytes(999) + b"1")
    checksums.check(tmp_path, [tmp_path / "deep" / "a b.json"])
    with pytest.raises(UserError, match="weights is damaged or was changed"):
        checksums.check(tmp_path, [tmp_path / "weights"])
