"""Published protocols on tiny trees of public layouts: built by the split that each names, measured by its job."""

import json

import numpy as np
import pytest

from tests.data.sets.conftest import build, ct, film, rows  # noqa: F401
from tests.data.sets.test_cc_ccii import SCANS
from tests.data.sets.test_cc_ccii import tree as cc_ccii  # noqa: F401
from tests.data.sets.test_chexpert import tree as chexpert  # noqa: F401
from tests.data.sets.test_chexpert_plus import TASKS, path
from tests.data.sets.test_chexpert_plus import tree as chexpert_plus  # noqa: F401
from tests.data.sets.test_covidx import tree as covidx  # noqa: F401
from tests.data.sets.test_ct_rate import tree as ct_rate  # noqa: F401
from tests.data.sets.test_luna16 import NODULE
from tests.data.sets.test_luna16 import tree as scans  # noqa: F401
from tests.data.sets.test_organs import abdomen as btcv  # noqa: F401
from tests.data.sets.test_organs import multi as amos22  # noqa: F401
from tests.data.sets.test_organs import organs
from tests.data.sets.test_rsna import tree as rsna  # noqa: F401
from tests.data.sets.test_siim import tree as siim  # noqa: F401
from tests.evaluation.conftest import checkpoint_dir, trained  # noqa: F401
from unimedi_jax.config.jobs import (
    CandidatesTask,
    DetectConfig,
    EvaluateConfig,
    FitConfig,
    ProbeConfig,
    RetrieveConfig,
    SegmentConfig,
)
from unimedi_jax.config.recipes import CropsConfig, VolumesConfig
from unimedi_jax.evaluation import candidate_tuning, detect, probe, retrieve, segment, trials
from unimedi_jax.input import records
from unimedi_jax.metrics import auroc

ONCE = dict(untrained=False, resamples=5, rows=2)
SHARED = dict(untrained=False, resamples=5, shares=(1.0,))
QUICK = FitConfig(2, epochs=1)
VOLUMES = VolumesConfig(size=(8, 32, 32), batch=4, epochs=1, least=0)
LINEAR = ProbeConfig(protocol="mgca", mgca=QUICK, **SHARED)
TUNED = dict(tune="full", unimiss=VOLUMES, hkbu=VOLUMES, voco=VOLUMES, seeds=(0,), **SHARED)
DECODED = dict(protocol="mgca", tune="frozen", mgca=QUICK, siim_batch=2, setr_channels=(4, 4, 4), **SHARED)
CUT = dict(crop=(8, 16, 16), crops=2, steps=1, validations=1, overlap=0.25, spacing_mm=(2.0, 1.0, 1.0))
CROPS = dict(tune="frozen", unetr=CropsConfig(**CUT), voco=CropsConfig(**CUT), unetr_features=1, **SHARED)
NODULES = CandidatesTask(crop=(8, 16, 16), negatives=2, genesis=FitConfig(8, epochs=1, plateau=1))
CANDIDATES = EvaluateConfig(protocol="genesis", untrained=False, resamples=5, rows=2, candidates=NODULES)
BOXES = DetectConfig(protocol="mgca", tune="frozen", recipe=QUICK, widths=(4, 4, 4), most=4, **SHARED)


@pytest.mark.parametrize(
    ("name", "options", "job", "config", "metric"),
    [
        ("chexpert", {"split": "mgca", "val": 5}, probe, LINEAR, "auroc/macro"),
        ("rsna", {"split": "classification", "greys": "largest"}, probe, LINEAR, "auroc/macro"),
        ("covidx", {"split": "mgca"}, probe, LINEAR, "accuracy/macro"),
        ("rsna", {"greys": "largest"}, segment, SegmentConfig(target="boxes", **DECODED), "dice/mean"),
        (
            "siim",
            {"split": "mgca", "greys": "largest"},
            segment,
            SegmentConfig(target="lesions", **DECODED),
            "dice/mean",
        ),
        ("rsna", {"greys": "largest"}, detect, BOXES, "map_mgca"),
        ("object_cxr", {}, detect, BOXES, "map_mgca"),
        ("ricord", {"lists": "names"}, probe, ProbeConfig(protocol="unimiss", **TUNED), "sensitivity/macro"),
        ("cc_ccii", {"lists": "lists"}, probe, ProbeConfig(protocol="hkbu", **TUNED), "accuracy/macro"),
        ("cc_ccii", {"lists": "folds"}, probe, ProbeConfig(protocol="voco", **TUNED), "accuracy/macro"),
        ("btcv", {"spacing_mm": (2, 1, 1)}, segment, SegmentConfig(protocol="unetr", **CROPS), "dice/mean"),
        ("flare22", {"spacing_mm": (2, 1, 1)}, segment, SegmentConfig(protocol="unetr", **CROPS), "dice/mean"),
        ("amos22", {"spacing_mm": (2, 1, 1)}, segment, SegmentConfig(protocol="voco", **CROPS), "dice/mean"),
        (
            "luna16",
            {"candidates": True, "split": "genesis", "spacing_mm": (1, 1, 1)},
            candidate_tuning,
            CANDIDATES,
            "sensitivity/1",
        ),
    ],
    ids=[
        *("chexpert-linear", "rsna-linear", "covidx-linear", "rsna-masks", "siim-masks", "rsna-boxes"),
        "object_cxr-boxes",
        *(
            "ricord-unimiss",
            "cc_ccii-hkbu",
            "cc_ccii-voco",
            "btcv-unetr",
            "flare22-unetr",
            "amos22-voco",
            "luna16-genesis",
        ),
    ],
)
def test_a_public_set_is_measured_by_its_protocol(
    trained,  # noqa: F811
    tmp_path,
    build,  # noqa: F811
    request,
    monkeypatch,
    name,
    options,
    job,
    config,
    metric,
):
    monkeypatch.setattr(trials, "FEWEST", 1)  # the trees are tiny
    tree = request.getfixturevalue(name)
    if "lists" in options:
        options = {"lists": str(listed(tmp_path / options["lists"]))}
    build(name, tree, **options)
    dataset = records.open_set(tmp_path / "records", f"{name}_0")
    results = job.evaluate(trained, dataset, config)
    (task,) = {row.task for row in results}
    assert task.removesuffix(" with other settings").endswith(trials.PUBLISHED[config.protocol])
    values = {row.metric: row for row in results}
    assert values[metric].cases == dataset.size(values[metric].modality, "test")
    assert np.isnan(values[metric].value) or 0 <= values[metric].value <= 1


def test_ct_rate_s_findings_by_ct_clip_s_pairs_of_prompts(request, tmp_path):
    """CT-CLIP's table: AUROC, accuracy, weighted F1 and precision."""
    network, make, tree = map(request.getfixturevalue, ("trained", "build", "ct_rate"))
    make("ct_rate", tree())
    dataset = records.open_set(tmp_path / "records", "ct_rate_0")
    rows_of = retrieve.evaluate(network, [dataset], RetrieveConfig(prompts="ct_clip", score="difference", **ONCE))
    values = {row.metric: row.value for row in rows_of if row.task == retrieve.ZEROSHOT}
    assert {"auroc/macro", "point/accuracy", "point/f1_weighted", "point/precision"} <= values.keys()


def test_chexpert_5x200_has_precision_against_reports_and_five_way_accuracy(request, monkeypatch, tmp_path):
    monkeypatch.setattr(auroc, "FEWEST", 1)  # a few cases may have one finding each by chance
    network, make, root = map(request.getfixturevalue, ("trained", "build", "chexpert_plus"))
    lines = [f"CheXpert-v1.0/{path(n)},{','.join('1.0' if at == n - 1 else '' for at in range(5))}" for n in (1, 2, 4)]
    rows(tmp_path / "chexpert_5x200.csv", f"Path,{','.join(TASKS)}", *lines)
    make("chexpert_plus", root, lists=str(tmp_path / "chexpert_5x200.csv"))
    dataset = records.open_set(tmp_path / "records", "chexpert_plus_0")
    found = retrieve.evaluate(network, [dataset], RetrieveConfig(each=1, **ONCE))
    measured = {(row.task, row.metric) for row in found}
    assert {(retrieve.PRECISION, "p5"), (retrieve.ONE_OF, "accuracy/macro")} <= measured


def listed(folder):
    """HKBU's lists, or the first of VoCo's folds: a patient of each class trains, another tests; or what is there."""
    if folder.exists():
        return folder
    folder.mkdir()
    sides = {"train": 0, "test": 1}
    if folder.name == "lists":
        names = [f"{number}.png" for number in range(12)]
        for side, place in sides.items():
            tree = {kind: {patients[place]: {f"{patients[place]}00": names}} for kind, patients in SCANS.items()}
            (folder / f"ct_{side}.json").write_text(json.dumps(tree))
        return folder
    for side, part in (("train", "train"), ("test", "valid")):
        lines = [f"{patients[sides[side]]},{patients[sides[side]]}00,0" for patients in SCANS.values()]
        rows(folder / f"CC_CCII_fold0_{part}.csv", "patient_id,scan_id,target", *lines)
    return folder


@pytest.fixture
def object_cxr(tmp_path):
    """X-rays with and without an object, and the public part of the test X-rays."""
    for part, count in (("train", 20), ("dev", 4)):
        for number in range(count):
            film(tmp_path / part / f"{number:05d}.jpg", number + 50 * (part == "dev"), (64, 128))
        lines = [f"{n:05d}.jpg,{'0 10 8 40 30' if n % 2 else ''}" for n in range(count)]
        rows(tmp_path / f"{part}.csv", "image_name,annotation", *lines)
    return tmp_path


@pytest.fixture
def flare22(tmp_path):
    """Labelled CTs, and the tuning part."""
    names = {f"FLARE22Train/{{}}/FLARE22_Tr_{n:04d}": n for n in range(1, 13)} | {"tuning/{}/FLARETs_0001": 99}
    for name, number in names.items():
        ct(tmp_path / f"{name.format('images')}_0000.nii.gz", number)
        ct(tmp_path / f"{name.format('labels')}.nii.gz", voxels=organs(1, 13, 4))
    return tmp_path


@pytest.fixture
def ricord(tmp_path):
    """CTs of UniMiSS's names, and its lists."""
    names = [
        f"RICORD_nii/MIDRC-RICORD-1{'AB'[n % 2]}/ID419639-00000{n}_date05-14-2008_2.0-COR.nii.gz" for n in range(9)
    ]
    for number, name in enumerate(names):
        ct(tmp_path / name, number)
    (tmp_path / "names").mkdir()
    for split, part in (("train", names[:5]), ("val", names[5:7]), ("test", names[7:])):
        lines = [f"{name} {int('1A' in name)}\n" for name in part]
        (tmp_path / "names" / f"{split}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def luna16(scans):  # noqa: F811
    """The tree's subsets as Models Genesis's folds, and two candidates of each CT, one of them a nodule's."""
    for old, new in ((0, 4), (1, 5), (2, 8), (3, 9)):
        (scans / f"subset{old}").rename(scans / f"subset{new}")
    x, y, z, _ = NODULE
    places = ((x, 1), (x + 10, 0))
    lines = [f"1.3.6.{number},{at},{y},{z},{kind}" for number in range(1, 6) for at, kind in places]
    rows(scans / "candidates_V2.csv", "seriesuid,coordX,coordY,coordZ,class", *lines)
    rows(scans / "annotations_excluded.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm")
    return scans
