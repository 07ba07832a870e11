"""Files in, embeddings out: records through the network, whatever the kind of file, and maps in its own space."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import jax
import nibabel
import numpy as np
import pytest
from pyarrow import parquet
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing import plugin_event_multiplexer as event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug import test

import unimedi_jax
from configs import embed as embed_config
from data.errors import UserError
from data.manifest.reading import PLAIN
from data.readers import volumes, xrays
from tests import dicoms
from unimedi_jax import trees
from unimedi_jax.export import parity
from unimedi_jax.inference import embed, maps, preprocess, pretrained, sources
from unimedi_jax.inference.partial_rows import PartialRows
from unimedi_jax.train import state

ROOT = pathlib.Path(__file__).parents[2]
AFFINE = np.array([[0, -3, 0, 40], [2.5, 0, 0, -70], [0, 0, -4, 30], [0, 0, 0, 1.0]])  # axes turned and mirrored


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A film as PNG, a CT as NIfTI with axes of its own, reports, a manifest of all, and a file that is damaged."""
    place = tmp_path_factory.mktemp("source")
    (place / "deep").mkdir()
    film, volume = (x[0] for x in parity.fixed_inputs())
    cv2.imwrite(str(place / "film.png"), film)
    cv2.imwrite(str(place / "deep" / "mirrored.png"), film[:, ::-1])
    voxels = np.rot90(volume[::2, ::4, ::4].transpose(2, 1, 0)).copy()
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), place / "deep" / "scan.nii.gz")
    (place / "deep" / "broken.png").write_bytes((place / "film.png").read_bytes()[:900])
    (place / "reports.txt").write_text("Nodule in the left lobe.\n\nNo effusion.\n")
    (place / "rows.csv").write_text(
        "path,modality,report,patient\n"
        "film.png,xray,Nodule in the left lobe.,a\n"
        "deep/scan.nii.gz,ct,No effusion.,b\n"
        "nowhere.png,xray,No effusion.,c\n"
    )
    return place


@pytest.fixture(scope="module")
def model(exported) -> embed.Model:
    return unimedi_jax.load(exported, rows=1)


@pytest.fixture(scope="module")
def embedded(model, folder, tmp_path_factory) -> tuple[embed.Embeddings, pathlib.Path]:
    maps_to = tmp_path_factory.mktemp("maps") / "new"
    return model.embed(folder, maps_to=maps_to), maps_to


def test_one_multi_frame_dicom_file_is_a_ct(tmp_path):
    pixels = np.full((6, 16, 16), -1000, np.int16)
    pixels[:, 4:12, 4:12] = 40
    shared = {
        "PixelMeasuresSequence": {"PixelSpacing": [2, 2]},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": 0},
    }
    path = tmp_path / "ct.dcm"
    dicoms.enhanced(pixels, [[0, 0, 3 * n] for n in range(6)], shared=shared).save_as(path, enforce_file_format=True)
    for source in (path, tmp_path):
        ((item,), _) = sources.find(source)
        assert item.modality == "ct"
        assert sources.series(item) == "1.2.3"
        np.testing.assert_array_equal(item.read(), volumes.read_volume(path)[0])


def test_a_folder_gives_one_row_for_each_file_that_can_be_read(trained, embedded, folder):
    got, _ = embedded
    assert got.ids.tolist() == ["film.png", "deep/mirrored.png", "deep/scan.nii.gz"]
    assert got.modality.tolist() == ["xray", "xray", "ct"]
    assert [one.path for one in got.rejected] == ["deep/broken.png"]
    assert got.z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got.z, axis=1), 1, atol=1e-5)
    assert np.isnan(got.z_report).all()
    assert np.isnan(got.slice_scores[:2]).all()
    film = xrays.read_xray(folder / "film.png")[None]
    scan = volumes.read_volume(folder / "deep" / "scan.nii.gz")[0][None]
    apply = jax.jit(trained.model.apply, static_argnames="method")
    xray = apply(trained.variables, preprocess.film_tokens(trained, film), method="xray_features")
    ct = apply(trained.variables, preprocess.volume_tokens(trained, scan), method="ct_features")
    np.testing.assert_allclose(got.cls[[0, 2]], np.concatenate([xray.cls, ct.cls]), atol=1e-5)
    np.testing.assert_allclose(got.z[[0, 2]], np.concatenate([xray.z, ct.z]), atol=1e-5)
    np.testing.assert_array_equal(got.layers[2], ct.layers[0])
    np.testing.assert_allclose(got.slice_scores[2], ct.slice_scores[0], atol=1e-5)


def test_reports_manifests_and_single_files_agree(model, embedded, folder):
    got, _ = embedded
    texts = model.embed(folder / "reports.txt")
    assert texts.ids.tolist() == ["1", "3"]
    assert texts.modality.tolist() == ["report", "report"]
    np.testing.assert_allclose(texts.z, model.embed_reports(["Nodule in the left lobe.", "No effusion."]), atol=1e-5)
    rows = model.embed(folder / "rows.csv")
    assert rows.ids.tolist() == ["film.png", "deep/scan.nii.gz"]
    assert [one.reason.split(":")[0] for one in rows.rejected] == ["missing_image"]
    np.testing.assert_allclose(rows.z, got.z[[0, 2]], atol=1e-5)
    np.testing.assert_allclose(rows.z_report, texts.z, atol=1e-5)
    one = model.embed(folder / "deep" / "scan.nii.gz")
    assert one.ids.tolist() == ["scan.nii.gz"]
    np.testing.assert_allclose(one.z, got.z[2:], atol=1e-5)


def test_attention_lies_on_the_voxels_of_the_file(embedded, folder):
    _, maps_to = embedded
    names = sorted(path.name for path in maps_to.iterdir())
    assert names == [
        "deep_mirrored.png.attention.png",
        "deep_scan.nii.gz.attention.nii.gz",
        "deep_scan.nii.gz.attention.png",
        "film.png.attention.png",
    ]
    own = nibabel.load(folder / "deep" / "scan.nii.gz")
    attention = nibabel.load(maps_to / "deep_scan.nii.gz.attention.nii.gz")
    assert attention.shape == own.shape
    np.testing.assert_allclose(attention.affine, own.affine, atol=1e-4)
    assert cv2.imread(str(maps_to / "film.png.attention.png")).shape == (768, 1536, 3)


def test_cells_reach_the_place_they_were_cut_from(folder):
    # Every cell's index, carried to the file's voxels, must be the cell that holds the voxel's centre in the patient.
    path = folder / "deep" / "scan.nii.gz"
    cells = (8, 4, 4)
    index = np.arange(np.prod(cells), dtype=np.float32).reshape(cells)
    image = maps.on_own_voxels(np.kron(index, np.ones((4, 32, 32), np.float32)), path, PLAIN)
    data = np.asarray(image.dataobj)
    own = nibabel.load(path)
    shape = np.array(own.shape)
    corners = nibabel.affines.apply_affine(own.affine, np.array([[-0.5] * 3, shape - 0.5]))
    low, high = corners.min(0), corners.max(0)  # RAS millimetres of the scan's faces
    middle, field = (low + high) / 2, high - low
    field[:2] = field[:2].max()
    for voxel in np.random.default_rng(0).integers(0, shape, (40, 3)):
        ras = nibabel.affines.apply_affine(own.affine, voxel)
        share = (ras - middle) / field + 0.5
        x, y, z = 1 - share[0], 1 - share[1], share[2]  # cells count toward Left, Posterior, Superior
        expected = [int(min(v * n, n - 1)) for v, n in zip((z, y, x), cells, strict=True)]
        assert data[tuple(voxel)] == index[tuple(expected)]


def test_attention_in_a_notebook_is_an_array_on_the_pictures_own_grid(model, embedded, folder, tmp_path):
    _, maps_to = embedded
    scan = unimedi_jax.attention(folder / "deep" / "scan.nii.gz", model)
    written = nibabel.load(maps_to / "deep_scan.nii.gz.attention.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_allclose(scan, written / written.sum(), rtol=1e-4)
    film = cv2.imread(str(folder / "film.png"), cv2.IMREAD_GRAYSCALE)
    small = unimedi_jax.attention(folder / "film.png", model)
    assert small.shape == film.shape == (256, 256)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.sum(), 1, atol=1e-5)
    cv2.imwrite(str(tmp_path / "large.png"), np.kron(film[:, 64:192], np.ones((3, 3), np.uint8)))
    large = unimedi_jax.attention(tmp_path / "large.png", model)
    assert large.shape == (768, 384)
    # The record of the large one is its block mean, padded at both sides, of which the tokens see the middle.
    side = 16  # pixels of the record that the crop leaves out, three of the picture's for one
    assert not large[: 3 * side - 1].any()
    assert large[3 * side].all()
    record = large.reshape(256, 3, 128, 3).sum((1, 3))
    features = model.features("xray", np.pad(film[:, 64:192], ((0, 0), (64, 64)))[None])
    expected = maps.film_attention(features.scores[0], model.pretrained)[:, 64:192]
    # In the middle of the cells: between two of them the larger grid is interpolated.
    np.testing.assert_allclose(record[20::8, 4::8], (expected / expected.sum())[20::8, 4::8], rtol=0.02)
    for path, words in (
        (folder, "holds 4 images"),
        (folder / "reports.txt", "holds 0 images"),
        (folder / "deep" / "broken.png", "cannot be read: "),
    ):
        with pytest.raises(UserError, match=words):
            model.attention(path)


def test_the_projector_of_tensorboard_serves_the_vectors(embedded, tmp_path):
    got, _ = embedded
    odd = embed.dataclasses.replace(got, ids=np.array(["a\tb", "c\nd", "e"]))
    odd.to_projector(tmp_path)
    multiplexer = event_multiplexer.EventMultiplexer()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = base_plugin.TBContext(logdir=str(tmp_path), multiplexer=multiplexer, data_provider=provider)
    apps = projector_plugin.ProjectorPlugin(context).get_plugin_apps()
    tensor, metadata = (
        test.Client(apps[f"/{name}"]).get(f"/{name}?run=.&name=embeddings").data for name in ("tensor", "metadata")
    )
    np.testing.assert_array_equal(np.frombuffer(tensor, np.float32).reshape(3, -1), got.z)
    assert metadata.decode().splitlines() == ["id\tmodality", "a b\txray", "c d\txray", "e\tct"]


def test_a_dicom_series_is_one_ct(model, folder):
    place = ROOT.parent / "shared" / "data" / "real_ct" / "cip-ct64"
    if not place.exists():
        pytest.skip("the small real data is not here")
    items, _ = sources.find(place)
    kinds = {item.id: item.modality for item in items}
    assert kinds["dicom"] == kinds["ct.nrrd"] == "ct"
    series, file = (model.embed(place / name) for name in ("dicom", "ct.nrrd"))
    np.testing.assert_allclose(series.z, file.z, atol=1e-3)  # the same scan twice


def test_both_formats_hold_the_same_rows(model, embedded, tmp_path):
    got, _ = embedded
    got.save(tmp_path / "new" / "a.npz")
    got.to_parquet(tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as saved:
        assert set(saved) == {*table.column_names, "network"}
        assert saved["network"].item() == table.schema.metadata[b"network"].decode() == model.fingerprint
        for name in table.column_names:
            np.testing.assert_array_equal(np.array(table[name].to_pylist()), saved[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "new"]


def test_the_job_writes_the_rows_and_what_was_left_out(workdir, folder, tmp_path, capsys):
    config = embed_config.get_config()
    config.checkpoint, config.network = str(workdir), "teacher"
    config.source, config.out, config.rows = str(folder / "deep"), str(tmp_path / "out.npz"), 1
    embed.run(config)
    assert "1 ct, 1 xray" in capsys.readouterr().out
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["ids"].tolist() == ["mirrored.png", "scan.nii.gz"]
    (line,) = (tmp_path / "out.npz.rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "broken.png"


def test_mistakes_are_one_line(model, folder, tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for source, words in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path, "holds nothing to embed"),
        (folder / "deep" / "broken.png", "nothing could be embedded"),
    ):
        with pytest.raises(UserError, match=words):
            model.embed(source)
    with pytest.raises(UserError, match=r"\.npz nor \.parquet"):
        embed.Embeddings(*[np.zeros(0)] * 7).save(tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"does not end in \.parquet"):
        embed.Embeddings(*[np.zeros(0)] * 7).to_parquet(tmp_path / "x.npz")
    contracts = {"mine": {**model.pretrained.contracts["mine"], "format": 0}}
    other = embed.Model(embed.dataclasses.replace(model.pretrained, contracts=contracts), model.embedder)
    with pytest.raises(UserError, match="format was 0 in training"):
        other.embed(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/embed.py"], "config.checkpoint is empty"),
        (["--config=configs/export.py"], "config.checkpoint"),
        (["--config=configs/export.py", "--config.checkpoint=/nowhere", "--config.out=x"], "no run and no export"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments, words, tmp_path):
    done = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def job(workdir: pathlib.Path, source: pathlib.Path, out: pathlib.Path, **settings: str):
    config = embed_config.get_config()
    config.checkpoint, config.source, config.out, config.rows = str(workdir), str(source), str(out), 1
    config.update(settings)
    return config


def stop_at(number: int, monkeypatch) -> list[int]:
    """The disk is full from the `number`-th batch on; returns the batches that were computed, to count them."""
    batches: list[int] = []
    features = embed.Model.features

    def counted(self, modality, pixels, views=()):
        if len(batches) + 1 >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        batches.append(len(pixels))
        return features(self, modality, pixels, views)

    monkeypatch.setattr(embed.Model, "features", counted)
    return batches


def test_a_full_disk_loses_no_row_that_was_computed(workdir, folder, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
    source = tmp_path / "films"
    source.mkdir()
    film = cv2.imread(str(folder / "film.png"), cv2.IMREAD_UNCHANGED)
    for index in range(9):
        cv2.imwrite(str(source / f"{index}.png"), np.roll(film, 9 * index, axis=1))
    embed.run(job(workdir, source, whole))
    with monkeypatch.context() as patch:
        done = stop_at(4, patch)
        with pytest.raises(OSError, match="No space"):
            embed.run(job(workdir, source, out))
    rows = tmp_path / ".out.npz.rows"
    assert not out.exists()
    with rows.open("ab") as stream:
        stream.write(b"a row that was cut short")
    with monkeypatch.context() as patch:
        left = stop_at(99, patch)
        embed.run(job(workdir, source, out))
    assert sum(done) + sum(left) == 9
    assert 0 < sum(done) < 9
    with np.load(whole) as expected, np.load(out) as got:
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
    assert not rows.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "out.npz", "whole.npz"]


def test_rows_of_other_files_or_weights_are_not_taken(tmp_path):
    dtypes = {"z": np.dtype((np.float32, (2,)))}
    PartialRows(tmp_path / "rows", "one", dtypes).add(np.array([3]), {"z": np.ones((1, 2))})
    again = PartialRows(tmp_path / "rows", "one", dtypes)
    again.add(np.array([5, 7]), {"z": np.zeros((2, 2))})
    assert again.read()["index"].tolist() == [3, 5, 7]
    assert again.read()["z"][0].tolist() == [1, 1]
    assert not len(PartialRows(tmp_path / "rows", "another", dtypes).read())


def test_outputs_are_tried_before_the_work(workdir, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "load", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for out, settings, words in (
        (tmp_path / "file" / "out.npz", {}, "cannot be written to"),
        (tmp_path / "folder.npz", {}, "is a folder"),
        (tmp_path / f"{'n' * 260}.npz", {}, "more than 200 bytes"),
        (tmp_path / "out.npz", {"maps": str(tmp_path / "file")}, "config.maps"),
    ):
        with pytest.raises(UserError, match=words):
            embed.run(job(workdir, folder, out, **settings))


def test_names_of_any_bytes_and_length_have_files_of_their_own(tmp_path, folder):
    long = "/".join(["folder" * 20] * 3)
    (tmp_path / long).mkdir(parents=True)
    names = [b"a/b.png", b"a_b.png", b"A_b.PNG", b"caf\xe9.png", b"caf\xe8.png", f"{long}/x.png".encode()]
    names += [b"esc\x1b[31m.png", "長い名前".encode() * 15 + b".png", b"new\nline.png"]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "film.png", path)
    items, _ = sources.find(tmp_path)
    assert len(items) == len(names) == len({item.id for item in items})
    stems = sources.stems(items)
    assert len({stem.casefold() for stem in stems}) == len(names)
    for item, stem in zip(items, stems, strict=True):
        item.id.encode("utf-8")
        assert not any(ord(letter) < 32 for letter in stem)
        maps.write_whole(tmp_path / f"{stem}.attention.nii.gz", lambda path: path.write_bytes(b"x"))
    ids = np.array([item.id for item in items])
    rest = [np.zeros(len(ids), np.float32)] * 6
    embed.Embeddings(ids, *rest).save(tmp_path / "ids.parquet")
    assert parquet.read_table(tmp_path / "ids.parquet")["ids"].to_pylist() == ids.tolist()


def test_a_picture_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        maps.save_png(tmp_path / "none" / "x.png", np.zeros((4, 4), np.uint8))

    def full(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        maps.write_whole(tmp_path / "x.png", full)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{}, {"slices": 0}, {"slice_baseline": 0.9}, {"projection": "linear"}])
def test_the_shapes_of_a_network_are_those_that_its_objective_gives_it(make_trained, settings):
    """Loading calls its parts once; training traces the whole objective."""
    model = make_trained(**settings).model
    whole = jax.eval_shape(lambda: state.init_variables(model, jax.random.key(0))[0])
    own = pretrained.variables_like(model)
    assert trees.shapes(own) == trees.shapes({"params": whole["params"], "batch_stats": whole.get("batch_stats", {})})
