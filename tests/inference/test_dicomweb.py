"""Studies from a server give what their files give, within bounds, and no one else learns who asked."""

import io
import logging
import pathlib
import sys
import tempfile

import numpy as np
import pytest

from data.errors import UserError
from data.readers import volumes, xrays
from tests import dicoms
from tests.data import test_bad_inputs as corpus
from tests.dicomweb import Server
from unimedi_jax.inference import dicomweb, sources

STUDY, FILM, SCAN, NOTE = "1.2.9", "1.2.9.1", "1.2.9.2", "1.2.9.3"


def dicom_bytes(pixels: np.ndarray, **elements) -> bytes:
    stream = io.BytesIO()
    dicoms.dataset(pixels, **elements).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(scope="module")
def instances(tmp_path_factory) -> dict[tuple[str, str, str], list[bytes]]:
    """A film, a CT series and a report that is no picture."""
    film = dicom_bytes(corpus.film().astype(np.uint16) * 16, Modality="DX", SOPInstanceUID="1.2.9.1.1")
    folder = corpus.series(tmp_path_factory.mktemp("series"), lambda i: {"SOPInstanceUID": f"1.2.9.2.{i + 1}"})
    scan = [path.read_bytes() for path in sorted(folder.iterdir())]
    return {(STUDY, FILM, "DX"): [film], (STUDY, SCAN, "CT"): scan, (STUDY, NOTE, "SR"): [b"words"]}


@pytest.fixture
def server(instances):
    with Server(dict(instances)) as one:
        yield one


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Nothing is left in the folder of temporary files, whatever happens."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("DICOMWEB_TOKEN", "DICOMWEB_USER", "DICOMWEB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    assert list(folder.iterdir()) == []


def address(server: Server, more: str = "") -> str:
    return f"dicomweb:{server.url}?study={STUDY}{more}"


def test_a_study_is_read_as_its_files_are(server, instances, tmp_path):
    with dicomweb.opened(address(server), 1.0) as folder:
        items, refused = sources.find(folder)
        assert [(item.modality, item.id) for item in items] == [("xray", f"{FILM}/1.2.9.1.1.dcm"), ("ct", SCAN)]
        assert refused == []
        pixels = [item.read() for item in items]
        assert {path.read_bytes() for path in (folder / SCAN).iterdir()} == set(instances[STUDY, SCAN, "CT"])
    (tmp_path / "film.dcm").write_bytes(instances[STUDY, FILM, "DX"][0])
    (tmp_path / "ct").mkdir()
    for number, content in enumerate(instances[STUDY, SCAN, "CT"]):
        (tmp_path / "ct" / f"{number}.dcm").write_bytes(content)
    np.testing.assert_array_equal(pixels[0], xrays.read_xray(tmp_path / "film.dcm"))
    np.testing.assert_array_equal(pixels[1], volumes.read_volume(tmp_path / "ct")[0])
    assert not any(NOTE in path for path, _ in server.requests), "what is no picture is not fetched"


def test_one_series_of_it(server):
    with dicomweb.opened(address(server, f"&series={SCAN}"), 1.0) as folder:
        assert [path.name for path in folder.iterdir()] == [SCAN]
    with (
        pytest.raises(UserError, match="no X-ray and no CT of this study"),
        dicomweb.opened(address(server, "&series=1.2.3"), 1.0),
    ):
        pass


def test_another_source_is_a_path():
    with dicomweb.opened("~/films", 1.0) as path:
        assert path == pathlib.Path.home() / "films"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DICOMWEB_TOKEN": "s3cret"}, "Bearer s3cret"),
        ({"DICOMWEB_USER": "ada", "DICOMWEB_PASSWORD": "s3cret"}, "Basic YWRhOnMzY3JldA=="),
    ],
)
def test_who_asks_is_told_by_the_environment_and_by_no_log(instances, monkeypatch, caplog, capfd, variables, expected):
    caplog.set_level(logging.INFO)
    with Server(dict(instances), authorization=expected) as server:
        with pytest.raises(UserError, match="the server answers 401"), dicomweb.opened(address(server), 1.0):
            pass
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with dicomweb.opened(address(server), 1.0) as folder:
            assert len(list(folder.iterdir())) == 2
    printed = "".join(capfd.readouterr()) + "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("unimedi_jax", "data"))
    )
    assert "s3cret" not in printed
    assert "YWRh" not in printed
    assert STUDY not in printed


def test_a_password_goes_over_https_alone_and_never_into_the_address(monkeypatch):
    monkeypatch.setenv("DICOMWEB_TOKEN", "s3cret")
    with (
        pytest.raises(UserError, match="over https alone"),
        dicomweb.opened("dicomweb:http://pacs.example/x?study=1.2", 1.0),
    ):
        pass
    with pytest.raises(UserError, match="put them into DICOMWEB_USER") as error:
        dicomweb.parse("dicomweb:https://ada:s3cret@pacs.example/x?study=1.2")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://h",
        "http://h?study=",
        "ftp://h/x?study=1.2",
        "https://h/x?study=../1",
        "https://h/x?study=1.2&series=a/b",
        "https://h/x?study=1.2&token=a",
        "https:///x?study=1.2",
        "https://h/x?study=" + "1" * 65,
        "/folder",
        "https://h/x?study=1.2#a",
    ],
)
def test_an_address_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="no address of a study"):
        dicomweb.parse(f"dicomweb:{text}")


def test_no_more_than_is_allowed_is_received(server):
    with (
        pytest.raises(UserError, match=r"more than 1e-05 GB \(config.download_gb\)"),
        dicomweb.opened(address(server), 1e-5),
    ):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        (500, "text/plain", b"Traceback: patient A"),
        (200, "application/dicom+json", b"{"),
        (200, "application/dicom+json", b"[1]"),
        (200, "application/dicom+json", b'[{"0020000E": {"Value": ["../../etc"]}, "00080060": {"Value": ["CT"]}}]'),
        (200, "application/dicom+json", b"[" * 10**5),
        (204, "text/plain", b""),
    ],
)
def test_a_server_that_fails_is_one_line(server, answer):
    server.answer = answer
    with pytest.raises(UserError) as error, dicomweb.opened(address(server), 1.0):
        pass
    assert "\n" not in str(error.value)
    assert "patient" not in str(error.value)


def test_hostile_instances_are_judged_by_the_readers(server, temporary):
    film = server.instances[STUDY, FILM, "DX"][0]
    uid = dicom_bytes(corpus.film().astype(np.uint16), Modality="DX", SOPInstanceUID="1.2.9.1.1")
    odd = [film[:-1000], b"junk", uid.replace(b"1.2.9.1.1", b"../../../x"), film[:-1000]]  # the last has a UID again
    server.instances[STUDY, FILM, "DX"] = odd
    with dicomweb.opened(address(server), 1.0) as folder:
        assert all(path.is_relative_to(temporary) for path in folder.rglob("*"))
        assert len(list((folder / FILM).iterdir())) == 4
        items, refused = sources.find(folder)
        list(sources.read(items, "xray", refused))
    assert {one.reason.partition(":")[0] for one in refused} >= {"dicom_truncated"}


def test_no_server_is_one_line():
    with Server({}) as server:
        gone = address(server)
    with pytest.raises(UserError, match=r"the server cannot be read \(ConnectionError\)"), dicomweb.opened(gone, 1.0):
        pass


def test_without_its_client_a_line_says_what_to_install(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client.web", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-dicomweb.txt"):
        dicomweb.opened(address(server), 1.0).__enter__()
