"""Opening a checkpoint for evaluation: the only way in which downstream jobs meet a trained model."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data import contract
from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.inference import features, pretrained
from unimedi_jax.input import pipeline, records, transforms
from unimedi_jax.models import towers
from unimedi_jax.train import state
from unimedi_jax.typing import PyTree

ENCODERS = ("trained", "untrained")


def encoders(untrained: bool) -> tuple[str, ...]:
    """What is measured: the trained encoder, and its untrained twin beside it if asked."""
    return ENCODERS if untrained else ENCODERS[:1]


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained model beside its untrained twin on all devices, with all it takes to feed them records."""

    loaded: pretrained.Trained
    trained: PyTree  # {"params": ..., "batch_stats": ...}
    mesh: Mesh

    @property
    def model(self) -> towers.UniMedI:
        """The network, in float32."""
        return self.loaded.model

    @functools.cached_property
    def untrained(self) -> PyTree:
        """The same network with the weights of the run's seed before any step."""
        seed = jax.random.key(self.loaded.config["seed"])
        variables = jax.jit(lambda key: state.init_variables(self.model, key)[0])(seed)
        return jax.device_put({"batch_stats": {}, **variables}, NamedSharding(self.mesh, P()))

    def variables(self, encoder: str) -> PyTree:
        """Weights by name: "trained" or "untrained"."""
        return {"trained": lambda: self.trained, "untrained": lambda: self.untrained}[encoder]()

    def sampler(self, modality: str, keep: tuple[str, ...] = ()) -> transforms.ToSample:
        """Records to what the network was trained on; never shifted, X-rays cropped at random where a rng is given."""
        model, given = self.model, self.loaded.config["input"]
        return transforms.ToSample(
            modality,
            self.loaded.reports,
            given["report_length"],
            given["crop"],
            self.size("xray")[0],
            model.image_patch,
            self.size("ct"),
            model.volume_patch,
            given["crop_shift"],
            tuple(given["ct_shift"]),
            keep=keep,
        )

    def size(self, modality: str) -> tuple[int, ...]:
        """Pixels (y, x) of an X-ray or voxels (z, y, x) of a CT as the network sees them."""
        given = self.loaded.config["model"]
        return (given["image_size"],) * 2 if modality == "xray" else tuple(given["volume_size"])

    def patch(self, modality: str) -> tuple[int, ...]:
        """Pixels or voxels of a token."""
        return self.model.image_patch if modality == "xray" else self.model.volume_patch

    def embedder(self, *, rows: int, ct_slices: bool) -> features.Embedder:
        """The network's inference functions."""
        return features.Embedder.of(self.model, self.mesh, rows=rows, ct_slices=ct_slices)

    def check(self, found: records.RecordSet, modalities: tuple[str, ...]) -> None:
        """Holds a set's records of these modalities against the contract of those the model was trained on.

        Raises:
            UserError: they were made by other rules.
        """
        for modality in modalities:
            known = [one for one in self.loaded.contracts.values() if modality in one["records"]]
            if known:
                contract.check(
                    _of(modality, known[0]), _of(modality, found.contract), where=f"{modality} of {found.folder}"
                )


def _of(modality: str, whole: dict[str, Any]) -> dict[str, Any]:
    """A contract without what it says of the other modality: a set may have one of them alone."""
    rules = {name: rule for name, rule in whole["records"].items() if name in (modality, "labels", "lesion_mask")}
    return {**whole, "records": rules}


def open_run(path: str | pathlib.Path, *, network: str = "student") -> Opened:
    """A run's newest checkpoint or an export, its weights on all devices; `network`: "student" or "teacher".

    Raises:
        UserError: neither a run nor an export, or a damaged one.
    """
    if not str(path):
        raise UserError("config.checkpoint is empty: name a run's folder, as in --config.checkpoint=runs/pretrain-demo")
    found = pretrained.read(path, network)
    mesh = sharding.make_mesh()
    return Opened(found, jax.device_put(found.variables, NamedSharding(mesh, P())), mesh)


def modalities(found: records.RecordSet, asked: str, *, splits: tuple[str, ...] = ("train", "test")) -> tuple[str, ...]:
    """Modalities of a set that have records in all `splits`; `asked` narrows them to one.

    Raises:
        UserError: none is left.
    """
    if asked and asked not in pipeline.MODALITIES:
        raise UserError(f"config.modality is xray, ct or empty for both, not {asked!r}")
    left = tuple(
        modality
        for modality in pipeline.MODALITIES
        if asked in ("", modality) and all(found.size(modality, split) for split in splits)
    )
    if not left:
        raise UserError(f"the set {found.name} in {found.folder} has no {asked or 'X-ray or CT'} records in {splits}")
    return left
