"""What a network says of pictures: zero-shot scores, probabilities of a probe, masks, boxes; one function a kind."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import nibabel
import numpy as np

from data.errors import UserError
from data.readers import xrays
from unimedi_jax import objectives, patches
from unimedi_jax.config.jobs import PredictConfig
from unimedi_jax.evaluation import classifiers
from unimedi_jax.evaluation import heads as saved
from unimedi_jax.evaluation.box_finder import BoxFinder
from unimedi_jax.evaluation.crop_segmenter import CropSegmenter
from unimedi_jax.evaluation.heads import Head
from unimedi_jax.evaluation.segmenter import Segmenter, batched
from unimedi_jax.inference import embed, features, maps, preprocess, prompts, sources
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import dense
from unimedi_jax.metrics import detection, zeroshot
from unimedi_jax.prediction import own_grid
from unimedi_jax.prediction.partial_table import Row

COLOUR = (0, 200, 255)  # of drawn boxes, BGR


class Predictor(NamedTuple):
    """The network of one modality."""

    answers: Callable[[np.ndarray], Sequence[Any]]  # an answer for each record's pixels of a batch
    rows: Callable[[sources.Item, str, Any], list[Row]]  # of an item, the stem of its files, and its answer
    notes: tuple[str, ...] = ()  # for the terminal


class Place(NamedTuple):
    """Where files go."""

    folder: pathlib.Path
    out: pathlib.Path  # the CSV, which names them relative to itself

    def write(self, name: str, save: Callable[[pathlib.Path], Any]) -> str:
        """A file as it is named in the CSV."""
        self.folder.mkdir(parents=True, exist_ok=True)
        maps.write_whole(self.folder / name, save)
        return (self.folder / name).relative_to(self.out.parent).as_posix()


def zero_shot(trained: Pretrained, config: PredictConfig) -> dict[str, Predictor]:
    """Zero-shot scores of every finding with prompts (`metrics/zeroshot.py`), for the run's modalities.

    Raises:
        UserError: the network has learnt no reports, or no set that it was trained on has prompts.
    """
    trained.check_reports()
    name = trained.config["objective"]["name"]
    if not objectives.make(**trained.config["objective"]).has_joint_space:
        raise UserError(f"{trained.path} has learnt no reports ({name}): name a head that was trained, config.head=")
    pairs = prompt_pairs(trained, config)
    model = embed.Model(trained, trained.embedder(rows=config.rows, ct_slices=config.ct_slices))
    contract = {"labels": list(pairs), "prompts": pairs}
    embedded = features.embed_prompts(
        model.embedder, trained.variables, trained.tokenizer, contract, trained.report_length
    )

    def predictor(modality: str) -> Predictor:
        def answers(pixels: np.ndarray) -> np.ndarray:
            return zeroshot.scores(model.features(modality, pixels).z, *embedded, config.score)

        return Predictor(answers, lambda item, stem, scores: [_columns("score", pairs, scores)])

    return {modality: predictor(modality) for modality in ("xray", "ct") if trained.config["batch"][modality]}


def prompt_pairs(trained: Pretrained, config: PredictConfig) -> dict[str, Mapping[str, Sequence[str]]]:
    """The prompts by label: {"positive": [...], "negative": [...]}, of `config.prompts` or of all training sets.

    Raises:
        UserError: these have none, or `config.prompts` cannot be read.
    """
    if config.prompts:
        return prompts.read(config.prompts)
    pairs = {}
    for contract in trained.contracts.values():
        of_set = contract.get("prompts", {})
        pairs |= {label: of_set[label] for label in contract["labels"] if of_set.get(label) and label not in pairs}
    if not pairs:
        names = ", ".join(trained.contracts) or "its set"
        raise UserError(
            f"{trained.path}: {names} has no labels with prompts: give config.prompts (chexzero: the 14 "
            "findings of CheXpert; ct_clip: the 18 of CT-RATE; or a file), or name a trained head, config.head="
        )
    return pairs


def of_heads(heads: Mapping[str, Head], trained: Pretrained, rows: int, place: Place) -> dict[str, Predictor]:
    """The predictors of saved heads, by modality."""
    kinds = {"probe": _probe, "segment": _segment, "crops": _crops, "detect": _detect}
    return {modality: kinds[head.facts["kind"]](head, trained, rows, place) for modality, head in heads.items()}


def _probe(head: Head, trained: Pretrained, rows: int, _: Place) -> Predictor:
    names, one_of, slices = (head.facts[name] for name in ("names", "one_of", "ct_slices"))
    cuts = {name: head.facts["thresholds"][name] for name in names}
    if head.facts["tune"] == "linear":
        model = embed.Model(trained, trained.embedder(rows=rows, ct_slices=slices))
        classifier = classifiers.linear(head.arrays, one_of)

        def answers(pixels: np.ndarray) -> np.ndarray:
            return classifier.probabilities(model.features(head.modality, pixels).cls)
    else:
        network, count = head.network(trained), rows * trained.mesh.size
        cut = preprocess.film_tokens if head.modality == "xray" else preprocess.volume_tokens
        static = {"modality": head.modality, "ct_slices": slices}
        logits = jax.jit(functools.partial(classifiers.logits, trained, **static))

        def answers(pixels: np.ndarray) -> np.ndarray:
            tokens = cut(trained, pixels)
            return classifiers.probabilities(batched(logits, network, tokens, count, trained), one_of)

    def columns(item: sources.Item, stem: str, scores: np.ndarray) -> list[Row]:
        row = _columns("probability", names, scores)
        if one_of:
            return [row | {"decision": names[int(np.argmax(scores))]}]
        known = {name: score for name, score in zip(names, scores, strict=True) if not np.isnan(score)}
        return [row | {f"decision:{name}": int(score >= cuts[name]["value"]) for name, score in known.items()}]

    return Predictor(answers, columns, () if one_of else tuple(_spoken(head.modality, cuts)))


def _spoken(modality: str, cuts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each threshold and how it did on validation."""
    return [f"{modality}, {name}: present from {cut['value']:.3f} ({_how(cut)})" for name, cut in cuts.items()]


def _how(cut: Mapping[str, Any]) -> str:
    if not cut["positives"] or not cut["negatives"]:
        return "not chosen: validation lacks cases with or without it"
    cases = f"{cut['positives']} with, {cut['negatives']} without"
    return f"sensitivity {cut['sensitivity']:.2f}, specificity {cut['specificity']:.2f} in validation, {cases}"


def _segment(head: Head, trained: Pretrained, rows: int, place: Place) -> Predictor:
    sizes = saved.settings(head, "classes", "setr_channels", "unetr_features", "unetr_norm", "windows")
    segmenter, network = Segmenter(trained, head.modality, **sizes), head.network(trained)

    def answers(pixels: np.ndarray) -> np.ndarray:
        return segmenter.predict(network, pixels, rows * trained.mesh.size)

    return _masks(head, answers, trained, place)


def _crops(head: Head, trained: Pretrained, rows: int, place: Place) -> Predictor:
    sizes = saved.settings(head, "classes", "features", "norm", "size", "window_hu", "overlap")
    segmenter, network = CropSegmenter(trained, **sizes), head.network(trained)

    def answers(pixels: np.ndarray) -> np.ndarray:
        return np.stack([segmenter.predict(network, volume, rows * trained.mesh.size) for volume in pixels])

    return _masks(head, answers, trained, place)


def _masks(head: Head, answers: Callable[[np.ndarray], np.ndarray], trained: Pretrained, place: Place) -> Predictor:
    """Masks of the logits that `answers` gives on the records' grid."""
    names, modality, reading = head.facts["names"], head.modality, head.reading(trained)

    def xray(item: sources.Item, stem: str, logits: np.ndarray) -> list[Row]:
        mask = own_grid.xray_mask(logits, xrays.read_full_xray(item.path).shape)
        name = place.write(f"{stem}.mask.png", lambda path: maps.save_png(path, mask))
        return [{"mask": name} | _sizes("pixels", mask, names, 1)]

    def ct(item: sources.Item, stem: str, logits: np.ndarray) -> list[Row]:
        image = own_grid.ct_mask(logits, item.path, reading)
        name = place.write(f"{stem}.mask.nii.gz", lambda path: nibabel.save(image, path))
        millilitres = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
        return [{"mask": name} | _sizes("ml", np.asarray(image.dataobj), names, millilitres)]

    values = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    return Predictor(answers, xray if modality == "xray" else ct, (f"{modality}, values of the masks: {values}",))


def _sizes(unit: str, mask: np.ndarray, names: Sequence[str], each: float) -> Row:
    counts = np.bincount(mask.ravel(), minlength=len(names) + 1)[1:]
    return {f"{unit}:{name}": count * each for name, count in zip(names, counts.tolist(), strict=True)}


def _detect(head: Head, trained: Pretrained, rows: int, place: Place) -> Predictor:
    settings = saved.settings(head, "widths", "lowest", "overlap")
    finder = BoxFinder(trained, **settings, published=head.facts.get("published", False))
    network, threshold = head.network(trained), head.facts["threshold"]
    size, patch = trained.size("xray"), trained.patch("xray")
    side = head.reading(trained).grid.film_size

    def answers(pixels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        tokens = patches.patchify(np.stack([dense.whole(one, size) for one in pixels]), patch)
        places, scores = batched(finder.apply, network, tokens, rows * trained.mesh.size, trained)
        return [finder.boxes(*one, pixels.shape[1:]) for one in zip(places, scores, strict=True)]

    def boxes(item: sources.Item, stem: str, answer: tuple[np.ndarray, np.ndarray]) -> list[Row]:
        film = xrays.read_full_xray(item.path)
        corners, scores = own_grid.own_boxes(answer[0], film.shape, side), answer[1]
        inside = np.prod(corners[:, 2:] - corners[:, :2], axis=1) > 0  # the record's padding is no part of the picture
        corners, scores = corners[inside][: detection.MOST], scores[inside][: detection.MOST]
        picture = _drawn(film, corners[scores >= threshold], scores)
        name = place.write(f"{stem}.boxes.png", lambda path: maps.save_png(path, picture))
        rows = [
            {"box": number, "score": score, "decision": int(score >= threshold)}
            | dict(zip(("x_min", "y_min", "x_max", "y_max"), (x0, y0, x1, y1), strict=True))
            for number, ((y0, x0, y1, x1), score) in enumerate(zip(corners, scores, strict=True), 1)
        ]
        return [row | {"picture": name} for row in rows or [{"box": 0}]]

    return Predictor(answers, boxes, (f"{head.modality}: boxes from a score of {threshold:.3f} on are drawn",))


def _drawn(film: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The X-ray with boxes (best first) and their scores, BGR."""
    picture, thick = cv2.cvtColor(film, cv2.COLOR_GRAY2BGR), max(1, round(max(film.shape) / 300))
    for (y0, x0, y1, x1), score in zip(boxes.round().astype(int).tolist(), scores[: len(boxes)], strict=True):
        cv2.rectangle(picture, (x0, y0), (x1, y1), COLOUR, thick)
        cv2.putText(
            picture, f"{score:.2f}", (x0, max(y0 - 2 * thick, 10 * thick)), 0, 0.4 * thick, COLOUR, thick, cv2.LINE_AA
        )
    return picture


def _columns(kind: str, names: Sequence[str] | Mapping[str, Any], values: np.ndarray) -> Row:
    return {f"{kind}:{name}": value for name, value in zip(names, values, strict=True)}
