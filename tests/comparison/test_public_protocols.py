"""Published protocols on tiny trees of public layouts: built by the split that each names, measured by its job."""

import json

import numpy as np
import pytest

from tests.data.sets.conftest import build  # noqa: F401
from tests.data.sets.test_cc_ccii import SCANS
from tests.data.sets.test_cc_ccii import tree as cc_ccii  # noqa: F401
from tests.data.sets.test_chexpert import tree as chexpert  # noqa: F401
from tests.data.sets.test_covidx import tree as covidx  # noqa: F401
from tests.data.sets.test_ricord import tree as ricord  # noqa: F401
from tests.data.sets.test_rsna import tree as rsna  # noqa: F401
from tests.data.sets.test_siim import tree as siim  # noqa: F401
from tests.evaluation.conftest import checkpoint_dir, trained  # noqa: F401
from unimedi_jax.config.jobs import DetectConfig, FitConfig, ProbeConfig, SegmentConfig
from unimedi_jax.config.recipes import VolumesConfig
from unimedi_jax.evaluation import detect, probe, segment, trials
from unimedi_jax.input import records

SHARED = dict(untrained=False, resamples=5, shares=(1.0,))
QUICK = FitConfig(2, epochs=1)
VOLUMES = VolumesConfig(size=(8, 32, 32), batch=4, epochs=1, least=0)
LINEAR = ProbeConfig(protocol="mgca", mgca=QUICK, **SHARED)
TUNED = dict(tune="full", unimiss=VOLUMES, hkbu=VOLUMES, voco=VOLUMES, seeds=(0,), **SHARED)
DECODED = dict(protocol="mgca", tune="frozen", mgca=QUICK, siim_batch=2, setr_channels=(4, 4, 4), **SHARED)
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
        ("ricord", {}, probe, ProbeConfig(protocol="unimiss", **TUNED), "sensitivity/macro"),
        ("cc_ccii", {"lists": "lists"}, probe, ProbeConfig(protocol="hkbu", **TUNED), "accuracy/macro"),
        ("cc_ccii", {"lists": "folds"}, probe, ProbeConfig(protocol="voco", **TUNED), "accuracy/macro"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "protocol", None),
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
    if "lists" in options:
        options = {"lists": str(listed(tmp_path / options["lists"]))}
    build(name, request.getfixturevalue(name), **options)
    dataset = records.open_set(tmp_path / "records", f"{name}_0")
    rows = job.evaluate(trained, dataset, config)
    (task,) = {row.task for row in rows}
    assert task.endswith(trials.PUBLISHED[config.protocol])
    values = {row.metric: row for row in rows}
    assert metric in values
    assert values[metric].cases == dataset.size(values[metric].modality, "test")
    assert np.isnan(values[metric].value) or 0 <= values[metric].value <= 1


def listed(folder):
    """HKBU's lists, or the first of VoCo's folds: a patient of each class trains, another tests."""
    folder.mkdir()
    sides = {"train": 0, "test": 1}
    if folder.name == "lists":
        names = [f"{number}.png" for number in range(12)]
        for side, place in sides.items():
            tree = {kind: {patients[place]: {f"{patients[place]}00": names}} for kind, patients in SCANS.items()}
            (folder / f"ct_{side}.json").write_text(json.dumps(tree))
        return folder
    for side, part in (("train", "train"), ("test", "valid")):
        rows = [f"{patients[sides[side]]},{patients[sides[side]]}00,0" for patients in SCANS.values()]
        (folder / f"CC_CCII_fold0_{part}.csv").write_text("\n".join(["patient_id,scan_id,target", *rows]) + "\n")
    return folder
