"""Phantoms made to test claims: scarce CTs, patients of one split, nodules at every height, patients examined twice."""

import collections

import numpy as np
import pytest
from scipy import ndimage, stats

from configs import build as build_config
from data import job
from data.errors import UserError
from data.phantom import anatomy, findings, places, scanner
from data.phantom import patient as patients
from data.phantom import source as phantom
from data.phantom.findings import LABELS
from data.phantom.options import Options
from data.phantom.places import Rule

NODULE = LABELS.index("nodule") + 1


def count(rows):
    return collections.Counter((row.modality, row.split) for row in rows)


def test_scarce_training_cts_leave_the_other_patients_as_they_are():
    whole = phantom.source(xrays=100, cts=200).rows
    scarce = phantom.source(xrays=100, cts=200, options=Options(train_cts=12, train_xrays=50)).rows
    assert count(scarce) == {
        ("xray", "train"): 50,
        ("ct", "train"): 12,
        **{(modality, split): n for modality, n in (("xray", 10), ("ct", 20)) for split in ("val", "test")},
    }
    known = {row.key: (row.split, row.info) for row in whole}
    assert all(known[row.key] == (row.split, row.info) for row in scarce)
    assert [row.number for row in scarce] == list(range(1, len(scarce) + 1))


@pytest.mark.parametrize("split", ["test", "val"])
def test_all_patients_of_a_build_may_be_of_one_split(split):
    rows = phantom.source(xrays=12, cts=5, options=Options(split=split, both=3)).rows
    assert count(rows) == {("xray", split): 15, ("ct", split): 8}


def test_patients_examined_twice_are_for_testing_alone():
    rows = phantom.source(xrays=20, cts=10, options=Options(both=7)).rows
    pairs = [row for row in rows if row.key.startswith("phantom-both")]
    assert count(pairs) == {("xray", "test"): 7, ("ct", "test"): 7}


def test_the_contract_of_the_embedded_set_names_no_new_setting():
    assert not set(phantom.source().contract) & set(vars(Options()))
    assert phantom.source(options=Options(both=2)).contract["both"] == 2


@pytest.mark.parametrize(
    "settings",
    [{"views": 3}, {"split": "exam"}, {"nodules": "anywhere"}, {"both": -1}, {"train_cts": -3}, {"train_xrays": -1}],
)
def test_a_wrong_setting_is_one_line(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Options(**settings)


def test_settings_of_the_command_line_reach_the_source(tmp_path):
    config = build_config.get_config("phantom")
    config.update(xrays=2, cts=1, split="test", both=1, train_cts=4, nodules="by_height", data_dir=str(tmp_path))
    job.run(config, tmp_path / "work")
    set_of = (tmp_path / "phantom" / "contract.json").read_text()
    assert '"split": "test"' in set_of
    assert '"train_cts": 4' in set_of
    assert '"test": 3' in set_of


# ---- where nodules lie ----


@pytest.fixture(scope="module")
def lying():
    rng = np.random.default_rng(5)
    patient = patients.draw_patient(rng, upright=False, enlarged=False)
    return anatomy.build(patient, scanner.scan_grid(scanner.draw_scan(patient, rng)), rng)


def test_nodules_by_height_lie_at_every_height_alike(lying):
    """Against the uniform distribution over the heights that have room, counted by erosion: code of another kind."""
    rng, reach = np.random.default_rng(0), 9.0
    centres = np.array([places.nodule(lying, "right", reach, (), Rule(True), rng) for _ in range(240)])
    lung = patients.hemithorax(lying, "right") >= 0.95
    z, y, x = np.rint(reach / np.array(lying.inner.step)).astype(int)
    cross = np.zeros((2 * z + 1, 2 * y + 1, 2 * x + 1), bool)
    cross[:, y, x] = cross[z, :, x] = cross[z, y, :] = True
    room = ndimage.binary_erosion(lung, cross).any((1, 2))
    low, high = lying.inner.z[np.flatnonzero(room)[[0, -1]]]
    assert centres[:, 0].min() >= low - lying.inner.step[0] / 2
    assert centres[:, 0].max() <= high + lying.inner.step[0] / 2
    counts, _ = np.histogram(centres[:, 0], bins=6, range=(low - 0.1, high + 0.1))
    assert stats.chisquare(counts).pvalue > 0.001
    anywhere = [findings.clear_place(lying, patients.hemithorax(lying, "right"), reach, rng) for _ in range(240)]
    counts, _ = np.histogram(np.array(anywhere)[:, 0], bins=6, range=(low - 0.1, high + 0.1))
    assert stats.chisquare(counts).pvalue < 1e-6  # the middle of the lung is wide


def test_a_second_nodule_keeps_off_the_first(lying):
    rng = np.random.default_rng(1)
    first = places.nodule(lying, "left", 18.0, (), Rule(True), rng)
    for _ in range(20):
        second = places.nodule(lying, "left", 12.0, [(first, 15.0)], Rule(True), rng)
        assert np.linalg.norm(second - first) > 27


# ---- patients examined twice ----


@pytest.fixture(scope="module")
def pairs():
    rows = phantom.source(xrays=0, cts=0, seed=3, options=Options(both=14)).rows
    examples = [phantom.convert(row) for row in rows]
    return list(zip(examples[::2], examples[1::2], strict=True))


def test_both_examinations_are_of_one_patient(pairs):
    assert len({xray["patient"] for xray, _ in pairs}) == len(pairs)
    for xray, ct in pairs:
        assert xray["patient"] == ct["patient"]
        assert (xray["id"], ct["id"]) == (f"{xray['patient']}-xray", f"{ct['patient']}-ct")
        np.testing.assert_array_equal(xray["labels"], ct["labels"])
        assert xray["report"] != ct["report"]
        assert "image" in xray
        assert "volume" in ct


def test_both_examinations_show_the_same_lesions_in_the_same_place(pairs):
    """By centre of mass relative to the lungs: down the X-ray and across it, against up the CT and across it."""
    compared = 0
    for xray, ct in pairs:
        for label in ("nodule", "consolidation"):
            index = LABELS.index(label)
            if not xray["labels"][index]:
                continue
            places_of = []
            for example, upward in ((xray, -1), (ct, 1)):
                mask, organs = example["lesion_mask"] == index + 1, example["organ_mask"]
                lungs = np.argwhere((organs == 1) | (organs == 2))
                low, high = lungs.min(0), lungs.max(0)
                part = (np.array(ndimage.center_of_mass(mask)) - low) / (high - low)
                places_of.append((part[0] if upward > 0 else 1 - part[0], part[-1]))
            np.testing.assert_allclose(*places_of, atol=0.12)
            compared += 1
    assert compared >= 4


def test_equal_draws_choose_equal_places_in_both_thoraces():
    upright, supine = thoraces(seed=8)
    for label in ("nodule", "consolidation"):
        lesions = [
            findings.draw_lesions(own, (label,), np.random.default_rng(2), Rule(False, other))[0]
            for own, other in ((upright, supine), (supine, upright))
        ]
        assert lesions[0].side == lesions[1].side
        assert lesions[0].lobe == lesions[1].lobe
        if label == "nodule":
            assert lesions[0].size_mm == lesions[1].size_mm


def thoraces(seed):
    patient = [
        patients.draw_patient(np.random.default_rng(seed), upright=upright, enlarged=False) for upright in (True, False)
    ]
    scan = scanner.draw_scan(patient[1], np.random.default_rng(seed))
    grids = phantom.radiograph.xray_grid(patient[0]), scanner.scan_grid(scan)
    return [anatomy.build(p, grid, np.random.default_rng(seed)) for p, grid in zip(patient, grids, strict=True)]
