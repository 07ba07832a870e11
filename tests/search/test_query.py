"""Queries by picture, sentence and both, through the job: the table, JSON and page of what is nearest."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from configs import embed as embed_configs
from configs import search as configs
from data.errors import UserError
from tests.data import test_bad_inputs as corpus
from tests.dicomweb import Server
from tests.pages import assert_loads_and_runs_nothing
from unimedi_jax.inference import embed
from unimedi_jax.search import job, query, ranking, store
from unimedi_jax.search.ranking import Filters

TEXT = "There is a nodule in the left lung."


@pytest.fixture
def search(index_dir, model, monkeypatch):
    """The job on the index of the phantom, with the network that made it."""
    monkeypatch.setattr(embed, "load", lambda *_, **__: model)

    def run(**settings) -> None:
        config = configs.get_config()
        config.update(index=str(index_dir), checkpoint="run", k=5, **settings)
        job.run(config)

    return run


@pytest.fixture
def film(phantom, tmp_path) -> pathlib.Path:
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), phantom.source("xray", "train")[0]["image"])
    return path


def cosines(vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """In double precision, NaN where there is no vector."""
    vectors, vector = vectors.astype(np.float64), vector.astype(np.float64)
    return vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)


def test_a_picture_and_a_sentence_are_the_sum_of_their_unit_vectors(search, film, index, model, tmp_path):
    search(query=str(film), text=TEXT, out=str(tmp_path / "near.json"))
    got = json.loads((tmp_path / "near.json").read_text())
    words = model.embed_reports([TEXT])[0].astype(np.float64)
    both = index.z[0] / np.linalg.norm(index.z[0]) + words / np.linalg.norm(words)
    for kind, vectors in (("pictures", index.z), ("reports", index.z_report)):
        expected = cosines(vectors, both)
        best = np.argsort(-expected, kind="stable")[:5]
        assert [one["id"] for one in got[kind]] == index.columns["id"][best].tolist()
        np.testing.assert_allclose([one["score"] for one in got[kind]], expected[best], atol=1e-5)
        assert [one["rank"] for one in got[kind]] == [1, 2, 3, 4, 5]
        for one, row in zip(got[kind], best, strict=True):
            labels = [{1: 1, 0: 0, -1: None}[value] for value in index.labels[row].tolist()]
            assert list(one["labels"].values()) == labels
            assert "report" not in one, "no text unless it is asked for"


def test_from_a_film_to_cts_on_a_page_and_on_the_terminal(search, film, index, tmp_path, capsys):
    search(query=str(film), modality="ct", out=str(tmp_path / "near.html"), show_reports="yes")
    page = (tmp_path / "near.html").read_text()
    assert_loads_and_runs_nothing(page)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nearest pictures"
    cts = index.columns["id"][index.columns["modality"] == "ct"]
    shown = [name for name in cts if any(name in line for line in lines)]
    assert 5 <= len(shown) <= 10
    assert not any("phantom-xray" in line for line in lines)
    assert all(name in page for name in shown)
    row = index.columns["id"].tolist().index(shown[0])
    assert any(" ".join(index.report(row).split()) in line for line in lines)


def test_no_text_of_a_report_on_terminal_or_page_unless_asked_for(search, index, tmp_path, capsys):
    search(text=TEXT, out=str(tmp_path / "near.html"))
    everything = (tmp_path / "near.html").read_text() + capsys.readouterr().out
    assert "The text is not shown." in everything
    assert not any(index.report(row)[:30] in everything for row in range(len(index)))


def test_an_index_of_another_network_is_refused(index, model, caplog):
    query.check(index, model)
    assert not caplog.records
    for changes in ({"network": "0" * 16}, {"width": 7}):
        other = dataclasses.replace(index, facts=index.facts | changes)
        with pytest.raises(UserError, match="was made by another network"):
            query.check(other, model)
    query.check(dataclasses.replace(index, facts=index.facts | {"network": ""}), model)
    assert "does not say which network made it" in caplog.text, "of embeddings of an earlier version"


def test_a_query_that_is_none_is_one_line(search, tmp_path, film, model, index):
    (tmp_path / "broken.png").write_bytes(film.read_bytes()[:500])
    (tmp_path / "two").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "two" / name).write_bytes(film.read_bytes())
    for settings, words in (
        ({"query": str(tmp_path / "broken.png")}, "config.query cannot be read: "),
        ({"query": str(tmp_path / "two")}, "config.query holds 2 pictures, a query is one"),
        ({"query": str(tmp_path / "none.png")}, "does not exist"),
        ({"text": "a" * 5000}, "the sentence has 5000 letters"),
        ({"text": "a", "label": "fracture"}, "config.label=fracture: the index has "),
    ):
        with pytest.raises(UserError, match=words) as error:
            search(**settings)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="the query is empty"):
        query.embedded(model, text=" ")
    with pytest.raises(UserError, match="reads xray and ct alone"):
        query.embedded(model, "mri", np.zeros((4, 4)))
    for row in (-1, len(index)):
        with pytest.raises(UserError, match="no such case"):
            query.of_case(index, row)


def test_a_case_is_not_its_own_neighbour(index):
    near = query.answer(index, query.of_case(index, 3), Filters(), k=len(index), exact=10**6, without=3)
    assert sorted(hit.row for hit in near.pictures) == [row for row in range(len(index)) if row != 3]
    assert [hit.score for hit in near.pictures] == sorted((hit.score for hit in near.pictures), reverse=True)
    assert list(ranking.KINDS) == ["pictures", "reports"]


def test_a_study_of_a_server_is_embedded_and_searched_as_its_files(search, model, tmp_path, monkeypatch):
    for name in ("DICOMWEB_TOKEN", "DICOMWEB_USER"):
        monkeypatch.delenv(name, raising=False)
    folder = corpus.series(tmp_path)
    scan = [path.read_bytes() for path in sorted(folder.iterdir())]
    film = corpus.xray(tmp_path).read_bytes()
    with Server({("1.2", "1.2.3", "CT"): scan, ("1.2", "1.2.4", "DX"): [film]}) as server:
        source = f"dicomweb:{server.url}?study=1.2"
        config = embed_configs.get_config()
        config.update(checkpoint="run", source=source, out=str(tmp_path / "study.npz"))
        embed.run(config)
        config.update(source=str(folder), out=str(tmp_path / "files.npz"))
        embed.run(config)
        search(query=f"{source}&series=1.2.3", out=str(tmp_path / "study.json"))
        with pytest.raises(UserError, match=r"config.query holds 2 pictures"):
            search(query=source)
    search(query=str(folder), out=str(tmp_path / "files.json"))
    study, files = (np.load(tmp_path / f"{name}.npz") for name in ("study", "files"))
    assert sorted(study["modality"].tolist()) == ["ct", "xray"]
    np.testing.assert_allclose(study["z"][study["modality"] == "ct"], files["z"], atol=1e-6)
    assert (tmp_path / "study.json").read_text() == (tmp_path / "files.json").read_text()


def test_the_files_are_their_owners_alone(tmp_path):
    """As the command writes them, whose umask holds for all jobs."""
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "main.py", "--config=configs/search.py", f"--config.index={tmp_path / 'index'}"]
    command += [f"--config.source={tmp_path / 'all.npz'}"]
    z = np.eye(4, dtype=np.float32)
    nothing = np.zeros((4, 0), np.float32)
    ids, kinds = np.array(list("abcd")), np.full(4, "ct")
    embed.Embeddings(ids, kinds, z, z, z, nothing, nothing.astype(np.int32)).save(tmp_path / "all.npz")
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 CTs" in done.stdout
    places = [tmp_path / "index", *(tmp_path / "index").rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in places if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in places if path.is_file()} == {"0o600"}
    assert len(store.read(tmp_path / "index")) == 4
