"""What a trained model does with every patient, in one small file, from which all statistics are made without it.

Arrays are float32, row i being patient i of its modality; those of `both` are of the patients examined both ways, and
stand nowhere else. NaN: the patient does not count (several findings, no nodule).

    xray/labels xray/zeroshot xray/probe      (n, findings), and of CTs
    xray/prompts                              (n, findings) the prompts' scores of the REPORTS
    loss_train loss_heldout                   (batches,) L_vl of training and validation patients of the run's set
    xray/information                          (1,) of the targets of L_icl at the end of training, in nats
    ct/slices/hit random fixed                (n,) of nodules
    shared/xray/..., shared/ct/...            (n,) `shared_space` of an X-ray or CT, on CLS or z
    shared/own_hit                            (pairs,) whether the X-ray retrieves the CT of its patient
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from unimedi_jax import losses, writers
from unimedi_jax.evaluation import hit_rates
from unimedi_jax.inference import features, pretrained
from unimedi_jax.inference.features import EmbeddedSplit
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import records, transforms
from unimedi_jax.input.pipeline import MODALITIES
from unimedi_jax.metrics import findings, linear_probe, shared_space, slices, zeroshot

Scores = Mapping[str, np.ndarray]
NEAREST = 5  # k of the retrievals
BATCHES = 8  # of L_vl on each side
LOGGED = 10  # last lines whose information is averaged
NODULE = "nodule"
TEMPERATURE = 0.07  # where the objective has none of its own: CLIP's


@dataclasses.dataclass(frozen=True)
class Patients:
    """The patients on whom models are judged: a built set and one of its splits."""

    dataset: records.RecordSet
    split: str

    @functools.cached_property
    def twice(self) -> np.ndarray:
        """The rows (X-ray, CT) of every patient examined both ways."""
        places = [{name: row for row, name in enumerate(self._names(modality))} for modality in MODALITIES]
        names = sorted(places[0].keys() & places[1].keys())
        return np.array([[place[name] for place in places] for name in names], int).reshape(-1, len(MODALITIES))

    @functools.cached_property
    def once(self) -> dict[str, np.ndarray]:
        """The rows of all others, by modality."""
        paired = zip(MODALITIES, self.twice.T, strict=True)
        return {
            modality: np.setdiff1d(np.arange(self.dataset.size(modality, self.split)), rows)
            for modality, rows in paired
        }

    def _names(self, modality: str) -> list[str]:
        source = self.dataset.source(modality, self.split, ("patient",))
        return [records.text(record["patient"]) for record in source]


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network and its compiled inference."""

    trained: Pretrained
    embedder: features.Embedder

    @classmethod
    def load(cls, folder: pathlib.Path, rows: int) -> "Network":
        """The network of a finished run; `rows` a device, when embedding."""
        trained = pretrained.load(folder)
        return cls(trained, trained.embedder(rows=rows))

    @property
    def batch(self) -> dict[str, int]:
        """Samples of a step of its training, of the modalities that it was trained on."""
        return {modality: rows for modality, rows in self.trained.config["global_batch"].items() if rows}

    def embed(self, dataset: records.RecordSet, modality: str, split: str, **settings: Any) -> EmbeddedSplit:
        """The records of a split; `settings` as in `features.embed`."""
        self.trained.check(dataset, (modality,))
        sampler = self.trained.sampler(modality, keep=("report", "labels", "lesion_mask"))
        return features.embed(self.embedder, self.trained.variables, dataset, sampler, split, **settings)

    def prompted(self, part: EmbeddedSplit, contract: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Zero-shot scores of images, and of their reports as if these were images."""
        words, length = self.trained.tokenizer, self.trained.report_length
        prompts = features.embed_prompts(self.embedder, self.trained.variables, words, contract, length)
        vectors = {"zeroshot": part.z, "prompts": part.z_report}
        score = self.trained.config["evals"]["score"]
        return {name: zeroshot.scores(z, *prompts, score) for name, z in vectors.items()}

    def probe(self, own: records.RecordSet, modality: str, part: EmbeddedSplit) -> np.ndarray:
        """Probabilities by a linear probe on all training patients of the run's own set, regularised by validation."""
        train, val = (self.embed(own, modality, split, images_alone=True).labelled for split in ("train", "val"))
        return linear_probe.predict(train, part.cls, val)

    def losses(self, own: records.RecordSet, split: str) -> np.ndarray:
        """L_vl of batches like those of training, on all splits without augmentation, masking and dropout."""
        parts = {m: self.embed(own, m, split, limit=BATCHES * rows) for m, rows in self.batch.items()}
        temperature, rng = self.trained.config["objective"].get("temperature", TEMPERATURE), np.random.default_rng(0)
        results = []
        for _ in range(BATCHES):
            chosen = [take(part, rng.permutation(len(part.z))[: self.batch[m]]) for m, part in parts.items()]
            z, z_report = (np.concatenate([getattr(part, name) for part in chosen]) for name in ("z", "z_report"))
            results.append(float(_contrastive(z, z_report, temperature)))
        return np.array(results)


@jax.jit
def _contrastive(z: jax.Array, z_report: jax.Array, temperature: float) -> jax.Array:
    return losses.contrastive(z, z_report, temperature).mean()


def of_model(network: Network, own: records.RecordSet, patients: Patients) -> dict[str, np.ndarray]:
    """The scores of one network, which was trained on the set `own`, for the modalities that it was trained on."""
    k = network.trained.model.slices
    parts = {modality: network.embed(patients.dataset, modality, patients.split) for modality in network.batch}
    scores = {"loss_train": network.losses(own, "train"), "loss_heldout": network.losses(own, "val")}
    for modality, part in parts.items():
        alone = take(part, patients.once[modality])
        measured = {"labels": alone.labels, **network.prompted(alone, patients.dataset.contract)}
        measured["probe"] = network.probe(own, modality, alone)
        measured["information"] = np.array([information(network.trained.path, modality)])
        if alone.slice_scores is not None and k:
            measured |= _slices(k, own, alone, network.trained.sampler("ct"))
        scores |= {f"{modality}/{name}": values for name, values in measured.items()}
    return scores | (of_space(parts, patients) if len(parts) == len(MODALITIES) else {})


def of_pair(xray: Network, ct: Network, patients: Patients) -> dict[str, np.ndarray]:
    """The scores of two networks, one for each modality, taken for one space."""
    networks = zip(MODALITIES, (xray, ct), strict=True)
    return of_space({m: network.embed(patients.dataset, m, patients.split) for m, network in networks}, patients)


def of_space(parts: Mapping[str, EmbeddedSplit], patients: Patients) -> dict[str, np.ndarray]:
    """How the X-rays and CTs of one network, or each of its own, lie together."""
    xrays, cts = (parts[m].z[rows] for m, rows in zip(MODALITIES, patients.twice.T, strict=True))
    alone = {modality: take(parts[modality], rows) for modality, rows in patients.once.items()}
    finding = {modality: findings.single(part.labels) for modality, part in alone.items()}
    scores = {"own_hit": shared_space.own_hits(xrays, cts, NEAREST)}
    for modality, part in alone.items():
        own = (part.z, part.z, finding[modality], finding[modality], NEAREST)
        scores[f"{modality}/within"] = shared_space.precision(*own, same=True)
    query, candidate = alone["xray"], alone["ct"]
    across = (query.z, candidate.z, finding["xray"], finding["ct"], NEAREST)
    scores["xray/across"] = shared_space.precision(*across)
    count = len(query.labels)
    together = np.concatenate([finding["xray"], finding["ct"]])
    for space in ("cls", "z"):
        clouds = [getattr(part, space) for part in (query, candidate)]
        correct = shared_space.modality_correct(*clouds)
        silhouette = shared_space.separation(np.concatenate(clouds), together)
        for name, values in (("correct", correct), ("separation", silhouette)):
            scores |= {f"xray/{name}_{space}": values[:count], f"ct/{name}_{space}": values[count:]}
    return {f"shared/{name}": values for name, values in scores.items()}


def take(part: EmbeddedSplit, rows: np.ndarray) -> EmbeddedSplit:
    """Some rows of the embeddings."""
    names = ("cls", "z", "z_report", "labels", "slice_scores", "lesions")
    arrays = {name: getattr(part, name)[rows] for name in names if getattr(part, name) is not None}
    return dataclasses.replace(part, reports=tuple(part.reports[row] for row in rows), **arrays)


def information(folder: pathlib.Path, modality: str) -> float:
    """Nats that a target of L_icl carries about its sample, at the end of training; NaN where there is no L_icl."""
    key = f"{modality}/icl_information"
    values = [line[key] for line in writers.lines(folder) if line.get(key) is not None]
    return float(np.mean(values[-LOGGED:])) if values else float("nan")


def _slices(k: int, own: records.RecordSet, part: EmbeddedSplit, sampler: transforms.ToSample) -> dict[str, np.ndarray]:
    """Whether the chosen layers, random ones and the best fixed ones of validation CTs hold a nodule."""
    index = own.contract["labels"].index(NODULE)
    choosing, lesion = hit_rates.lesions(own, "val", sampler)[:, index], part.lesions[:, index]
    layers = part.slice_scores.shape[1]
    fixed = np.tile(slices.fixed_layers(choosing, layers=layers, k=k), (len(lesion), 1))
    hit, random = slices.cases(part.slice_scores, lesion, k)
    return {"slices/hit": hit, "slices/random": random, "slices/fixed": slices.cases(fixed, lesion, k)[0]}


def save(path: pathlib.Path, scores: Scores) -> None:
    """Writes the file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **{name: np.asarray(values, np.float32) for name, values in scores.items()})
    partial.replace(path)


def load(path: pathlib.Path) -> dict[str, Any]:
    """The arrays of a file of scores."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
