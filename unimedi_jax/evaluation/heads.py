"""What a downstream job has trained, as one file: arrays, names, thresholds, and what its input must be like."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from data import contract, record_grid
from data.errors import UserError
from data.manifest import reading
from data.manifest.reading import Reading
from unimedi_jax import fingerprint, sharding
from unimedi_jax.evaluation import head_facts
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference import sources
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input.records import RecordSet

FORMAT = 2
KEY = "unimedi_head"  # of the file's metadata
FOLDER, SUFFIX = "heads", ".safetensors"
HOW_COMPUTED = ("attention", "remat", "layers", "dtype")  # settings of the model that change no number but its rounding


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained classifier, decoder or detector of one modality; made by `make`."""

    facts: dict[str, Any]  # JSON
    arrays: dict[str, np.ndarray]

    @property
    def modality(self) -> str:
        """What it reads: "xray" or "ct"."""
        return self.facts["modality"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its facts and arrays."""
        return _hash(self.arrays, self.facts)

    def reading(self, trained: Pretrained) -> Reading:
        """How files are read: as the records that it was trained on."""
        own, of_set = self.facts["contract"], trained.contracts.get(self.facts["trained_on"]["set"])
        if "source" in own or of_set is None:
            return reading.of_contract(own)
        # Saved before heads stated it: the set is one of the encoder's, which states it, perhaps on another grid.
        return dataclasses.replace(reading.of_contract(of_set), grid=record_grid.of_contract(own))

    def network(self, trained: Pretrained) -> Network:
        """The network of a head that holds one, on the devices; a frozen encoder comes from `trained`."""
        parts = flax.traverse_util.unflatten_dict(self.arrays, sep="/")
        params, stats = parts["params"], parts.get("stats", {})
        if "encoder" not in params:
            stats = {**stats, "encoder": {"vision": trained.variables["params"]["vision"]}}
        return sharding.put_replicated(Network(params, stats), trained.mesh)


def make(
    kind: str, tune: str, trained: Pretrained, dataset: RecordSet, modality: str, trial: Trial, **facts: Any
) -> Head:
    """A head without arrays: what it was trained on, and the `facts` that only its kind has."""
    records = dataset.contract["records"]
    rules = {name: records[name] for name in (modality,) if name in records}
    of_set = {name: dataset.contract.get(name, {}) for name in ("format", "libraries")}
    shared = {
        "format": FORMAT,
        "kind": kind,
        "tune": tune,
        "modality": modality,
        "encoder": encoder_fingerprint(trained),
        "checkpoint": {"run": trained.path.name, "network": trained.network, "step": trained.step},
        "trained_on": {"set": dataset.name, "share": trial.share, "seed": trial.seed},
        "contract": of_set | {"records": rules, "source": reading.of_contract(dataset.contract).for_contract},
    }
    return Head(json.loads(json.dumps(shared | facts)), {})


def network_arrays(network: Network) -> dict[str, np.ndarray]:
    """The arrays of a network by their paths; an encoder that was not trained stays with its checkpoint."""
    stats = {name: part for name, part in network.stats.items() if name != "encoder"}
    flat = flax.traverse_util.flatten_dict({"params": network.params, "stats": stats}, sep="/")
    return {name: np.asarray(x) for name, x in jax.device_get(flat).items()}


def encoder_fingerprint(trained: Pretrained) -> str:
    """Of the arrays of the vision tower, and of what else decides on its output."""
    model = {name: value for name, value in trained.config["model"].items() if name not in HOW_COMPUTED}
    arrays = fingerprint.arrays(trained.variables["params"]["vision"])
    return fingerprint.facts({"arrays": arrays, "model": model, "crop": trained.config["input"]["crop"]})


def save(head: Head, workdir: pathlib.Path) -> pathlib.Path:
    """Writes `<workdir>/heads/<tune>/<modality>.safetensors`, whole or not at all."""
    path = workdir / FOLDER / head.facts["tune"] / f"{head.modality}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    arrays = {name: np.asarray(array, order="C") for name, array in head.arrays.items()}
    facts = head.facts | {"sha256": head.fingerprint}
    partial.write_bytes(safetensors.numpy.save(arrays, {KEY: json.dumps(facts)}))
    return partial.replace(path)


def load(text: str, trained: Pretrained) -> dict[str, Head]:
    """The heads of a job's workdir, of a folder in its `heads/` or of a file, by modality, fit for this encoder.

    Raises:
        UserError: nothing there, several to choose from, damage, or a head of another encoder or of other input.
    """
    heads = [_read(path) for path in _files(pathlib.Path(text).expanduser())]
    own = encoder_fingerprint(trained)
    for head in heads:
        then = head.facts["checkpoint"]
        if head.facts["encoder"] != own:
            raise UserError(
                f"config.head {text} was trained on another encoder ({then['run']}, {then['network']}, step "
                f"{then['step']}) than that of config.checkpoint ({trained.path}, {trained.network}, step "
                f"{trained.step}): name its own checkpoint, or train a head on this one"
            )
        here = sources.rules(record_grid.of_contract(head.facts["contract"]))
        here = {**here, "records": {name: here["records"][name] for name in head.facts["contract"]["records"]}}
        contract.check(head.facts["contract"], here, where=f"reading files for config.head {text}")
    kinds = {head.facts["kind"] for head in heads}
    if len(kinds) > 1:
        raise UserError(f"config.head {text} holds heads of {' and '.join(sorted(kinds))}: name one file")
    return {head.modality: head for head in heads}


def _files(place: pathlib.Path) -> list[pathlib.Path]:
    if place.is_file():
        return [place]
    folder = place / FOLDER if (place / FOLDER).is_dir() else place
    files = sorted(folder.glob(f"*{SUFFIX}"))
    deeper = sorted({path.parent for path in folder.glob(f"*/*{SUFFIX}")})
    if not files and len(deeper) > 1:
        raise UserError(f"config.head {place} holds several: name one of {', '.join(map(str, deeper))}")
    if not files and deeper:
        files = sorted(deeper[0].glob(f"*{SUFFIX}"))
    if not files:
        raise UserError(f"config.head {place} holds no heads: name the workdir of a probe, segment or detect job")
    return files


def _read(path: pathlib.Path) -> Head:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        version = facts["format"]
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or no head of this program: train it again") from error
    if version != FORMAT:
        raise UserError(f"{path} is a head of format {version}, this code reads {FORMAT}: train it again")
    if facts.pop("sha256", "") != _hash(arrays, facts) or head_facts.flaw(facts):
        raise UserError(f"{path} is not what was saved: bring back a copy, or train it again")
    return Head(facts, arrays)


def settings(head: Head, *names: str) -> dict[str, Any]:
    """Facts of a head as the settings of its network, lists as tuples."""
    return {name: tuple(x) if isinstance(x := head.facts[name], list) else x for name in names}


def _hash(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> str:
    """SHA-256 of facts, and of names, shapes and bytes of the arrays: safetensors does not notice a flipped bit."""
    digest = hashlib.sha256(fingerprint.facts(facts).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
