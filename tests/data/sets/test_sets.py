"""What all public sets share: their settings, the doctor, building again, mixing, and evaluation alone."""

import inspect
import subprocess
import sys
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from configs import build as build_config
from configs import pretrain
from data import job, sets
from data.errors import UserError
from data.readers import table
from data.sets import dataset_index
from tests.data.sets.conftest import SALT, ct, film, rows
from unimedi_jax.config import building
from unimedi_jax.input import pipeline, records
from unimedi_jax.train import dataset

ROOT = Path(__file__).parents[3]
REPORTED = ("mimic_cxr", "bimcv_covid19", "ct_rate", "open_i", "chexpert_plus", "rexgradient", "padchest")


@pytest.mark.parametrize("name", sets.SETS)
def test_a_set_has_its_settings_its_counts_and_its_line_in_the_docs(name):
    module = sets.SETS[name]
    assert list(inspect.signature(module.read).parameters)[1:] == list(vars(building.OPTIONS[name]))
    assert module.EXPECTED
    assert module.LAYOUT
    assert (name in building.REPORTS) == (name in REPORTED)
    page = "pretraining_sets" if name in REPORTED else "evaluation_sets"
    docs = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert f"(../docs/{page}.md#{name})" in (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert f"configs/build.py:{name} " in docs
    for option in vars(building.OPTIONS[name]):
        assert f"`{option}`" in docs, option


@pytest.mark.parametrize("name", sets.SETS)
def test_a_source_that_is_none_is_one_line(name, tmp_path):
    config = build_config.get_config(name)
    with pytest.raises(UserError, match=r"config\.source is empty.*data/README\.md"):
        job.run(config, tmp_path)
    config.source, config.data_dir = str(tmp_path / "nowhere"), str(tmp_path / "records")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        job.run(config, tmp_path)
    config.source = str(tmp_path / "records")
    with pytest.raises(UserError, match=r"data/README\.md links to the tree") as caught:
        job.run(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_table_says_what_was_looked_for_and_where(tmp_path, build):
    header = "PatientID,SeriesInstanceUID,CoordX,CoordY,CoordZ,label"
    rows(tmp_path / "LUNA25_Public_Training_Development_Data.csv", header)
    with pytest.raises(UserError, match=r"has nothing to build of luna25: looked below it for LUNA25_Public"):
        build("luna25", tmp_path)


def test_tables_are_read_strictly(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffa , b\n1, "x\ny"\n'.encode())
    assert table.read_published(path, ("a", "b"))[0]["a"] == "1"
    path.write_bytes(b"a,b\n1,caf\xe9\n,\n")
    assert table.read_published(path, ("b",)) == [{"b": "café"}], "Windows-1252, without its blank last row"
    path.write_bytes(b"a,b\n\xc3\xa9,caf\xe9\n")
    assert table.read_published(path, ("a", "b")) == [{"a": "é", "b": "caf\ufffd"}], "UTF-8 with one wrong byte"
    path.write_bytes(b"a,b\n1," + b"x" * 200_000)
    assert len(table.read_published(path, ("b",))[0]["b"]) == 200_000
    path.write_bytes(b"a,b\n1\n")
    with pytest.raises(UserError, match="too few fields in line 2"):
        table.read_published(path, ("b",))
    with pytest.raises(UserError, match=r"lacks the columns c: .* parted by commas, and names 2$"):
        table.read_published(path, ("c",))
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        table.read_published(packed, ())


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('ses-E1,"Mrs. Smith has a large effusion; no nodule."\nses-E2,No effusion.\n', "names 2$"),
        ("ses-E1;Mrs. Smith has a large effusion.\nses-E2;None\n", "names 1; it has more of semicolons, which may be"),
        ("report_id\tenglish\nses-E1\tSmith\n", "names 1; it has more of tabs"),
        ("", "names 0$"),
    ],
)
def test_a_table_without_its_header_line_prints_none_of_its_text(tmp_path, content, hint):
    path = tmp_path / "english.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=f"lacks the columns report_id, english: .*{hint}") as caught:
        table.read_published(path, ("report_id", "english"))
    assert not any(word in str(caught.value) for word in ("Smith", "effusion", "ses-E1"))


@pytest.mark.parametrize(("value", "number"), [("1.0", 1), ("0.0", 0), ("0", 0), ("-1.0", 0.25), ("-1", 0.25)])
def test_labels(value, number):
    assert dataset_index.label(value, 0.25) == number
    assert np.isnan(dataset_index.label("", 0.25))


def open_i(root, numbers):
    """Kaggle's copy of Open-i with a patient of each number."""
    header = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
    texts = [f"{n},normal,normal,,,,The lungs of case {n} are clear in this film.,Normal." for n in numbers]
    rows(root / "indiana_reports.csv", header, *texts)
    rows(root / "indiana_projections.csv", "uid,filename,projection", *(f"{n},{n}.png,Frontal" for n in numbers))
    for number in numbers:
        film(root / "images/images_normalized" / f"{number}.png", number)
    return root


def covidx(root):
    root.mkdir(exist_ok=True)
    for side in ("train", "test"):
        lines = [f"{side}{n} {side}{n}.png normal rsna" for n in range(6)]
        (root / f"{side}_COVIDx9A.txt").write_text("\n".join(lines))
        for n in range(6):
            film(root / side / f"{side}{n}.png", n + 10 * (side == "test"))
    return root


def test_the_doctor_and_a_second_build(tmp_path, capsys):
    config = build_config.get_config("open_i")
    config.source, config.data_dir = str(open_i(tmp_path / "raw", range(12))), str(tmp_path / "records")
    config.workers, config.salt, config.dry_run = 1, SALT, True
    job.run(config, tmp_path / "look")
    shown = capsys.readouterr().out
    assert "no set was written" in shown
    assert "language en" in shown
    assert not (tmp_path / "records" / "open_i").exists()
    config.dry_run = False
    job.run(config, tmp_path / "run")
    contract = (tmp_path / "records/open_i/contract.json").read_bytes()
    job.run(config, tmp_path / "run")
    assert "already built" in capsys.readouterr().out
    assert (tmp_path / "records/open_i/contract.json").read_bytes() == contract
    config.options.labels = "normal"
    with pytest.raises(UserError, match="was built from another source"):
        job.run(config, tmp_path / "run")


def test_the_doctor_of_a_set_without_reports(tmp_path, capsys):
    config = build_config.get_config("covidx")
    config.source, config.data_dir = str(covidx(tmp_path / "raw")), str(tmp_path / "records")
    config.workers, config.dry_run, config.max_rejected = 1, True, 1.0
    (tmp_path / "raw/train/train3.png").write_bytes(b"none")
    job.run(config, tmp_path / "look")
    shown = " ".join(capsys.readouterr().out.split())
    assert "not_an_image 1" in shown
    assert "row 4: train/train3.png: not_an_image" in shown
    assert "over 112 tokens, cut 0" in shown


def test_workers_give_the_same_set(tmp_path):
    """Rows and readers cross process borders."""
    root = covidx(tmp_path)
    for workers in (1, 2):
        config = build_config.get_config("covidx")
        config.source, config.data_dir, config.name = str(root), str(tmp_path / "records"), f"by{workers}"
        config.workers, config.salt = workers, SALT
        job.run(config, tmp_path / "run")
    one, two = (records.open_set(tmp_path / "records", f"by{n}").contract["content_sha256"] for n in (1, 2))
    assert one == two


class Ids:
    """A sampler that passes ids on."""

    keep = ()

    def __init__(self, modality):
        self.modality = modality

    def __call__(self, record, rng=None):
        return {"id": records.text(record["id"])}


def test_mixing_sets_is_one_line_of_config(tmp_path, build):
    """Two sets of films two to one, and the CTs of a third."""
    scans = tmp_path / "bimcv"
    lines = []
    for n in range(12):
        ct(scans / f"sub-S{n}/ses-E{n}/mod-ct/sub-S{n}_ses-E{n}_run-1_bp-chest_ct.nii.gz", n)
        lines.append(f"sub-S{n}\tses-E{n}\tNo se observa derrame pleural en el caso {n}.")
    rows(scans / "derivatives/labels/labels_covid19_posi.tsv", "PatientID\tReportID\tReport", *lines)
    build("open_i", open_i(tmp_path / "a", range(20)))
    build("open_i", open_i(tmp_path / "b", range(100, 140)))
    build("bimcv_covid19", scans)
    config = pretrain.get_config()
    config.data = "open_i_0:2, open_i_1, bimcv_covid19_2"
    mixed = dataset.open_sets(config.data, tmp_path / "records")
    assert [(record_set.name, weight) for record_set, weight in mixed] == [
        ("open_i_0", 2),
        ("open_i_1", 1),
        ("bimcv_covid19_2", 1),
    ]
    of_first = {records.text(one["id"]) for one in mixed[0][0].source("xray", "train")}
    batches = iter(
        pipeline.train(mixed, {kind: Ids(kind) for kind in pipeline.MODALITIES}, {"xray": 6, "ct": 2}, seed=0)
    )
    drawn = [next(batches) for _ in range(20)]
    films = [one for batch in drawn for one in batch["xray"]["id"].tolist()]
    assert np.mean([one in of_first for one in films]) == pytest.approx(2 / 3, abs=0.05)
    assert all(len(batch["ct"]["id"]) == 2 for batch in drawn)


def test_a_set_without_reports_is_not_trained_on(tmp_path, build):
    build("covidx", covidx(tmp_path))
    mixed = dataset.open_sets("covidx_0", tmp_path / "records")
    model = ml_collections.ConfigDict({"slices": 0, "volume_grid": (8, 8, 8)})
    with pytest.raises(UserError, match="covidx_0 have no reports to learn from"):
        dataset.check_sets(mixed, model, uses_reports=True)
    dataset.check_sets(mixed, model, uses_reports=False)  # an objective that looks at images alone takes it


def test_options_from_the_command_line(tmp_path):
    def run(*more):
        command = [sys.executable, "main.py", "--config=configs/build.py:rsna", f"--config.source={tmp_path}", *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    wrong = run("--config.options.split=x", f"--config.data_dir={tmp_path / 'records'}")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: config.options.split is 'x': one of detection, classification\n"


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("rsna", "stage_2_train_labels.csv", "patientId,x,y,width,height,Target\n1,a,b,c,d,1\n"),
        ("luna16", "annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1,x,1,1,1\n"),
    ],
)
def test_tables_with_words_for_numbers_are_one_line(tmp_path, build, name, file, text):
    (tmp_path / file).write_text(text)
    (tmp_path / "stage_2_train_images").mkdir()
    with pytest.raises(UserError, match=f"of {name} in .* is not of its published form") as caught:
        build(name, tmp_path)
    assert "\n" not in str(caught.value)
