"""Opening a checkpoint for evaluation: the only way in which downstream jobs meet a trained model."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unimedi_jax import checkpoint, sharding
from unimedi_jax.errors import UserError
from unimedi_jax.evals import features
from unimedi_jax.input import pipeline, records, tokenizer, transforms
from unimedi_jax.models import unimedi
from unimedi_jax.train import state
from unimedi_jax.typing import PyTree

ENCODERS = ("trained", "untrained")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A trained model beside its untrained twin, with all it takes to feed them records."""

    folder: pathlib.Path
    step: int
    model: unimedi.UniMedI
    trained: PyTree  # {"params": ..., "batch_stats": ...}
    reports: Any  # tokenizer
    config: dict[str, Any]  # of the run
    contracts: dict[str, Any]  # of the sets it was trained on
    mesh: Mesh

    @functools.cached_property
    def untrained(self) -> PyTree:
        """The same network with the weights of the run's seed before any step."""
        variables = jax.jit(lambda key: unimedi.init(self.model, key))(jax.random.key(self.config["seed"]))
        return jax.device_put({"batch_stats": {}, **variables}, NamedSharding(self.mesh, P()))

    def variables(self, encoder: str) -> PyTree:
        """Weights by name: "trained" or "untrained"."""
        return {"trained": lambda: self.trained, "untrained": lambda: self.untrained}[encoder]()

    def sampler(self, modality: str, keep: tuple[str, ...] = ()) -> transforms.ToSample:
        """Records to what the network was trained on; never shifted, X-rays cropped at random where a rng is given."""
        model, given = self.config["model"], self.config["input"]
        return transforms.ToSample(
            modality, self.reports, given["report_length"], given["crop"], model["image_size"],
            tuple(model["image_patch"]), tuple(model["volume_size"]), tuple(model["volume_patch"]),
            tuple(given["ct_shift"]), keep=keep,
        )  # fmt: skip

    def embedder(self, *, rows: int, ct_slices: bool) -> features.Embedder:
        """The network's inference functions."""
        return features.Embedder.of(self.model, self.mesh, rows=rows, ct_slices=ct_slices)

    def open_set(self, data_dir: str | pathlib.Path, name: str, modalities: tuple[str, ...]) -> records.RecordSet:
        """A built set whose pixels were prepared as those the model was trained on.

        Raises:
            UserError: there is none, or its records were made by other rules.
        """
        found = records.open_set(data_dir, name)
        for modality in modalities:
            rules = found.contract["records"][modality]
            known = [contract["records"][modality] for contract in self.contracts.values()]
            if known and rules not in known:
                differing = [key for key in sorted({*rules, *known[0]}) if rules.get(key) != known[0].get(key)]
                raise UserError(
                    f"the {modality} records of {found.folder} were not prepared as those {self.folder} was trained on "
                    f"({', '.join(differing)} differ): build the set anew with the code that built the training set"
                )
        return found


def open_run(folder: str | pathlib.Path, *, network: str = "student") -> Opened:
    """The newest checkpoint of a run's folder, its weights on all devices; `network`: "student" or "teacher".

    Raises:
        UserError: no folder, no checkpoint, or one that does not fit its own configuration.
    """
    if not str(folder):
        raise UserError("config.checkpoint is empty: name a run's folder, as in --config.checkpoint=runs/pretrain-demo")
    if network not in ("student", "teacher"):
        raise UserError(f"config.network is student or teacher, not {network!r}")
    folder = pathlib.Path(folder).expanduser()
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no checkpoint: train first, or name another run")
    meta = checkpoint.meta(folder)
    config = meta["config"]
    reports = tokenizer.load(folder / "tokenizer")
    attention = {"xla": None, "cudnn": "cudnn"}[config["model"]["attention"]]
    settings = {**config["model"], "attention": attention, "vocab_size": len(reports)}
    # JSON knows no tuples.
    model = unimedi.make(**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
    mesh = sharding.make_mesh()
    everywhere = NamedSharding(mesh, P())
    abstract = jax.eval_shape(lambda key: unimedi.init(model, key), jax.random.key(0))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), abstract)
    params = abstract["params"]
    wanted = {"params": params, "stats": {"batch_stats": abstract.get("batch_stats", {})}}
    if network == "teacher":
        wanted["teacher"] = {part: params[part] for part in state.TEACHER_PARTS}
    found, step = checkpoint.parts(folder, wanted)
    weights = {**found["params"], **found.get("teacher", {})}
    trained = {"params": weights, "batch_stats": found["stats"]["batch_stats"]}
    return Opened(folder, step, model, trained, reports, config, meta["contracts"], mesh)


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
