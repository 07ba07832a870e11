"""The predict job beside the jobs that trained its heads: the same pictures, as files, get the same answers."""

import csv
import dataclasses
import json
import pathlib

import cv2
import jax
import nibabel
import numpy as np
import pytest

import unimedi_jax
from configs import predict as configs
from configs import probe as probe_configs
from data.errors import UserError
from data.manifest import reading
from data.readers import geometry, xrays
from data.readers.files import BadInput
from tests import dicoms, dicomweb
from unimedi_jax import sharding
from unimedi_jax.config.jobs import DetectConfig, FitConfig, ProbeConfig, SegmentConfig
from unimedi_jax.convert import names
from unimedi_jax.evaluation import detect, downstream, heads, probe, segment, trials
from unimedi_jax.inference import pretrained, sources
from unimedi_jax.metrics import zeroshot
from unimedi_jax.prediction import predict, predictors
from unimedi_jax.prediction.partial_table import PartialTable

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
QUICK = FitConfig(8, epochs=1, patience=1, lr=1e-2)
ONE = dict(untrained=False, shares=(1.0,), seeds=(0,), resamples=0)


@pytest.fixture(scope="module")
def pictures(phantom, tmp_path_factory) -> pathlib.Path:
    """The test patients' records as files that are read back to the same records, and a damaged one."""
    folder = tmp_path_factory.mktemp("pictures")
    for record in phantom.source("xray", "test", ("id", "image")):
        cv2.imwrite(str(folder / f"{record['id'].decode()}.png"), record["image"])
    for record in phantom.source("ct", "test", ("id", "volume", "spacing_mm")):
        z, y, x = record["spacing_mm"].tolist()
        voxels = nibabel.Nifti1Image(record["volume"].transpose(2, 1, 0), np.diag([-x, -y, z, 1.0]))
        nibabel.save(voxels, folder / f"{record['id'].decode()}.nii.gz")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def probed(records_dir, checkpoint_dir, tmp_path_factory) -> pathlib.Path:
    """The workdir of a linear probe."""
    config = probe_configs.get_config()
    config.update(ONE, checkpoint=str(checkpoint_dir), data_dir=str(records_dir), rows=4)
    workdir = tmp_path_factory.mktemp("probed")
    probe.run(config, workdir)
    return workdir


def table(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(rows: list[dict[str, str]], start: str) -> np.ndarray:
    return np.array([[float(value or "nan") for name, value in row.items() if name.startswith(start)] for row in rows])


def config_of(checkpoint, source, out, **changes):
    config = configs.get_config()
    config.update(checkpoint=str(checkpoint), source=str(source), out=str(out), rows=2, **changes)
    return config


def test_a_probe_says_of_files_what_it_said_of_their_records(pictures, probed, checkpoint_dir, tmp_path, capsys):
    out = tmp_path / "new" / "out.csv"
    predict.run(config_of(checkpoint_dir, pictures, out, head=str(probed)))
    rows, before = table(out), table(probed / downstream.CASES)
    assert {row["modality"] for row in before} == {"xray", "ct"}
    by_id = {row["id"]: row for row in before}
    assert sorted(by_id) == sorted(row["file"].split(".")[0] for row in rows)
    again = [by_id[row["file"].split(".")[0]] for row in rows]
    np.testing.assert_allclose(numbers(rows, "probability:"), numbers(again, "probability:"), atol=1e-4)
    head = heads.load(str(probed), pretrained.load(checkpoint_dir))["xray"]
    for row in rows:
        if row["modality"] == "xray":
            for name, cut in head.facts["thresholds"].items():
                if row[f"probability:{name}"]:
                    called = float(row[f"probability:{name}"]) >= cut["value"]
                    assert row[f"decision:{name}"] == str(int(called))
    (line,) = (tmp_path / "new" / "out.csv.rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "broken.png"
    printed = capsys.readouterr().out
    assert "4 X-rays" in printed
    assert "present from" in printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.csv", "out.csv.rejected.jsonl"]


def test_a_study_on_a_server_is_predicted_as_its_files_are(checkpoint_dir, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (96, 80)).astype(np.uint16)
    film = dicoms.dataset(pixels, Modality="DX", SeriesInstanceUID="1.2.9.1")
    film.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    stored = {("1.2.9", "1.2.9.1", "DX"): [(tmp_path / "a.dcm").read_bytes()]}
    with dicomweb.Server(stored) as server:
        predict.run(config_of(checkpoint_dir, f"dicomweb:{server.url}?study=1.2.9", tmp_path / "web.csv"))
    predict.run(config_of(checkpoint_dir, tmp_path / "a.dcm", tmp_path / "file.csv"))
    (there,), (here,) = table(tmp_path / "web.csv"), table(tmp_path / "file.csv")
    assert there.pop("file").startswith("1.2.9.1/")
    assert here.pop("file") == "a.dcm"
    assert there == here
    assert there["series"] == "1.2.9.1"
    with pytest.raises(UserError, match="no address of a study"):
        predict.run(config_of(tmp_path / "no run", "dicomweb:https://host/?study=a", tmp_path / "no.csv"))


def test_zero_shot_is_by_the_prompts_of_the_training_set(pictures, checkpoint_dir, phantom, tmp_path):
    rows_of = tmp_path / "films.csv"
    film = next(path for path in sorted(pictures.glob("*.png")) if path.name != "broken.png")
    rows_of.write_text(f"path,modality\n{film},xray\n{pictures / 'nothing.png'},xray\n{film},xray\n")
    predict.run(config_of(checkpoint_dir, rows_of, tmp_path / "out.csv"))
    (row,) = table(tmp_path / "out.csv")
    labels, prompts = phantom.contract["labels"], phantom.contract["prompts"]
    assert list(row) == ["file", "series", "modality", *(f"score:{label}" for label in labels)]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out.csv.rejected.jsonl").read_text().splitlines()]
    assert [reason.split(":")[0] for reason in reasons] == ["missing_image", "duplicate_row"]
    model = unimedi_jax.load(checkpoint_dir, rows=2)
    z = model.embed(film).z
    sides = ([model.embed_reports(prompts[label][side]) for label in labels] for side in ("positive", "negative"))
    np.testing.assert_allclose(numbers([row], "score:"), zeroshot.scores(z, *sides, "sum"), atol=1e-5)
    own = tmp_path / "prompts.json"
    own.write_text(json.dumps({"mass": ["There is a mass."], "effusion": ["Pleural effusion."]}))
    predict.run(config_of(checkpoint_dir, film, tmp_path / "own.csv", prompts=str(own)))
    (row,) = table(tmp_path / "own.csv")
    mass, effusion = (model.embed_reports([text]) for text in ("There is a mass.", "Pleural effusion."))
    expected = (z @ (mass - effusion).T).item()
    assert float(row["score:mass"]) == pytest.approx(expected, abs=1e-5)
    assert float(row["score:effusion"]) == pytest.approx(-expected, abs=1e-5)


def test_a_fine_tuned_head_brings_its_encoder(pictures, trained, phantom, checkpoint_dir, tmp_path):
    config = ProbeConfig(modality="xray", tune="full", full=QUICK, **ONE)
    outputs = downstream.Outputs(trained, tmp_path, detailed=True)
    probe.evaluate(trained, phantom, config, outputs)
    outputs.finish()
    predict.run(config_of(checkpoint_dir, pictures, tmp_path / "out.csv", head=str(tmp_path / "heads" / "full")))
    rows = table(tmp_path / "out.csv")
    again = {row["id"]: row for row in table(tmp_path / downstream.CASES)}
    again = [again[row["file"].removesuffix(".png")] for row in rows]
    np.testing.assert_allclose(numbers(rows, "probability:"), numbers(again, "probability:"), atol=1e-4)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out.csv.rejected.jsonl").read_text().splitlines()]
    assert sum(reason == "other_modality: this predicts X-rays alone" for reason in reasons) == phantom.size(
        "ct", "test"
    )


def test_masks_are_those_of_the_job_on_the_files_own_pixels(pictures, trained, phantom, checkpoint_dir, tmp_path):
    config = SegmentConfig(modality="xray", tune="frozen", setr_channels=(8, 8, 8), xray=QUICK, **ONE)
    rows = list(range(phantom.size("xray", "test")))
    task = segment.Task(trained, phantom, "xray", "frozen", {"test": rows}, config)
    trial = trials.main(config)
    network = task.start(trial)
    heads.save(segment.head(task, trial, network), tmp_path)
    predict.run(config_of(checkpoint_dir, pictures, tmp_path / "out.csv", head=str(tmp_path)))
    by_file = {row["file"]: row for row in table(tmp_path / "out.csv")}
    every = downstream.ids(phantom, "xray")
    for name, (_, mask, _) in zip(every, task.masks("test", network), strict=True):
        row = by_file[f"{name}.png"]
        written = cv2.imread(str(tmp_path / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert (written != mask).mean() < 1e-3  # where two classes are equally probable to the last digit
        assert row["pixels:heart"] == str((written == 3).sum())
    ((kind, head),) = heads.load(str(tmp_path), trained).items()
    assert (kind, head.facts["names"]) == ("xray", ["right lung", "left lung", "heart"])


def test_boxes_are_those_of_the_job(pictures, trained, phantom, checkpoint_dir, tmp_path):
    config = DetectConfig(most=4, widths=(8, 8, 8), recipe=QUICK, **ONE)
    task = detect.Task(trained, phantom, "frozen", config)
    trial = trials.main(config)
    network = task.start(trial)
    head = detect.head(task, trial, network)
    threshold = head.facts["threshold"]
    heads.save(head, tmp_path)
    predict.run(config_of(checkpoint_dir, pictures, tmp_path / "out.csv", head=str(tmp_path)))
    rows = table(tmp_path / "out.csv")
    for name, case in zip(downstream.ids(phantom, "xray"), task.tested("test", network), strict=True):
        own = [row for row in rows if row["file"] == f"{name}.png"]
        corners = np.array([[float(row[c] or "nan") for c in detect.CORNERS] for row in own])
        inside = np.prod(case.predicted[:, 2:] - case.predicted[:, :2], axis=1) > 0
        best = case.predicted[inside][:3]
        np.testing.assert_allclose(corners[: len(best)], best, atol=1e-2)
        assert [int(row["decision"] or 0) for row in own] == [float(row["score"] or 0) >= threshold for row in own]
        picture = cv2.imread(str(tmp_path / own[0]["picture"]))
        assert picture.shape == (256, 256, 3)


def test_a_head_refuses_another_encoder_and_damage(probed, trained, tmp_path):
    other = jax.tree.map(lambda x: x + 1e-3, trained.variables)
    with pytest.raises(UserError, match=r"was trained on another encoder .*step 1.* name its own checkpoint"):
        heads.load(str(probed), dataclasses.replace(trained, variables=other))
    # An export stores the arrays by other names and turned: the encoder is the same.
    state = names.to_torch(trained.variables, trained.model)
    back, _ = names.from_torch(state, pretrained.variables_like(trained.model))
    back = sharding.put_replicated(back, trained.mesh)
    assert heads.load(str(probed), dataclasses.replace(trained, variables=back)).keys() == {"xray", "ct"}
    content = bytearray((probed / "heads" / "linear" / "xray.safetensors").read_bytes())
    content[-9] ^= 1
    for number, damaged in enumerate((bytes(content), bytes(content[:500]), b"", b"x" * 99)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="train it again"):
            heads.load(str(path), trained)
    for place in (tmp_path / "nowhere", tmp_path.parent):
        with pytest.raises(UserError, match="holds no heads"):
            heads.load(str(place / "none"), trained)


def test_files_are_read_as_the_records_that_the_head_was_trained_on(
    trained, phantom, checkpoint_dir, tmp_path, monkeypatch
):
    source = {"assumed_axes": "LPS", "min_slices": 3, "options": {"greys": "largest", "lists": "of a machine"}}
    of_set = {**phantom.contract, "source": source}
    dataset = dataclasses.replace(phantom, contract=of_set)
    facts = dict(names=["mass"], thresholds={"mass": {"value": 0.5}}, one_of=False, ct_slices=None)
    trial = trials.main(ProbeConfig(**ONE))
    made = heads.make("probe", "linear", trained, dataset, "xray", trial, **facts)
    assert "of a machine" not in json.dumps(made.facts)
    assert made.reading(trained) == dataclasses.replace(reading.of_contract(of_set), captions=None)
    older = heads.Head({**made.facts, "contract": {**made.facts["contract"]}}, {})
    del older.facts["contract"]["source"]
    now = dataclasses.replace(trained, contracts={phantom.name: of_set})
    assert older.reading(now).by_largest, "the encoder was trained on the set"
    assert not older.reading(dataclasses.replace(trained, contracts={"other": of_set})).by_largest
    heads.save(made, tmp_path)
    pixels = np.arange(300 * 200).reshape(300, 200).astype(np.uint16) % 3000
    film = dicoms.dataset(pixels, Modality="DX", WindowCenter=900, WindowWidth=300)
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    read = []

    def answers(pixels: np.ndarray) -> np.ndarray:
        read.extend(pixels)
        return np.zeros((len(pixels), 1))

    spy = predictors.Predictor(answers, lambda item, stem, scores: [{}])
    monkeypatch.setattr(predictors, "of_heads", lambda *_: {"xray": spy})
    predict.run(config_of(checkpoint_dir, tmp_path / "film.dcm", tmp_path / "out.csv", head=str(tmp_path / "heads")))
    expected = xrays.read_film(tmp_path / "film.dcm", by_largest=True).pixels
    np.testing.assert_array_equal(read[0], geometry.canonical_xray(expected, 256))


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BadInput("io_error", "gone"), "io_error: gone"), (ValueError("of a library"), "unreadable: ValueError")],
)
def test_what_one_file_leads_to_loses_no_other(error, reason, tmp_path):
    def rows(item, stem, answer):
        if item.id == "2.png":
            raise error
        return [{"score:mass": 0.5}]

    items = [sources.Item(f"{n}.png", "xray", lambda: np.zeros((2, 2)), path=pathlib.Path(f"{n}.png")) for n in "123"]
    refused, by_modality = [], {"xray": predictors.Predictor(lambda pixels: pixels, rows)}
    partial = PartialTable(tmp_path / "rows", "one")
    assert list(predict.predict(items, refused, by_modality, partial, batch=2)) == [0, 2]
    assert [(one.row, one.path, one.reason) for one in refused] == [(2, "2.png", reason)]
    error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        predict.predict(items, refused, by_modality, PartialTable(tmp_path / "rows", "another"), batch=2)


def test_a_full_disk_loses_no_row_that_was_computed(pictures, probed, checkpoint_dir, tmp_path, monkeypatch, caplog):
    whole, out = tmp_path / "whole" / "out.csv", tmp_path / "out.csv"
    predict.run(config_of(checkpoint_dir, pictures, whole, head=str(probed)))
    computed, answers = [], predict._answers

    def stopping(predictor, pixels):
        if computed:
            raise OSError(28, "No space left on device")
        computed.extend(pixels)
        return answers(predictor, pixels)

    config = config_of(checkpoint_dir, pictures, out, head=str(probed))
    with monkeypatch.context() as patch:
        patch.setattr(predict, "_answers", stopping)
        with pytest.raises(OSError, match="No space"):
            predict.run(config)
    assert not out.exists()
    rows = tmp_path / ".out.csv.rows"
    with rows.open("ab") as stream:
        stream.write(b'[7, [{"file": "a row that was cut')
    monkeypatch.setattr(predict, "_answers", lambda one, pixels: computed.extend(pixels) or answers(one, pixels))
    with caplog.at_level("INFO"):
        predict.run(config)
    assert "resuming: 2 of" in caplog.text
    assert len(computed) == len(table(out)), "each once"
    assert out.read_bytes() == whole.read_bytes()
    ledgers = [path.with_name("out.csv.rejected.jsonl").read_bytes() for path in (out, whole)]
    assert ledgers[0] == ledgers[1]
    assert not rows.exists()


def test_rows_of_other_files_or_weights_are_not_taken(tmp_path):
    row = {"file": "a\u2028\x9b.png", "score": 0.1, "unknown": float("nan")}
    PartialTable(tmp_path / "rows", ["one"]).add({3: [row]})
    again = PartialTable(tmp_path / "rows", ["one"])
    again.add({5: [], 7: [row, row]})
    assert list(again.read()) == [3, 5, 7]
    assert again.read()[3][0]["file"] == row["file"]
    assert np.isnan(again.read()[7][1]["unknown"])
    assert PartialTable(tmp_path / "rows", ["another"]).read() == {}


def test_a_file_that_would_take_more_memory_is_refused(pictures, probed, checkpoint_dir, tmp_path):
    config = config_of(checkpoint_dir, pictures, tmp_path / "out.csv", head=str(probed), worker_memory_gb=0.2)
    with pytest.raises(UserError, match=r"too_large: .*config.worker_memory_gb is 0.2"):
        predict.run(config)


def test_mistakes_are_one_line(pictures, checkpoint_dir, probed, tmp_path):
    (tmp_path / "reports.txt").write_text("No effusion.\n")
    for changes, words in (
        ({"out": ""}, r"config\.out is empty"),
        ({"out": str(tmp_path / "x.xlsx")}, r"does not end in \.csv"),
        ({"source": str(tmp_path / "reports.txt")}, "holds reports"),
        ({"source": str(pictures / "broken.png")}, "nothing could be predicted; the first of 1 reasons: truncated"),
        ({"head": str(tmp_path)}, "holds no heads"),
        ({"head": str(probed), "ct_slices": True}, r"config\.ct_slices"),
        ({"rows": 0}, r"config\.rows must be at least 1"),
    ):
        config = config_of(checkpoint_dir, pictures, tmp_path / "out.csv")
        config.update(changes)
        with pytest.raises(UserError, match=words):
            predict.run(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reports.txt"], "nothing half-written"


def test_files_of_two_items_never_share_a_name():
    items = [sources.Item(name, "xray") for name in ("a/b.png", "a_b.png", "a_b.png-2", "c\\b.png")]
    assert sources.stems(items) == ["a_b.png", "a_b.png-2", "a_b.png-2-2", "c_b.png"]


def test_real_pictures_come_back_on_their_own_grid(trained, phantom, checkpoint_dir, tmp_path):
    if not REAL.exists():
        pytest.skip("the small real data is not here")
    config = SegmentConfig(tune="frozen", setr_channels=(8, 8, 8), unetr_features=1, **ONE)
    for modality in ("xray", "ct"):
        task = segment.Task(trained, phantom, modality, "frozen", {"test": [0]}, config)
        heads.save(segment.head(task, trials.main(config), task.start(trials.main(config))), tmp_path)
    cts = ("real_ct/cip-ct64/dicom", "real_ct/LIDC-IDRI-0314/ct.nii.gz")
    films = ("real_cxr/images/ARDSSevere.png", "real_cxr/images/jkms-35-e79-g001-l-a.jpg")
    lines = [f"{REAL / name},{kind}\n" for kind, some in (("xray", films), ("ct", cts)) for name in some]
    (tmp_path / "real.csv").write_text("path,modality\n" + "".join(lines))
    predict.run(config_of(checkpoint_dir, tmp_path / "real.csv", tmp_path / "out.csv", head=str(tmp_path)))
    rows = table(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == [str(REAL / name) for name in (*films, *cts)]
    for row in rows[:2]:
        mask = cv2.imread(str(tmp_path / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == cv2.imread(row["file"], cv2.IMREAD_GRAYSCALE).shape
    assert [bool(row["series"]) for row in rows] == [False, False, True, False]
    own, mask = nibabel.load(rows[3]["file"]), nibabel.load(tmp_path / rows[3]["mask"])
    assert mask.shape == own.shape[:3]
    np.testing.assert_array_equal(mask.affine, own.affine)
    assert sum(float(row["ml:heart"] or 0) for row in rows) >= 0
