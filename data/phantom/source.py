"""The embedded set: a synthetic thorax with known findings, as a source of X-rays and CTs.

Every patient is drawn from (seed, modality, number) alone and has one examination, so no patient
has both an X-ray and a CT. Nothing is downloaded and nothing is licensed.
"""

from typing import Any

import numpy as np

from data.errors import UserError
from data.phantom import anatomy, findings, grammar, radiograph, scanner
from data.phantom import patient as patients
from data.phantom.findings import CARDIOMEGALY, LABELS, PNEUMOTHORAX, Lesion
from data.phantom.grammar import LANGUAGES
from data.source import MODALITIES, Example, Row, Source

VERSION = "1.0"
SPLIT_OF_TEN = ("train",) * 8 + ("val", "test")
# Painted in this order, so that a small finding is not lost under a large one.
PAINT_ORDER = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "nodule")


def source(*, xrays: int = 2800, cts: int = 1400, seed: int = 0, language: str = "en") -> Source:
    """The phantom's patients as a source; the same arguments always give the same examples.

    Errors: `UserError` for a language without a grammar, or for negative or no counts.
    """
    if language not in LANGUAGES:
        raise UserError(f"phantom: language {language!r} is unknown; use one of {list(LANGUAGES)}")
    if min(xrays, cts) < 0 or xrays + cts == 0:
        raise UserError(f"phantom: {xrays} X-rays and {cts} CTs make no set; ask for at least one")
    rows = []
    for modality, count in zip(MODALITIES, (xrays, cts), strict=True):
        for i in range(count):
            key = f"phantom-{modality}-{i:05d}"
            info = (seed, i, language)
            rows.append(Row(key, modality, SPLIT_OF_TEN[i % 10], len(rows) + 1, info))
    settings = {"seed": seed, "xrays": xrays, "cts": cts, "language": language}
    sizes = {"film_pixels": radiograph.SIZE, "volume_shape": list(scanner.SHAPE)}
    return Source(
        labels=LABELS,
        prompts=LANGUAGES[language]["prompts"],
        rows=rows,
        convert=convert,
        annotations=frozenset({"organ_mask", "lesion_mask", "boxes"}),
        contract={"generator": f"phantom {VERSION}", **settings, **sizes},
        salt=f"phantom {VERSION}, seed {seed}",  # the first patient of another seed is another one
    )


def convert(row: Row) -> Example:
    """Draws the patient of a row and examines it: an example of the record contract, with its annotations."""
    seed, number, language = row.info
    upright = row.modality == "xray"
    rng = np.random.default_rng([seed, MODALITIES.index(row.modality), number])
    labels = findings.draw_labels(rng)
    patient = patients.draw_patient(rng, upright=upright, enlarged=CARDIOMEGALY in labels)
    # Words come from their own stream: the language of a set does not change its pictures.
    words = np.random.default_rng([seed, MODALITIES.index(row.modality), number, 1])
    examine = xray if upright else ct
    lesions, example = examine(patient, labels, rng)
    ratio = heart_ratio(example["organ_mask"])
    report = grammar.write_report(lesions, modality=row.modality, heart_ratio=ratio, language=language, rng=words)
    known = np.array([name in labels for name in LABELS], np.float32)
    return {"id": row.key, "patient": row.key, "report": report, "labels": known, **example}


def xray(patient: patients.Patient, labels: tuple[str, ...], rng: np.random.Generator) -> tuple[list[Lesion], Example]:
    """Image, masks and boxes of an X-ray of the standing patient."""
    thorax = anatomy.build(patient, radiograph.xray_grid(patient), rng)
    lungs = {side: patients.hemithorax(thorax, side) for side in ("right", "left")}
    lesions = findings.draw_lesions(thorax, labels, rng)
    exposure = radiograph.draw_exposure(patient, rng)

    def shadow(occupancy: np.ndarray, threshold_mm: float) -> np.ndarray:
        return radiograph.shadow(thorax, occupancy, exposure, threshold_mm)

    organs = [shadow(lungs["right"], 15), shadow(lungs["left"], 15), shadow(thorax.heart, 8)]
    masks = []
    for lesion in lesions:
        mask = shadow(lesion.occupancy, radiograph.THRESHOLD_MM[lesion.label])
        if lesion.label == PNEUMOTHORAX:
            # An X-ray shows the rim beyond the edge of the lung, not the air in front of it.
            mask &= ~shadow(lungs[lesion.side] - lesion.occupancy, 20)
        masks.append((lesion, mask))
    image = radiograph.take_xray(thorax, exposure, rng)
    return lesions, {"image": image, **annotations(organs, masks)}


def ct(patient: patients.Patient, labels: tuple[str, ...], rng: np.random.Generator) -> tuple[list[Lesion], Example]:
    """Volume, spacing, masks and boxes of a scan of the patient, who lies on the back."""
    scan = scanner.draw_scan(patient, rng)
    thorax = anatomy.build(patient, scanner.scan_grid(scan), rng)
    lungs = {side: patients.hemithorax(thorax, side) for side in ("right", "left")}
    lesions = findings.draw_lesions(thorax, labels, rng)
    organs = [scanner.scan_mask(thorax, organ, scan) for organ in (lungs["right"], lungs["left"], thorax.heart)]
    masks = [(lesion, scanner.scan_mask(thorax, lesion.occupancy, scan)) for lesion in lesions]
    volume = scanner.take_scan(thorax, scan, rng)
    spacing = np.array(scan.spacing_mm, np.float32)
    return lesions, {"volume": volume, "spacing_mm": spacing, **annotations(organs, masks)}


def annotations(organs: list[np.ndarray], masks: list[tuple[Lesion, np.ndarray]]) -> dict[str, Any]:
    """Organ mask, lesion mask and boxes of a record, from one bool mask each."""
    organ_mask = np.zeros(organs[0].shape, np.uint8)
    for value, mask in enumerate(organs, start=1):
        organ_mask[mask] = value
    lesion_mask = np.zeros_like(organ_mask)
    boxes = []
    for lesion, mask in sorted(masks, key=lambda pair: PAINT_ORDER.index(pair[0].label)):
        index = LABELS.index(lesion.label)
        lesion_mask[mask] = index + 1
        spots = np.nonzero(mask)
        low, high = [s.min() for s in spots], [s.max() + 1 for s in spots]
        boxes.append([index, *low, *high])
    table = np.array(boxes, np.float32).reshape(-1, 1 + 2 * organ_mask.ndim)
    return {"organ_mask": organ_mask, "lesion_mask": lesion_mask, "boxes": table}


def heart_ratio(organ_mask: np.ndarray) -> float:
    """Cardiothoracic ratio as measured on the image: width of the heart over that of the lungs."""
    across = tuple(range(organ_mask.ndim - 1))
    heart = np.flatnonzero((organ_mask == 3).any(across))
    chest = np.flatnonzero((organ_mask > 0).any(across))
    return float((heart[-1] - heart[0] + 1) / (chest[-1] - chest[0] + 1))
