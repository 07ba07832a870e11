"""The phantom against what it claims: its masks, its labels, its reports, its anatomy."""

import collections
import dataclasses
import pickle
import re

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import distance

from data.errors import UserError
from data.phantom import anatomy, findings, grammar, radiograph, scanner, shapes
from data.phantom import patient as patients
from data.phantom import source as phantom
from data.phantom.findings import LABELS, Lesion
from data.phantom.grammar import size_word
from data.record_grid import RecordGrid

NODULE, CONSOLIDATION, EFFUSION, CARDIOMEGALY, PNEUMOTHORAX = range(5)


@pytest.fixture(scope="module")
def rows():
    return phantom.source(xrays=60, cts=40, seed=3).rows


@pytest.fixture(scope="module")
def examples(rows):
    return [phantom.convert(row) for row in rows]


def of(examples, modality):
    key = "image" if modality == "xray" else "volume"
    return [example for example in examples if key in example]


def draw(modality, labels, seed):
    """One patient with the wanted findings, drawn outside the source."""
    rng = np.random.default_rng([7, seed])
    upright = modality == "xray"
    patient = patients.draw_patient(rng, upright=upright, enlarged="cardiomegaly" in labels)
    if not upright:
        return phantom.ct(patient, labels, rng)
    thorax, lesions = phantom.standing(patient, labels, rng)
    return lesions, phantom.take_xray(thorax, lesions, rng)


# ---- the source ----


def test_rows_split_patients_and_modalities():
    rows = phantom.source(xrays=200, cts=100).rows
    assert collections.Counter((r.modality, r.split) for r in rows) == {
        ("xray", "train"): 160,
        ("xray", "val"): 20,
        ("xray", "test"): 20,
        ("ct", "train"): 80,
        ("ct", "val"): 10,
        ("ct", "test"): 10,
    }
    assert len({r.key for r in rows}) == len(rows)
    more = phantom.source(xrays=300, cts=100).rows
    split = {r.key: r.split for r in more}
    assert all(split[r.key] == r.split for r in rows)


def test_no_patient_has_two_examinations(examples):
    owners = collections.Counter(example["patient"] for example in examples)
    assert set(owners.values()) == {1}


def test_convert_is_a_function_of_the_row(rows):
    for row in (rows[0], rows[-1]):
        first = phantom.convert(row)
        phantom.convert(rows[5])
        second = phantom.convert(pickle.loads(pickle.dumps(row)))
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == second[name].tobytes()
            else:
                assert value == second[name]


def test_seed_changes_the_picture(rows):
    other = dataclasses.replace(rows[0], info=(4, *rows[0].info[1:]))
    assert (phantom.convert(other)["image"] != phantom.convert(rows[0])["image"]).any()


def test_records_keep_the_contract(examples):
    for example in examples:
        xray = "image" in example
        picture = example["image"] if xray else example["volume"]
        assert picture.shape == ((256, 256) if xray else (32, 128, 128))
        assert picture.dtype == (np.uint8 if xray else np.int16)
        assert example["labels"].dtype == np.float32
        for name in ("organ_mask", "lesion_mask"):
            assert example[name].dtype == np.uint8
            assert example[name].shape == picture.shape
        assert example["boxes"].shape[1] == (5 if xray else 7)
        assert example["boxes"].dtype == np.float32
    spacing = np.stack([e["spacing_mm"] for e in of(examples, "ct")])
    assert (spacing > (8.99, 2.59, 2.59)).all()
    assert (spacing < (10.01, 3.01, 3.01)).all()


def test_prevalence_is_as_promised():
    draws = [findings.draw_labels(np.random.default_rng([0, i])) for i in range(4000)]
    assert np.mean([not d for d in draws]) == pytest.approx(0.30, abs=0.03)
    for label in LABELS:
        assert 0.15 < np.mean([label in d for d in draws]) < 0.25


@pytest.mark.parametrize("arguments", [{"language": "fr"}, {"xrays": 0, "cts": 0}, {"xrays": -1}])
def test_source_refuses(arguments):
    with pytest.raises(UserError, match="phantom"):
        phantom.source(**arguments)


# ---- labels, masks and boxes ----


def test_labels_masks_and_boxes_agree(examples):
    for example in examples:
        present = set(np.flatnonzero(example["labels"]))
        boxes = example["boxes"]
        assert {int(box[0]) for box in boxes} == present
        assert len(boxes) == len(present)
        mask = example["lesion_mask"]
        assert {int(v) - 1 for v in np.unique(mask) if v} == present
        rank = mask.ndim
        for box in boxes:
            low, high = box[1 : 1 + rank].astype(int), box[1 + rank :].astype(int)
            assert (low < high).all()
            inside = np.zeros(mask.shape, bool)
            inside[tuple(map(slice, low, high))] = True
            assert not (mask == box[0] + 1)[~inside].any()


def test_lesions_lie_where_they_belong(examples):
    for example in of(examples, "ct"):
        organs, mask = example["organ_mask"], example["lesion_mask"]
        lung = ndimage.binary_dilation((organs == 1) | (organs == 2))
        for label in (NODULE, CONSOLIDATION, EFFUSION, PNEUMOTHORAX):
            spot = mask == label + 1
            if spot.any():
                assert lung[spot].mean() > 0.97
        heart = mask == CARDIOMEGALY + 1
        if heart.any():
            assert (organs[heart] == 3).all()


@pytest.mark.parametrize("seed", range(6))
def test_nodule_mask_is_as_wide_as_drawn_ct(seed):
    lesions, example = draw("ct", ("nodule",), seed)
    pixel = example["spacing_mm"][1]
    mask = example["lesion_mask"] == NODULE + 1
    names, count = ndimage.label(mask)
    assert count >= 1
    widest = max(feret(names == i + 1) for i in range(count)) * pixel
    assert widest == pytest.approx(lesions[0].size_mm, abs=float(1.25 * pixel))


@pytest.mark.parametrize("seed", range(4))
def test_nodule_mask_is_as_wide_as_drawn_film(seed, monkeypatch):
    taken = []
    original = radiograph.draw_exposure

    def keep(*args):
        taken.append(original(*args))
        return taken[-1]

    monkeypatch.setattr(radiograph, "draw_exposure", keep)
    lesions, example = draw("xray", ("nodule",), seed)
    pixel = max(taken[0].field_mm) / 256
    names, count = ndimage.label(example["lesion_mask"] == NODULE + 1)
    widest = max(feret(names == i + 1) for i in range(count)) * pixel
    voxel = 2.2
    assert lesions[0].count == count or count == 1  # two may overlap on a film
    if lesions[0].count == 1:
        assert widest == pytest.approx(lesions[0].size_mm, abs=1.5 * voxel)


def feret(mask):
    """The largest in-plane extent of a mask in pixels, centre to centre plus one pixel."""
    planes = mask if mask.ndim == 3 else mask[None]
    spans = [distance.pdist(np.argwhere(p)).max(initial=0) + 1 for p in planes if p.any()]
    return max(spans)


def test_effusion_is_fluid_and_pneumothorax_is_air():
    for label, low, high in (("pleural effusion", -5, 25), ("pneumothorax", -1010, -960)):
        _, example = draw("ct", (label,), 1)
        mask = example["lesion_mask"] == LABELS.index(label) + 1
        core = ndimage.binary_erosion(mask, np.ones((1, 3, 3)))
        assert low < np.median(example["volume"][core]) < high


def test_effusion_lies_low_and_pneumothorax_high():
    for label, sign in (("pleural effusion", 1), ("pneumothorax", -1)):
        _, film = draw("xray", (label,), 2)
        _, scan = draw("ct", (label,), 2)
        for example, axis in ((film, 0), (scan, 1)):  # down on a film, backwards in a scanner
            lungs = (example["organ_mask"] == 1) | (example["organ_mask"] == 2)
            lesion = example["lesion_mask"] == LABELS.index(label) + 1
            shift = ndimage.center_of_mass(lesion)[axis] - ndimage.center_of_mass(lungs)[axis]
            assert sign * shift > 2


def test_heart_ratio_separates_cardiomegaly(examples):
    for example in examples:
        ratio = phantom.heart_ratio(example["organ_mask"])
        if example["labels"][CARDIOMEGALY]:
            assert ratio > 0.55
        else:
            assert 0.38 < ratio < 0.50


# ---- anatomy and physics ----


def test_scans_are_oriented_lps(examples):
    for example in of(examples, "ct"):
        organs, volume = example["organ_mask"], example["volume"]
        right, left, heart = (ndimage.center_of_mass(organs == v) for v in (1, 2, 3))
        lungs = (organs == 1) | (organs == 2)
        assert right[2] < heart[2] < left[2]
        assert heart[2] > np.mean([right[2], left[2]])  # the apex points to the patient's left
        assert heart[0] < ndimage.center_of_mass(lungs)[0]  # the heart sits low: z runs up
        bone = ndimage.binary_opening(volume > 130, np.ones((1, 2, 2)))
        bone[:, :, : int(heart[2]) - 20] = False
        bone[:, :, int(heart[2]) + 15 :] = False
        assert ndimage.center_of_mass(bone)[1] > heart[1]  # the spine lies behind: y runs back
        bottom = volume[1]
        rows = slice(int(heart[1]) - 8, int(heart[1]) + 12)
        width = lungs.any((0, 1)).nonzero()[0]
        middle = (width[0] + width[-1]) // 2
        liver = bottom[rows, middle - 30 : middle - 15]
        stomach = bottom[rows, middle + 15 : middle + 40]
        assert np.mean(liver) > np.mean(stomach)


def test_films_are_oriented(examples):
    for example in of(examples, "xray"):
        organs = example["organ_mask"]
        right, left, heart = (ndimage.center_of_mass(organs == v) for v in (1, 2, 3))
        assert right[1] < heart[1] < left[1]
        assert heart[1] > np.mean([right[1], left[1]])
        assert heart[0] > np.mean([right[0], left[0]])  # below the middle of the lungs


def test_tissues_have_their_hounsfield_units(examples):
    normal = [e for e in of(examples, "ct") if not e["labels"].any()]
    assert normal
    for example in normal:
        organs, volume = example["organ_mask"], example["volume"]
        core = [ndimage.binary_erosion(organs == v, np.ones((1, 3, 3))) for v in (1, 2, 3)]
        assert -900 < np.median(volume[core[0] | core[1]]) < -780
        assert 30 < np.median(volume[core[2]]) < 60
        assert np.median(volume[:, 0, 0]) < -950
        assert volume.max() > 300


def test_lungs_are_dark_on_films(examples):
    for example in of(examples, "xray"):
        if example["labels"].any():
            continue
        organs, image = example["organ_mask"], example["image"].astype(float)
        lungs = (organs == 1) | (organs == 2)
        assert np.median(image[organs == 3]) > np.median(image[lungs]) + 25
        row = int(np.mean(np.nonzero(lungs)[0]))
        columns = np.flatnonzero(lungs[row])
        middle = (columns[0] + columns[-1]) // 2
        assert image[row, middle - 8 : middle + 8].mean() > np.median(image[lungs]) + 40


def exposure(**changes):
    plain = radiograph.Exposure(
        turn=0.0,
        tilt=0.0,
        field_mm=(380.0, 380.0),
        offset_mm=(0.0, 0.0),
        scatter=0.0,
        photons=1e12,
        blur=0.01,
        detail=0.0,
        contrast=0.0,
        marker=False,
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture(scope="module")
def thorax():
    rng = np.random.default_rng(5)
    patient = patients.draw_patient(rng, upright=True, enlarged=False)
    return anatomy.build(patient, radiograph.xray_grid(patient), rng)


def test_projection_is_the_line_integral(thorax):
    water = np.zeros_like(thorax.hu)
    water[:, 10:20] = 1
    path = radiograph.project(water, thorax.grid, exposure())
    np.testing.assert_allclose(path, 10 * thorax.grid.step[1], rtol=1e-5)
    mu = radiograph.attenuation(np.array([-1000.0, -500.0, 0.0, 100.0], np.float32))
    np.testing.assert_allclose(mu / mu[2], [0, 0.5, 1, 1.1], rtol=1e-5, atol=1e-6)


def test_film_is_monotone_in_the_line_integral(thorax):
    depth = radiograph.project(radiograph.attenuation(thorax.hu), thorax.grid, exposure())
    placed = radiograph.place(depth, thorax.grid, exposure())
    image = radiograph.develop(placed, exposure(), np.random.default_rng(0))
    order = np.argsort(placed.ravel())
    assert (np.diff(image.ravel()[order].astype(int)) >= -1).all()
    assert image.max() > 200


def test_shadow_is_the_volume_seen_from_the_front(thorax):
    mask = radiograph.shadow(thorax, thorax.heart, exposure(), 8.0)
    whole = np.zeros(thorax.hu.shape, np.float32)
    whole[thorax.box] = thorax.heart
    direct = (whole.sum(1) * thorax.grid.step[1] >= 8.0)[::-1]  # head up
    scale = 380 / 256 / thorax.grid.step[0]
    centre = (np.array(direct.shape) - 1) / 2 - scale * 127.5
    again = ndimage.affine_transform(direct.astype(np.float32), [scale, scale], centre, (256, 256), order=1)
    assert ((again > 0.5) ^ mask).sum() < 0.02 * mask.sum()


def test_turned_patient_moves_front_against_back(thorax):
    deep = np.zeros_like(thorax.hu)
    deep[80:90, -4, 80:90] = 1
    straight = radiograph.project(deep, thorax.grid, exposure())
    turned = radiograph.project(deep, thorax.grid, exposure(turn=0.1, tilt=0.1))
    moved = np.array(ndimage.center_of_mass(turned)) - ndimage.center_of_mass(straight)
    expected = 0.1 * thorax.grid.y[-4] / thorax.grid.step[0]
    np.testing.assert_allclose(moved, [expected, expected], atol=0.5)


def test_scan_mask_keeps_thin_lesions():
    rng = np.random.default_rng(2)
    patient = patients.draw_patient(rng, upright=False, enlarged=False)
    scan = dataclasses.replace(scanner.draw_scan(patient, rng), turn=0.0)
    thorax = anatomy.build(patient, scanner.scan_grid(scan), rng)
    dot = np.zeros_like(thorax.lung)
    dot[11, 20:24, 20:24] = 1
    mask = scanner.scan_mask(thorax, dot, scan)
    (z,) = np.unique(np.nonzero(mask)[0])
    assert z == (11 + thorax.box[0].start) // 2
    assert mask.sum() == 16


# ---- reports ----

TERMS = {
    "en": {
        "nodule": r"nodul|rounded opacity",
        "consolidation": r"consolidat|airspace",
        "pleural effusion": r"effusion|pleural fluid",
        "cardiomegaly": r"cardiomegaly|enlarged (heart|cardiac)|heart is enlarged|cardiac enlarge",
        "pneumothorax": r"pneumothora",
    },
    "es": {
        "nodule": r"nódulo|opacidad redondeada",
        "consolidation": r"consolidación|opacidad alveolar",
        "pleural effusion": r"derrame|líquido pleural",
        "cardiomegaly": r"cardiomegalia|coraz.n (está aumentado|agrandado)|silueta cardíaca"
        r"|tamaño cardíaco",
        "pneumothorax": r"neumotórax",
    },
}
DENIED = {"en": r"\bno\b(?! lung markings)|without|free of", "es": r"\b(sin|no)\b|normal"}
SIDES = {"en": ("right", "left"), "es": ("derecho", "izquierdo")}


def read(report, language):
    """An independent reading: finding -> (asserted, denied, sides named with it)."""
    asserted, denied, sides = set(), set(), collections.defaultdict(set)
    for sentence in re.split(r"(?<=[.:]) ", report):
        for finding, term in TERMS[language].items():
            if not re.search(term, sentence, re.IGNORECASE):
                continue
            if re.search(DENIED[language], sentence, re.IGNORECASE):
                denied.add(finding)
                continue
            asserted.add(finding)
            for i, side in enumerate(SIDES[language]):
                if re.search(side, sentence, re.IGNORECASE):
                    sides[finding].add(i)
    return asserted, denied, sides


@pytest.fixture(scope="module")
def spanish(rows):
    return [phantom.convert(dataclasses.replace(row, info=(*row.info[:2], "es"))) for row in rows[::2]]


@pytest.mark.parametrize("language", ["en", "es"])
def test_reports_say_what_is_there(examples, spanish, language):
    denials = 0
    for example in examples if language == "en" else spanish:
        asserted, denied, sides = read(example["report"], language)
        present = {LABELS[i] for i in np.flatnonzero(example["labels"])}
        assert asserted == present, example["report"]
        assert not denied & present, example["report"]
        denials += len(denied)
        organs, mask = example["organ_mask"], example["lesion_mask"]
        middle = np.mean([ndimage.center_of_mass(organs == v)[-1] for v in (1, 2)])
        for finding in present - {"cardiomegaly"}:
            spot = ndimage.center_of_mass(mask == LABELS.index(finding) + 1)[-1]
            assert sides[finding] == {int(spot > middle)}, example["report"]
        assert 15 <= len(example["report"].split()) <= 60
    assert denials > 20


def test_reports_differ(examples):
    assert len({e["report"] for e in examples}) > 0.9 * len(examples)


def test_numbers_in_reports_come_from_the_truth(examples):
    checked = 0
    for example in examples:
        ratio = re.search(r"ratio (?:of )?(0\.\d+)", example["report"])
        if ratio:
            measured = phantom.heart_ratio(example["organ_mask"])
            assert float(ratio[1]) == pytest.approx(measured, abs=0.006)
            checked += 1
    assert checked
    lesions, _ = draw("ct", ("nodule",), 3)
    words = [write(lesions, seed) for seed in range(40)]
    millimetres = {float(m) for text in words for m in re.findall(r"([\d.]+) mm", text)}
    centimetres = {float(m) for text in words for m in re.findall(r"([\d.]+) cm", text)}
    assert millimetres == {float(f"{lesions[0].size_mm:.0f}")}
    assert centimetres <= {float(f"{lesions[0].size_mm / 10:.1f}")}


def write(lesions, seed, language="en"):
    return grammar.write_report(
        lesions, modality="ct", heart_ratio=0.45, language=language, rng=np.random.default_rng(seed)
    )


def test_size_words_follow_the_share():
    assert [size_word(s) for s in (0.05, 0.2, 0.5)] == ["small", "moderate", "large"]
    fluid = Lesion("pleural effusion", "left", np.zeros(0), share=0.4)
    reports = [write([fluid], seed) for seed in range(30)]
    assert all(re.search("large|extensive", report, re.IGNORECASE) for report in reports)
    assert not any(re.search("small|minor|moderate", r, re.IGNORECASE) for r in reports)


def test_spanish_keeps_picture_and_truth(rows, examples, spanish):
    for english, other in zip(examples[::2], spanish, strict=True):
        assert english["report"] != other["report"]
        np.testing.assert_array_equal(english["labels"], other["labels"])
        np.testing.assert_array_equal(english["lesion_mask"], other["lesion_mask"])
        picture = "image" if "image" in english else "volume"
        np.testing.assert_array_equal(english[picture], other[picture])
        assert read(english["report"], "en")[0] == read(other["report"], "es")[0]


@pytest.mark.parametrize("language", ["en", "es"])
def test_prompts_assert_and_deny(language):
    prompts = phantom.source(xrays=1, cts=0, language=language).prompts
    assert set(prompts) == set(LABELS)
    for label, texts in prompts.items():
        assert min(map(len, texts.values())) >= 4
        for text in texts["positive"]:
            assert read(text, language)[0] == {label}
        for text in texts["negative"]:
            asserted, denied, _ = read(text, language)
            if denied:  # "the heart is normal in size" names no finding
                assert denied == {label}
            assert not asserted


@pytest.mark.parametrize("language", ["en", "es"])
def test_prompts_are_sentences_that_reports_contain(language):
    """Each, its numbers aside, is drawn by the grammar sooner or later; sides and places take turns."""
    rng, written = np.random.default_rng(0), set()
    shape = lambda text: re.sub(r"[0-9.]*[0-9]", "0", text.lower())  # noqa: E731
    for _ in range(6000):
        label, modality = rng.choice(LABELS), rng.choice(["xray", "ct"])
        side, level = rng.choice(["right", "left"]), rng.choice(["upper", "middle", "lower"])
        share, absent = rng.uniform(0.01, 0.4), rng.random() < 0.3
        lesion = Lesion(label, side, np.zeros(0), 20.0, share, level, level)
        settings = dict(modality=modality, heart_ratio=0.6, language=language, rng=rng)
        report = grammar.write_report([] if absent else [lesion], **settings)
        written |= {shape(sentence) for sentence in re.split(r"(?<=[.:])\s", report)}
    for label, texts in grammar.prompts(language).items():
        assert {shape(text) for side in texts.values() for text in side} <= written
        named = " ".join(texts["positive"]).lower()
        if label != "cardiomegaly":
            counts = [len(re.findall(side, named)) for side in SIDES[language]]
            assert counts[0] == counts[1] > 2


@pytest.mark.parametrize("planes", [33, 34])
def test_a_thorax_may_have_any_number_of_planes(planes: int) -> None:
    """It is drawn 16 planes at a time: the last part may hold a single one."""
    patient = patients.draw_patient(np.random.default_rng(0), upright=False, enlarged=False)
    z, y, x = (np.arange(count, dtype=np.float32) * 8 - 8 * count // 2 for count in (40, 48, 56))
    whole = anatomy.trunk(patient, shapes.Grid(z, y, x))
    np.testing.assert_array_equal(anatomy.trunk(patient, shapes.Grid(z[:planes], y, x)), whole[:planes])


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (3.7, 2.9, 2.9), (9.0, 4.0, 4.0)])
def test_patients_at_other_spacings(spacing: tuple[float, float, float]) -> None:
    """Each has as many planes as its body is high, so that a part of one plane is met by chance."""
    drawn = phantom.source(xrays=0, cts=24 if spacing[0] > 3 else 3, seed=5, grid=RecordGrid(spacing_mm=spacing))
    for row in drawn.rows:
        example = drawn.convert(row)
        assert example["volume"].shape == example["lesion_mask"].shape == example["organ_mask"].shape
        assert (example["organ_mask"] > 0).any()
