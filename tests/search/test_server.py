"""The page as a browser and a stranger meet it: answers, refusals, and nothing left behind by what is sent."""

import contextlib
import errno
import html
import http.client
import io
import logging
import multiprocessing.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import cv2
import nibabel
import numpy as np
import pytest
import requests

from data import record_grid
from tests import dicoms
from tests.data import test_bad_inputs as corpus
from tests.pages import HOSTILE as MARKUP
from tests.pages import Parsed
from tests.search import readers
from tests.search.test_uploads import body
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.search import app as apps
from unimedi_jax.search import decoding, server, store

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def serving(folder, model, **settings):
    """A server on a free port, in threads of this process."""
    app = apps.App(folder, model, SearchConfig(**{"k": 4, "upload_mb": 4, "upload_seconds": 20, **settings}))
    with server.Server(app, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder of temporary files, to see what is left in it."""
    multiprocessing.util.get_temp_dir()  # of the socket by which Python starts processes, until its own end
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


def left(temporary) -> list[str]:
    """Files of uploads."""
    return [path.name for path in temporary.iterdir()]


@pytest.fixture(scope="module")
def running(index_dir, model, temporary):
    with serving(index_dir, model, show_reports="yes") as one:
        yield one


@pytest.fixture(scope="module")
def film(phantom) -> bytes:
    record = phantom.source("xray", "train")[0]
    return cv2.imencode(".png", record["image"])[1].tobytes()


@pytest.fixture(scope="module")
def scan(phantom, tmp_path_factory) -> bytes:
    record = phantom.source("ct", "train")[0]
    z, y, x = record["spacing_mm"].tolist()
    image = nibabel.Nifti1Image(record["volume"].transpose(2, 1, 0), np.diag([-x, -y, z, 1.0]))
    path = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    nibabel.save(image, path)
    return path.read_bytes()


def post(running, files=(), **fields) -> requests.Response:
    """As the page's own form."""
    sent = [("picture", file) for file in files] or [("picture", ("", b""))]
    origin = {"Origin": running.address.rpartition(f"/{running.key}")[0]}
    return requests.post(f"{running.address}search", files=sent, data=fields, headers=origin, timeout=60)


def shown_ids(text: str) -> list[str]:
    parsed = Parsed(text)
    return [one for one in parsed.text if one.startswith("phantom-")]


def test_the_form_is_one_page_under_a_strict_policy(running):
    answer = requests.get(running.address, timeout=60)
    assert answer.status_code == 200
    tags = {tag for tag, _ in Parsed(answer.text).tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "img"}
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in answer.headers["Server"]


def test_a_film_finds_itself_first(running, film, index):
    answer = post(running, [("film.png", film)])
    assert answer.status_code == 200
    assert shown_ids(answer.text)[0] == index.columns["id"][0]
    assert "1.000" in answer.text
    assert any(html.escape(index.report(row)) in answer.text for row in range(len(index))), "reports are shown here"


def test_a_ct_finds_itself_and_only_what_passes_the_filters(running, scan, index):
    row = index.columns["modality"].tolist().index("ct")
    answer = post(running, [("ct.nii.gz", scan)])
    assert shown_ids(answer.text)[0] == index.columns["id"][row]
    answer = post(running, [("ct.nii.gz", scan)], modality="xray", split="train")
    assert answer.status_code == 200
    assert shown_ids(answer.text)
    assert all(name.startswith("phantom-xray") for name in shown_ids(answer.text))


def test_a_dicom_series_is_one_upload(running):
    pixels = np.full((12, 16, 16), 24, np.int16)
    pixels[:, 4:12, 4:12] = 1064
    files = []
    for number, plane in enumerate(pixels):
        elements = dict(Modality="CT", SeriesInstanceUID="1.2.3", PixelSpacing=[2, 2], RescaleSlope=1)
        elements |= dict(RescaleIntercept=-1024, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], InstanceNumber=number + 1)
        one = dicoms.dataset(plane, ImagePositionPatient=[0, 0, 3 * number], **elements)
        stream = io.BytesIO()
        one.save_as(stream, enforce_file_format=True)
        files.append((f"../../IM{number}", stream.getvalue()))
    answer = post(running, files)
    assert answer.status_code == 200, Parsed(answer.text).text
    assert "CT" in Parsed(answer.text).text
    assert post(running, files[:2]).status_code == 422


def test_a_sentence_alone_with_a_film_and_a_case_of_the_index(running, film, index):
    alone = shown_ids(post(running, text=index.report(3)).text)
    assert alone[4:] != []
    assert post(running, [("a.png", film)], text="nodule").status_code == 200
    near = requests.get(f"{running.address}case?row=0&modality=ct", timeout=60)
    assert near.status_code == 200
    assert all(name.startswith("phantom-ct") for name in shown_ids(near.text))
    itself = requests.get(f"{running.address}case?row=0", timeout=60)
    assert index.columns["id"][0] not in shown_ids(itself.text), "a case is not its own neighbour"


def test_markup_in_a_query_is_text(running):
    answer = post(running, text=MARKUP, label=MARKUP)
    parsed = Parsed(answer.text)
    assert answer.status_code == 422
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert any(MARKUP in one for one in parsed.text)


@pytest.mark.parametrize("row", ["-1", "99999", "1e3", "", "٣", "9" * 40, "0;x"])
def test_a_case_that_is_none_is_one_line(running, row):
    answer = requests.get(f"{running.address}case", params={"row": row}, timeout=60)
    assert answer.status_code == 422
    assert "the index has no such case" in answer.text


def test_reports_are_not_shown_unless_asked_for(index_dir, model, index):
    with serving(index_dir, model) as quiet:
        answer = post(quiet, text="There is a nodule.")
        assert answer.status_code == 200
        assert "The text is not shown." in answer.text
        for row in range(len(index)):
            assert html.escape(index.report(row)[:40]) not in answer.text


def test_a_full_disk_is_said_on_the_page(running, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(running.app, "search", full)
    answer = post(running, text="a")
    assert answer.status_code == 503
    assert "No space left on device; check the disk" in answer.text
    monkeypatch.setattr(running.app, "search", lambda *_: {}["of our own"])
    assert post(running, text="a").status_code == 500


# ---- what a stranger sends ----


def raw(running, request: bytes) -> bytes:
    """What the server says to bytes."""
    with socket.create_connection(running.server_address, timeout=30) as connection:
        connection.sendall(request)
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                parts.append(part)
    return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{port}"]
)
def test_another_name_for_the_loopback_is_refused(running, host):
    """As when a page's name server lets its name lead here (DNS rebinding)."""
    host = host.format(port=running.server_port).encode()
    answer = raw(running, b"GET /%s/ HTTP/1.1\r\nHost: %s\r\n\r\n" % (running.key.encode(), host))
    assert status(answer) == 421
    twice = b"GET /%s/ HTTP/1.1\r\nHost: localhost:%d\r\nHost: evil\r\n\r\n"
    assert status(raw(running, twice % (running.key.encode(), running.server_port))) == 421


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "https://{host}", "http://127.0.0.1:1"])
def test_another_pages_form_is_refused(running, origin):
    host = f"127.0.0.1:{running.server_port}"
    headers = {} if origin is None else {"Origin": origin.format(host=host)}
    kind, content = body(text="a")
    answer = requests.post(
        f"{running.address}search", data=content, headers={"Content-Type": kind, **headers}, timeout=60
    )
    assert answer.status_code == 403


PATHS = (
    *("/", "/index.json", "/{key}", "/wrong/", "/{key}/../index.json", "/{key}/cases.jsonl", "/{key}//etc/passwd"),
    *("/{key}/%2e%2e/%2e%2e/etc/passwd", "/{key}/case/0", "http://[", "/{key}/search"),
)


@pytest.mark.parametrize("path", PATHS)
def test_an_address_never_becomes_a_path(running, path):
    line = path.format(key=running.key).encode()
    answer = raw(running, b"GET %s HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % (line, running.server_port))
    assert status(answer) in (400, 403, 404)
    assert b"root:" not in answer
    assert b"phantom-" not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PATCH", "X" * 70000])
def test_no_other_method(running, method):
    answer = raw(
        running, f"{method} /{running.key}/ HTTP/1.1\r\nHost: localhost:{running.server_port}\r\n\r\n".encode()
    )
    assert status(answer) in (414, 501)
    assert b"Content-Security-Policy: default-src 'none'" in answer


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (b"Content-Length: 99999999999\r\n", 413),
        (b"Content-Length: %d\r\n" % (5 << 20), 413),
        (b"Content-Length: -1\r\n", 411),
        (b"Content-Length: 1e3\r\n", 411),
        (b"", 411),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 411),
        (b"Content-Length: 3\r\nContent-Type: text/plain\r\n", 400),
    ],
)
def test_a_body_has_a_length_within_bounds(running, headers, code):
    start = b"POST /%s/search HTTP/1.1\r\nHost: localhost:%d\r\n" % (running.key.encode(), running.server_port)
    origin = b"Origin: http://localhost:%d\r\n" % running.server_port
    assert status(raw(running, start + origin + headers + b"\r\nabc")) == code


def test_who_sends_nothing_holds_no_place(index_dir, model, monkeypatch):
    monkeypatch.setattr(server.Handler, "timeout", 0.5)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with serving(index_dir, model) as busy:
        idle = [socket.create_connection(busy.server_address, timeout=30) for _ in range(3)]
        time.sleep(0.1)
        assert raw(busy, b"GET / HTTP/1.1\r\n\r\n") == b"", "too many: closed at once"
        for one in idle:
            assert one.recv(1) == b"", "closed after its pause"
            one.close()
        assert requests.get(busy.address, timeout=60).status_code == 200


def test_a_query_that_does_not_arrive_is_ended(index_dir, model):
    with serving(index_dir, model, upload_seconds=1) as short:
        start = "POST /{}/search HTTP/1.1\r\nHost: localhost:{}\r\nOrigin: http://localhost:{}\r\n"
        start += "Content-Length: 999\r\n\r\n"
        with socket.create_connection(short.server_address, timeout=30) as connection:
            connection.sendall(start.format(short.key, short.server_port, short.server_port).encode())
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    connection.sendall(b"x")
                    time.sleep(0.1)
            answer = connection.recv(1 << 16)
        assert status(answer) == 408


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(1 << 26))
    return stream.getvalue()


def test_the_corpus_of_bad_inputs_neither_ends_the_server_nor_leaves_files(running, temporary, tmp_path, film, caplog):
    """Each is answered with the code that the build job has for it, or with neighbours where the build job takes it."""
    caplog.set_level(logging.DEBUG)
    before = sorted(path.name for path in ROOT.iterdir())
    codes = set()
    for number, (name, (make, verdict, _)) in enumerate(corpus.CASES.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = make(folder)
        paths = sorted(path.iterdir()) if path.is_dir() else [path]
        try:
            files = [(one.name, one.read_bytes()) for one in paths]
        except OSError:
            continue  # what is no file cannot be sent
        if not any(content for _, content in files):
            continue
        answer = post(running, files)
        text = " ".join(Parsed(answer.text).text)
        sent_whole = path.suffix != ".hdr"  # a header without its voxels
        if verdict == "ok" and sent_whole and answer.status_code != 200:
            assert "unsupported_format" in text or "pictures in one upload" in text, (name, text)
        elif verdict != "ok":
            assert answer.status_code == 422, (name, text)
            codes.add(next((word for word in text.split() if word.rstrip(":") == verdict), ""))
        shutil.rmtree(folder)
    assert len(codes) > 25
    odd = {
        "png": zip_bomb(),
        "nii.gz": b"\x1f\x8b" + b"\x00" * 50,
        "dcm": bytes(1000),
        "nrrd": b"NRRD0005\n",
        "mha": b"x",
    }
    for ending, content in (*odd.items(), ("exe", os.urandom(5000)), ("", b"%PDF-1.7")):
        assert post(running, [(f"x.{ending}", content)]).status_code == 422
    assert left(temporary) == []
    assert sorted(path.name for path in ROOT.iterdir()) == before
    assert post(running, [("film.png", film)]).status_code == 200
    ours = [record for record in caplog.records if record.name.startswith(("unimedi_jax", "data"))]
    assert ours == [], "nothing of a query is logged"


def test_a_manifest_is_no_upload(running, tmp_path, film):
    """Its rows would name files of this machine."""
    (tmp_path / "film.png").write_bytes(film)
    rows = f"path,modality\n{tmp_path / 'film.png'},xray\n".encode()
    for name in ("rows.csv", "rows.txt", "x.CSV"):
        answer = post(running, [(name, rows)])
        assert answer.status_code == 422
        assert "no picture that is read" in answer.text


def test_a_name_is_never_used(running, film, temporary):
    for name in ("../../../film.png", "/etc/cron.d/film.png", "a\x00b.png", "." * 300 + ".png", "film.png/../x.PNG"):
        assert post(running, [(name, film)]).status_code == 200
    assert left(temporary) == []


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (readers.dies, "reader_crashed"),
        (readers.sleeps, "too_slow: it cannot be read in 6 s"),
        (readers.writes, "no file: File too large"),
        (readers.grows, "reader_crashed"),
        (readers.lies, "reader_crashed"),
        (readers.boasts, "reader_crashed"),
        (readers.swells, "reader_crashed"),
    ],
)
def test_what_a_reader_does_stays_in_its_process(temporary, read, words):
    decoder = decoding.Decoder(read, record_grid.DEFAULT, seconds=6, gigabytes=1)
    with pytest.raises(decoding.UploadError, match=words):
        decoder.read([("x.png", memoryview(b"x"))])
    assert left(temporary) == []


def test_a_patient_who_is_deleted_is_shown_no_more(index_dir, model, tmp_path, film):
    folder = tmp_path / "index"
    shutil.copytree(index_dir, folder)
    with serving(folder, model) as one:
        first = shown_ids(post(one, [("film.png", film)]).text)[0]
        index = store.read(folder)
        store.rewrite(index, index.columns["id"] != first)
        answer = post(one, [("film.png", film)])
        assert answer.status_code == 200
        assert first not in answer.text
        shutil.rmtree(folder)
        assert requests.get(one.address, timeout=60).status_code == 503


def test_the_job_serves_on_the_loopback_alone_until_it_is_stopped(index_dir, checkpoint_dir):
    command = [
        sys.executable,
        "main.py",
        "--config=configs/search.py",
        f"--config.index={index_dir}",
        "--config.rows=1",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command += [f"--config.checkpoint={checkpoint_dir}", f"--config.serve={port}"]
    one_device = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}  # quicker to compile for
    with subprocess.Popen(command, cwd=ROOT, env=one_device, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        address = line.split()[1]
        assert requests.get(address, timeout=60).status_code == 200
        sockets = pathlib.Path("/proc/net/tcp").read_text() + pathlib.Path("/proc/net/tcp6").read_text()
        listening = [row.split()[1] for row in sockets.splitlines() if row.split()[3:4] == ["0A"]]
        assert [one for one in listening if one.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0].endswith("stopped\n")
        assert process.returncode == 0
    with pytest.raises((http.client.HTTPException, OSError)):
        requests.get(address, timeout=5)
