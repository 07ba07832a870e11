"""The built-in set: a synthetic thorax with known findings, as a source of X-rays and CTs.

Every patient is drawn from (seed, modality, number) alone and has one examination; those of `Options.both` alone
have an X-ray and a CT. Nothing is downloaded and nothing is licensed.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from nibabel import affines

from data import record_grid
from data.errors import UserError
from data.phantom import anatomy, findings, grammar, radiograph, scanner
from data.phantom import patient as patients
from data.phantom.findings import CARDIOMEGALY, LABELS, PNEUMOTHORAX, Lesion
from data.phantom.grammar import LANGUAGES
from data.phantom.options import DEFAULT, Options
from data.phantom.places import Rule
from data.readers import body_box
from data.record_grid import RecordGrid
from data.source import MODALITIES, Example, Row, Source
from data.views import FRONTAL, LATERAL

VERSION = "1.0"
BOTH = "both"  # marks the rows of a patient with an X-ray and a CT
VIEW = "lateral"  # marks the rows of a patient's second X-ray
SPLIT_OF_TEN = ("train",) * 8 + ("val", "test")
# Painted in this order, so that a small finding is not lost under a large one.
PAINT_ORDER = ("cardiomegaly", "pleural effusion", "pneumothorax", "consolidation", "nodule")


def source(
    *,
    xrays: int = 2800,
    cts: int = 1400,
    seed: int = 0,
    language: str = "en",
    options: Options = DEFAULT,
    grid: RecordGrid = record_grid.DEFAULT,
) -> Source:
    """The phantom's patients as a source; the same arguments always give the same examples.

    A patient does not change with the number of others, so sets of one seed share their first ones. On another `grid`
    they have the same bodies and findings, but these lie elsewhere: places are drawn from the voxels of the lung.

    Errors: `UserError` for a language without a grammar, for negative or no counts, for a spacing of 0, and for a crop
    to a fixed shape.
    """
    if language not in LANGUAGES:
        raise UserError(f"phantom: language {language!r} is unknown; use one of {list(LANGUAGES)}")
    if min(xrays, cts) < 0 or xrays + cts + options.both == 0:
        raise UserError(f"phantom: {xrays} X-rays and {cts} CTs make no set; ask for at least one")
    if grid.spacing_mm and 0 in grid.spacing_mm:
        raise UserError("phantom: no scanner has given it a spacing: ask for lengths in config.spacing_mm, as in 2,2,2")
    if grid.crop_to and not grid.spacing_mm:
        raise UserError(f"phantom: config.crop_to={grid.crop_to} needs config.spacing_mm, as in 2,2,2")
    rows = []
    limits = (options.train_xrays, options.train_cts)
    for modality, count, limit in zip(MODALITIES, (xrays, cts), limits, strict=True):
        splits = [options.split or SPLIT_OF_TEN[i % 10] for i in range(count)]
        training = [i for i in range(count) if splits[i] == "train"]
        left_out = set(training[limit:] if limit is not None else ())
        for i in range(count):
            if i not in left_out:
                key = f"phantom-{modality}-{i:05d}"
                rows.append(Row(key, modality, splits[i], len(rows) + 1, (seed, i, language)))
                if options.views == 2 and modality == "xray":
                    rows.append(Row(f"{key}-{VIEW}", modality, splits[i], len(rows) + 1, (seed, i, language, VIEW)))
    for i in range(options.both):
        for modality in MODALITIES:
            key, split = f"{pair_name(i)}-{modality}", options.split or "test"
            rows.append(Row(key, modality, split, len(rows) + 1, (seed, i, language, BOTH)))
    settings = {"seed": seed, "xrays": xrays, "cts": cts, "language": language, **options.changed}
    sizes = {"film_pixels": grid.film_size, "volume_shape": list(grid.volume_shape)}
    columns = ("study", "view") if options.views == 2 else ()
    settings |= {"columns": list(columns)} if columns else {}
    choices = {"by_height": True} if options.nodules == "by_height" else {}
    choices |= {"grid": grid} if grid != record_grid.DEFAULT else {}
    choices |= {"columns": True} if columns else {}
    return Source(
        labels=LABELS,
        prompts=grammar.prompts(language),
        rows=rows,
        convert=functools.partial(convert, **choices) if choices else convert,
        annotations=frozenset({"organ_mask", "lesion_mask", "boxes"}),
        contract={"generator": f"phantom {VERSION}", **settings, **sizes},
        columns=columns,
        salt=f"phantom {VERSION}, seed {seed}",  # the first patient of another seed is another one
        grid=grid,
    )


def pair_name(number: int) -> str:
    """The patient of an X-ray and a CT; their ids add the modality."""
    return f"phantom-{BOTH}-{number:05d}"


def convert(
    row: Row, *, by_height: bool = False, grid: RecordGrid = record_grid.DEFAULT, columns: bool = False
) -> Example:
    """Draws the patient of a row and examines it: an example of the record contract, with its annotations.

    With `columns` it tells its study and view.
    """
    seed, number, language, *marks = row.info
    paired, lateral = BOTH in marks, VIEW in marks
    stream = [seed, len(MODALITIES) if paired else MODALITIES.index(row.modality), number]
    # Words come from their own stream: the language of a set does not change its pictures.
    words = np.random.default_rng([*stream, 1, MODALITIES.index(row.modality)] if paired else [*stream, 1])
    if paired:
        labels, lesions, example = examine_pair(row.modality, stream, by_height, grid)
    else:
        rng = np.random.default_rng(stream)
        labels = findings.draw_labels(rng)
        upright = row.modality == "xray"
        patient = patients.draw_patient(rng, upright=upright, enlarged=CARDIOMEGALY in labels)
        if upright:
            thorax, lesions = standing(patient, labels, rng, Rule(by_height), grid)
            example = take_xray(thorax, lesions, rng, grid)
        else:
            lesions, example = ct(patient, labels, rng, Rule(by_height), grid)
    ratio = heart_ratio(example["organ_mask"])
    if lateral:  # the report is the frontal film's, where the heart is measured
        example = take_lateral(thorax, lesions, np.random.default_rng([*stream, 3]), grid)
    report = grammar.write_report(lesions, modality=row.modality, heart_ratio=ratio, language=language, rng=words)
    known = np.array([name in labels for name in LABELS], np.float32)
    owner = pair_name(number) if paired else row.key.removesuffix(f"-{VIEW}")
    view = (LATERAL if lateral else FRONTAL) if row.modality == "xray" else ""
    study = {"study": owner if row.modality == "xray" else row.key, "view": view} if columns else {}
    return {"id": row.key, "patient": owner, "report": report, "labels": known, **study, **example}


def examine_pair(
    modality: str, stream: list[int], by_height: bool, grid: RecordGrid = record_grid.DEFAULT
) -> tuple[tuple[str, ...], list[Lesion], Example]:
    """One of the two examinations of a patient: findings, lesions and pictures.

    Both thoraces are drawn for either of them: every place of a lesion must suit the patient who stands and the one
    who lies. Each part has draws of its own, so that those of the pictures do not move those of the patient.
    """

    def draws(part: int) -> np.random.Generator:
        return np.random.default_rng([*stream, 2, part])

    labels = findings.draw_labels(draws(0))
    standing, lying = (
        patients.draw_patient(draws(1), upright=upright, enlarged=CARDIOMEGALY in labels) for upright in (True, False)
    )
    scan = scanner.draw_scan(lying, draws(2), grid)
    upright = anatomy.build(standing, radiograph.xray_grid(standing, grid.film_size), draws(3))
    supine = anatomy.build(lying, scanner.scan_grid(scan), draws(3))
    own, other = (upright, supine) if modality == "xray" else (supine, upright)
    lesions = findings.draw_lesions(own, labels, draws(4), Rule(by_height, other))
    if modality == "xray":
        return labels, lesions, take_xray(own, lesions, draws(5), grid)
    return labels, lesions, take_ct(own, lesions, scan, draws(6), grid)


def standing(
    patient: patients.Patient,
    labels: tuple[str, ...],
    rng: np.random.Generator,
    rule: Rule = findings.ANYWHERE,
    grid: RecordGrid = record_grid.DEFAULT,
) -> tuple[patients.Thorax, list[Lesion]]:
    """The thorax of the standing patient, and its lesions."""
    thorax = anatomy.build(patient, radiograph.xray_grid(patient, grid.film_size), rng)
    return thorax, findings.draw_lesions(thorax, labels, rng, rule)


def take_lateral(
    thorax: patients.Thorax, lesions: list[Lesion], rng: np.random.Generator, grid: RecordGrid = record_grid.DEFAULT
) -> Example:
    """The X-ray from the side, of the same thorax with the same lesions; what it does not show has no mask."""
    turned = [dataclasses.replace(one, occupancy=one.occupancy.swapaxes(1, 2)) for one in lesions]
    return take_xray(thorax, turned, rng, grid, thorax.sideways())


def take_xray(
    thorax: patients.Thorax,
    lesions: list[Lesion],
    rng: np.random.Generator,
    grid: RecordGrid = record_grid.DEFAULT,
    sideways: patients.Thorax | None = None,
) -> Example:
    """The X-ray of a thorax with its lesions; of `sideways`, the thorax turned, where that is asked for."""
    lungs = {side: patients.hemithorax(thorax, side) for side in ("right", "left")}
    if sideways is not None:
        lungs, thorax = {side: lung.swapaxes(1, 2) for side, lung in lungs.items()}, sideways
    exposure = radiograph.draw_exposure(thorax.patient, rng, grid.film_size)

    def shadow(occupancy: np.ndarray, threshold_mm: float) -> np.ndarray:
        return radiograph.shadow(thorax, occupancy, exposure, threshold_mm)

    organs = [shadow(lungs["right"], 15), shadow(lungs["left"], 15), shadow(thorax.heart, 8)]
    masks = []
    for lesion in lesions:
        mask = shadow(lesion.occupancy, radiograph.THRESHOLD_MM[lesion.label])
        if lesion.label == PNEUMOTHORAX:
            # An X-ray shows the rim beyond the edge of the lung, not the air in front of it.
            mask &= ~shadow(lungs[lesion.side] - lesion.occupancy, 20)
        if mask.any():
            masks.append((lesion, mask))
    return {"image": radiograph.take_xray(thorax, exposure, rng), **annotations(organs, masks)}


def ct(
    patient: patients.Patient,
    labels: tuple[str, ...],
    rng: np.random.Generator,
    rule: Rule = findings.ANYWHERE,
    grid: RecordGrid = record_grid.DEFAULT,
) -> tuple[list[Lesion], Example]:
    """Volume, spacing, masks and boxes of a scan of the patient, who lies on the back."""
    scan = scanner.draw_scan(patient, rng, grid)
    thorax = anatomy.build(patient, scanner.scan_grid(scan), rng)
    lesions = findings.draw_lesions(thorax, labels, rng, rule)
    return lesions, take_ct(thorax, lesions, scan, rng, grid)


def take_ct(
    thorax: patients.Thorax,
    lesions: list[Lesion],
    scan: scanner.Scan,
    rng: np.random.Generator,
    grid: RecordGrid = record_grid.DEFAULT,
) -> Example:
    """The scan of a thorax with its lesions, cropped as `grid` says, with its geometry where the grid is another."""
    lungs = (patients.hemithorax(thorax, side) for side in ("right", "left"))
    organs = [scanner.scan_mask(thorax, organ, scan) for organ in (*lungs, thorax.heart)]
    masks = [(lesion, scanner.scan_mask(thorax, lesion.occupancy, scan)) for lesion in lesions]
    volume = scanner.take_scan(thorax, scan, rng)
    pixels = {"volume": volume, "spacing_mm": np.array(scan.spacing_mm, np.float32)}
    if grid.plain_volumes:
        return {**pixels, **annotations(organs, masks)}
    box = body_box.of(volume, scan.spacing_mm, grid.crop_to)
    pixels["volume"] = np.ascontiguousarray(volume[box])
    affine = scan.affine @ affines.from_matvec(np.eye(3), [part.start for part in box])
    own = {"original_shape": np.array(volume.shape, np.int32), "original_affine": scan.affine}
    parts = [mask[box] for mask in organs], [(lesion, mask[box]) for lesion, mask in masks]
    return {**pixels, "affine": affine, **own, **annotations(*parts)}


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
        if not spots[0].size:  # cropped away
            continue
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
