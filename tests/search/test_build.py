"""Indices of sets, files and embeddings hold what the network gives for the same pictures and reports."""

import dataclasses
import itertools

import cv2
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from configs import search as configs
from data.errors import UserError
from data.manifest import privacy
from tests import tolerances
from unimedi_jax.inference import embed, features
from unimedi_jax.search import build, entries, job, store

SPLITS = ("train", "val", "test")


def run(**settings) -> None:
    config = configs.get_config()
    config.update({name: str(value) if hasattr(value, "is_dir") else value for name, value in settings.items()})
    job.run(config)


def test_a_sets_index_holds_the_embeddings_of_its_evaluation(index, model, trained, phantom):
    embedder, row = trained.embedder(rows=4), 0
    allowed = tolerances.float32(length=trained.model.vision.width, depth=12 * tolerances.LAYER_SUMS)
    for modality, split in itertools.product(("xray", "ct"), SPLITS):
        count = phantom.size(modality, split)
        if not count:
            continue
        part = features.embed(
            embedder, trained.variables, phantom, trained.sampler(modality, ("labels", "report")), split
        )
        rows = slice(row, row + count)
        np.testing.assert_allclose(index.z[rows], part.z, atol=allowed)
        np.testing.assert_allclose(index.z_report[rows], part.z_report, atol=allowed)
        np.testing.assert_array_equal(index.labels[rows], np.nan_to_num(part.labels, nan=-1).astype(np.int8))
        assert [index.report(i) for i in range(row, row + count)] == list(part.reports)
        assert set(index.columns["split"][rows]) == {split}
        assert set(index.columns["modality"][rows]) == {modality}
        row += count
    assert row == len(index)
    record = phantom.source("xray", "train")[0]
    shown = cv2.resize(record["image"], (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(index.pictures[0], shown)
    assert index.columns["id"][0] == record["id"].decode()
    assert index.columns["patient"][0] == record["patient"].decode()
    assert index.pictures.any(axis=(1, 2)).all()


def test_an_interrupted_build_goes_on_and_ends_alike(index, model, parts, tmp_path, monkeypatch):
    options = dict(picture_size=32, keep_reports=True, exact=10**6)
    calls, embedded = itertools.count(), build._embedded

    def dies(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return embedded(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(build, "_embedded", dies)
        with pytest.raises(KeyboardInterrupt):
            build.of_entries(tmp_path, model, parts, **options)
    with pytest.raises(UserError, match="no index in"):
        store.read(tmp_path)
    lines = next(tmp_path.rglob(store.CASES))
    lines.write_bytes(lines.read_bytes()[:-5])  # a kill may cut the last line
    with monkeypatch.context() as patch:
        patch.setattr(build, "_embedded", lambda *a: next(calls) and embedded(*a))
        build.of_entries(tmp_path, model, parts, **options)
    assert store.read(tmp_path).facts["files"] == index.facts["files"]
    batches = sum(-(-len(list(group)) // 4) for _, group in itertools.groupby(index.columns["modality"]))
    assert next(calls) - 1 <= batches + 2, "what was embedded is not embedded again"
    monkeypatch.setattr(build, "_embedded", None)
    build.of_entries(tmp_path, model, parts, **options)  # there already: nothing is computed
    with pytest.raises(UserError, match="holds the index of other data"):
        build.of_entries(tmp_path, model, parts, **(options | {"picture_size": 16}))


def test_files_and_lists_of_reports_are_indexed_and_the_unreadable_named(model, trained, tmp_path, monkeypatch, capsys):
    film = np.tile(np.arange(300, dtype=np.uint8), (280, 1))
    source = tmp_path / "films"
    source.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(source / name), film if name == "a.png" else film[:, ::-1])
    (source / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    monkeypatch.setattr(embed, "load", lambda *_, **__: model)
    run(index=tmp_path / "index", checkpoint="run", source=source, picture_size=16)
    index = store.read(tmp_path / "index")
    assert index.columns["id"].tolist() == ["a.png", "b.png"]
    np.testing.assert_allclose(index.z, model.embed(source).z, atol=1e-6)
    assert np.isnan(index.z_report).all()
    printed = capsys.readouterr().out
    assert "1 left out, see" in printed
    assert "2 X-rays" in printed
    assert "c.png" in (tmp_path / "index" / "index.rejected.jsonl").read_text()
    (tmp_path / "reports.txt").write_text("There is a nodule.\n\nNo effusion.\n")
    run(index=tmp_path / "texts", checkpoint="run", source=tmp_path / "reports.txt")
    texts = store.read(tmp_path / "texts")
    assert texts.columns["modality"].tolist() == ["report"] * 2
    assert np.isnan(texts.z).all()
    assert texts.report(0) == "", "no text unless it is asked for"
    assert b"nodule" not in (texts.part / store.CASES).read_bytes()
    np.testing.assert_allclose(texts.z_report, model.embed_reports(["There is a nodule.", "No effusion."]), atol=1e-6)


def test_a_file_that_could_not_be_read_once_shifts_no_row(model, trained, tmp_path):
    films = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(films):
        cv2.imwrite(str(tmp_path / name), np.roll(np.tile(np.arange(300, dtype=np.uint8), (280, 1)), 20 * number, 1))
    options = dict(picture_size=8, keep_reports=False, exact=10**6)
    embedded = model.embed(tmp_path)
    expected = dict(zip(embedded.ids.tolist(), embedded.z, strict=True))
    parts = entries.of_files(trained, tmp_path)
    whole = parts.read

    def fails_once_and_dies(done):
        for number, entry in enumerate(whole(done)):
            if number == 9:
                raise KeyboardInterrupt
            if number != 1:
                yield entry

    first = dataclasses.replace(parts, read=fails_once_and_dies)
    with pytest.raises(KeyboardInterrupt):
        build.of_entries(tmp_path / "index", model, first, **options)
    build.of_entries(tmp_path / "index", model, parts, **options)
    index = store.read(tmp_path / "index")
    assert sorted(index.columns["id"]) == sorted(films), "each once"
    for name, z in zip(index.columns["id"], index.z, strict=True):
        np.testing.assert_allclose(z, expected[name], atol=1e-6)


def test_what_the_network_does_not_read_is_named(trained, tmp_path):
    (tmp_path / "reports.txt").write_text("No effusion.\n")
    silent = dataclasses.replace(trained, tokenizer=None)
    parts = entries.of_files(silent, tmp_path / "reports.txt")
    assert list(parts.read([])) == []
    assert [one.reason for one in parts.refused] == ["other_modality: this encoder reads xray and ct alone"]
    model, options = embed.Model(silent, trained.embedder(rows=1)), dict(picture_size=0, keep_reports=False, exact=1)
    with pytest.raises(UserError, match="nothing could be indexed; the first reason: other_modality"):
        build.of_entries(tmp_path / "index", model, parts, **options)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_index_of_the_embed_jobs_file(tmp_path, suffix):
    rng = np.random.default_rng(0)
    z, z_report = rng.standard_normal((2, 4, 8)).astype(np.float32)
    z[3], z_report[0] = z_report[3], np.nan
    nothing = np.zeros((4, 0), np.float32)
    kinds = np.array(["xray", "xray", "ct", "report"])
    embeddings = embed.Embeddings(
        np.array(["a", "b", "c", "d"]), kinds, z, z, z_report, nothing, nothing.astype(np.int32), network="0f" * 8
    )
    embeddings.save(tmp_path / f"all{suffix}")
    run(index=tmp_path / "index", source=tmp_path / f"all{suffix}")
    index = store.read(tmp_path / "index")
    assert index.columns["id"].tolist() == ["a", "b", "c", "d"]
    assert index.columns["modality"].tolist() == kinds.tolist()
    assert index.facts["network"] == "0f" * 8, "a query by another is refused"
    np.testing.assert_array_equal(index.z, np.where(kinds[:, None] == "report", np.nan, z))
    np.testing.assert_array_equal(index.z_report, z_report)
    for content in (b"PAR1 or PK", (tmp_path / f"all{suffix}").read_bytes()[:-30], b""):
        (tmp_path / f"no{suffix}").write_bytes(content)
        with pytest.raises(UserError, match="no file of embeddings"):
            run(index=tmp_path / "other", source=tmp_path / f"no{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_of_embeddings_of_an_earlier_version_does_not_name_its_network(tmp_path, suffix):
    z = np.eye(2, dtype=np.float32)
    columns = {"ids": np.array(["a", "b"]), "modality": np.array(["xray", "ct"]), "z": z, "z_report": z}
    path = tmp_path / f"all{suffix}"
    if suffix == ".npz":
        np.savez(path, **columns)
    else:
        parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), path)
    run(index=tmp_path / "index", source=path)
    assert store.read(tmp_path / "index").facts["network"] == ""


def test_many_cases_get_a_graph_that_outlives_interruption_and_deletion(tmp_path, monkeypatch):
    z = np.random.default_rng(1).standard_normal((60, 8)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    nothing = np.zeros((60, 0), np.float32)
    ids = np.array([f"case {i}" for i in range(60)])
    embed.Embeddings(ids, np.full(60, "xray"), z, z, z, nothing, nothing.astype(np.int32)).save(tmp_path / "all.npz")
    run(index=tmp_path / "index", source=tmp_path / "all.npz", exact=50)
    assert len(store.read(tmp_path / "index").graphs) == 6
    with monkeypatch.context() as patch:
        patch.setattr(build, "add_graphs", lambda *_: None)  # as if it had been interrupted there
        run(index=tmp_path / "again", source=tmp_path / "all.npz", exact=50)
    run(index=tmp_path / "again", source=tmp_path / "all.npz", exact=50)
    assert len(store.read(tmp_path / "again").graphs) == 6
    run(index=tmp_path / "index", delete="case 7", exact=50)
    index = store.read(tmp_path / "index")
    assert len(index) == 59
    assert len(index.graphs) == 6
    assert len(index.graphs["graph_z.rows.npy"]) == 59


def test_a_patient_is_deleted_by_the_name_of_the_set_or_of_the_source(tmp_path, index, model, parts, capsys):
    salted = dataclasses.replace(
        parts, read=lambda done: (_hidden(entry, "A name", tmp_path) for entry in itertools.islice(parts.read(done), 4))
    )
    build.of_entries(tmp_path / "index", model, salted, picture_size=8, keep_reports=False, exact=10**6)
    known = store.read(tmp_path / "index").columns["patient"].tolist()
    run(index=tmp_path / "index", delete="A name", data_dir=tmp_path)
    assert "removed 1 cases" in capsys.readouterr().out
    run(index=tmp_path / "index", delete=known[1], data_dir=tmp_path)
    left = store.read(tmp_path / "index").columns["patient"].tolist()
    assert left == known[2:]
    with pytest.raises(UserError, match="no such patient or case"):
        run(index=tmp_path / "index", delete="A name", data_dir=tmp_path)


def _hidden(entry: entries.Entry, name: str, data_dir) -> entries.Entry:
    """The first case as that of a patient of this name in a set whose salt lies in `data_dir`."""
    if entry.case.id.endswith("00000"):
        pseudonym = privacy.pseudonym(name, privacy.salt_of(data_dir))
        return dataclasses.replace(entry, case=dataclasses.replace(entry.case, patient=pseudonym))
    return entry


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "config.index is empty"),
        ({"index": "x", "data": "a", "source": "b"}, "config.data and config.source are both given"),
        ({"index": "x", "out": "a.json"}, "config.out is given without a query"),
        ({"index": "x", "text": "a", "out": "a.txt"}, "ends in neither .json nor .html"),
        ({"index": "x", "text": "a"}, "config.checkpoint is empty"),
        ({"index": "x", "show_reports": "perhaps"}, "config.show_reports is yes or no"),
        ({"index": "x", "serve": 70000}, "config.serve must be a port up to 65535"),
        ({"index": "x", "picture_size": 2048}, "config.picture_size must be 0 to 1024, not 2048"),
        ({"index": "x", "source": "none.npz"}, "none.npz does not exist"),
        ({"index": "nowhere"}, "no index in nowhere"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        run(**settings)
    assert "\n" not in str(error.value)
