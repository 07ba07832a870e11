"""A trained network by its path, a run's workdir, an export or files of others, and how records become its input."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax import numpy as jnp
from jax.sharding import Mesh

from data import contract, json_files, members
from data.errors import UserError
from data.manifest import reading
from data.manifest.reading import Reading
from data.record_grid import RecordGrid
from data.reports import tokenizer
from unimedi_jax import checkpoint_reading, fingerprint, lora, objectives, sharding, trees
from unimedi_jax.config import loaded
from unimedi_jax.config.pretraining import InputConfig, ModelConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.convert import checksums, names, weights
from unimedi_jax.inference import address, features, released
from unimedi_jax.input import pipeline, records, transforms
from unimedi_jax.models import towers
from unimedi_jax.models.released import Released
from unimedi_jax.train import state as states
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
FACTS, WEIGHTS, REPORT = address.FACTS, address.WEIGHTS, address.REPORT
FORMAT = 1
TRAINED_ON = ("labels", "records")  # what is used of the contract of a set that a network was trained on
META = ("config", "contracts", "versions", "network", "step")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with everything that belongs to it; all that evaluations and exports know of a training run."""

    path: pathlib.Path  # of a released encoder its address as it was written
    model: towers.UniMedI | Released  # float32, whatever the run computed in
    variables: PyTree  # {"params", "batch_stats"}, on all devices of `mesh`
    mesh: Mesh
    tokenizer: Any  # None where it reads no reports
    config: dict[str, Any]  # the run's
    contracts: dict[str, Any]  # preprocessing, by name of the set
    versions: dict[str, str]
    network: str  # "student" or "teacher"
    step: int
    files: pathlib.Path | None = None  # of a released encoder: the folder of its weights
    adapters: PyTree = None  # of a run with LoRA, beside the variables, which they are merged into
    kernels: dict[str, str] | None = None  # fingerprints of the kernels that they change, before that

    @property
    def address(self) -> str:
        """The path as a person names it: what lies on the hub or in a bucket by its address there."""
        return str(self.path) if self.files is not None else address.shown(self.path)

    @functools.cached_property
    def untrained(self) -> PyTree:
        """Variables of the same network before any step, from the run's seed."""
        variables = jax.jit(lambda key: states.init_variables(self.model, key)[0])(jax.random.key(self.config["seed"]))
        return sharding.put_replicated({"batch_stats": {}, **variables}, self.mesh)

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of every array, by its path."""
        return fingerprint.arrays({"params": self.variables["params"], "stats": self.variables["batch_stats"]})

    def encoder(self, name: str) -> PyTree:
        """Variables by name: "trained" or "untrained"."""
        return {"trained": lambda: self.variables, "untrained": lambda: self.untrained}[name]()

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities that it takes: released encoders X-rays alone."""
        return ("xray",) if isinstance(self.model, Released) else pipeline.MODALITIES

    @property
    def embeds(self) -> tuple[str, ...]:
        """These and, where it has a tower for them, reports."""
        return self.reads if self.tokenizer is None else (*self.reads, "report")

    @property
    def members(self) -> dict[str, Any] | None:
        """Who it was trained on, by name of the set; None where that is not known."""
        return members.read(self.files or self.path)

    def check_reports(self) -> None:
        """Raises UserError where it has no report tower, or none that shares a space with its images."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.path} reads no reports: probe, segment, detect and embed take it; for reports name an encoder "
                "that was released with a report tower and projections, and its tokenizer (docs/encoders.md)"
            )

    @property
    def report_length(self) -> int:
        """Tokens of a report, at most."""
        return self.config["input"]["report_length"]

    @property
    def ct_slices(self) -> bool:
        """Whether the run trained, and evaluated, CTs with the slices that they choose; else by their volume alone."""
        return self.model.slices > 0 and self.config["evals"]["ct_slices"]

    def use_slices(self, setting: bool | None) -> bool:
        """What a job's `ct_slices` comes to: None is `self.ct_slices`. One line of the log for each answer."""
        if "ct" not in self.reads:
            return False
        used = self.ct_slices if setting is None else setting and self.model.slices > 0
        _log_ct_input(self.path, used, self.ct_slices)
        return used

    @functools.cached_property
    def reading(self) -> Reading:
        """How files are read: as those of the first set that it was trained on; by the defaults for other encoders."""
        return reading.of_contract(next(iter(self.contracts.values()))) if self.contracts else reading.PLAIN

    @property
    def grid(self) -> RecordGrid:
        """The grid on which files are read."""
        return self.reading.grid

    def size(self, modality: str) -> tuple[int, ...]:
        """Pixels (y, x) of an X-ray or voxels (z, y, x) of a CT at the network's input."""
        model = self.config["model"]
        return (model["image_size"],) * 2 if modality == "xray" else tuple(model["volume_size"])

    def patch(self, modality: str) -> tuple[int, ...]:
        """Pixels or voxels of a token."""
        return self.model.image_patch if modality == "xray" else self.model.volume_patch

    def sampler(self, modality: str, keep: tuple[str, ...] = ()) -> transforms.ToSample:
        """Records to the network's input; never shifted, X-rays cropped at random where there is a rng."""
        settings = typed(InputConfig, self.config["input"], "config.input")
        model = typed(ModelConfig, self.config["model"], "config.model")
        sampler = transforms.ToSample.of(modality, self.tokenizer, settings, model)
        if isinstance(self.model, Released):
            sampler = dataclasses.replace(sampler, crop_of=released.RECORD)
        plain = {"ct": transforms.UNCHANGED, "shuffle": False, "sentences": 1.0, "drop_technique": False}
        return dataclasses.replace(sampler, **plain, keep=keep)

    def embedder(self, *, rows: int, ct_slices: bool | None = None) -> features.Embedder:
        """The network's inference functions; `rows` a batch and device, `ct_slices` as `use_slices` takes it."""
        buckets = self.config["input"].get("report_buckets", ())
        chosen = self.use_slices(ct_slices)
        return features.Embedder.of(self.model, self.mesh, rows=rows, ct_slices=chosen, buckets=buckets)

    def check(self, dataset: records.RecordSet, modalities: tuple[str, ...]) -> None:
        """Compares the contract of a set's records of these modalities with that of the training records.

        Raises:
            UserError: they were made by other rules.
        """
        for modality in modalities:
            now = _part(dataset.contract, modality)
            known = [_part(one, modality) for one in self.contracts.values() if modality in one["records"]]
            if known and not any(contract.same(then, now) for then in known):
                contract.check(known[0], now, where=f"{modality} of {dataset.folder}")


@functools.cache
def _log_ct_input(path: pathlib.Path, used: bool, trained: bool) -> None:
    """Once for each network and answer."""
    what = "with the slices they choose" if used else "by their volume alone"
    why = "as the run was trained" if used == trained else "as ct_slices asks: the run was trained otherwise"
    LOG.info("%s: CTs are embedded %s, %s", path, what, why)


def _part(whole: dict[str, Any], modality: str) -> dict[str, Any]:
    """A contract without its rules for the other modality, which a set may lack."""
    rules = {name: rule for name, rule in whole["records"].items() if name in (modality, "labels", "lesion_mask")}
    return {**whole, "records": rules}


def load(path: str | pathlib.Path, network: str = "student") -> Pretrained:
    """The network of a run's workdir or of an export; `network` names the run's student or teacher (visual side).

    `path` may name one of the run's checkpoints, or an export on the Hugging Face hub, as `address.parse` has it, or an
    encoder that others have released, as `released.parse` has it: `timm:FILE`, `hf:FOLDER_OR_ID`.

    Raises:
        UserError: no run and no export, a damaged one, no such checkpoint, or an export of the other network.
    """
    if network not in ("student", "teacher"):
        raise UserError(f"config.network is student or teacher, not {network!r}")
    if released.is_address(str(path)):
        return _released(str(path), network)
    named = address.parse(path)
    place = named.place
    exported = (place / FACTS).is_file()
    if exported and named.which:
        raise UserError(f"{place} is an export, which holds one checkpoint: name it without :{named.which}")
    if not exported and not place.is_dir():
        raise UserError(f"no run and no export at {place}: name a run's workdir or an exported folder")
    choice = address.Choice(None, "as exported") if exported else address.choose(named)
    trained = _export(place, network) if exported else _run(place, network, choice.step)
    address.log(named, trained.step, trained.config["steps"], choice.reason)
    return trained


def build(config: dict[str, Any], vocab_size: int) -> towers.UniMedI:
    """The network of a run's configuration, for inference; of the objectives' heads it has UniMedI's prototypes alone.

    And these not with BatchNorm, which knows the batches of training only.
    """
    # Inference in float32 by XLA's own attention: the numbers are to be the same wherever they are computed.
    plain = {"attention": "xla", "remat": "none", "layers": "scanned", "dtype": "float32"}
    model = towers.build_model(typed(ModelConfig, {**config["model"], **plain}, "config.model"), vocab_size)
    objective = objectives.make(**config["objective"])
    has_prototypes = config["objective"]["name"] == "unimedi" and not objective.head_norm
    heads = objective.heads(model) if has_prototypes else {}
    return model.clone(head={name: head for name, head in heads.items() if name in ("cls", "patch")})


def variables_like(model: towers.UniMedI) -> PyTree:
    """Shapes of the model's {"params", "batch_stats"}: its heads are called once, not the objective that they serve."""

    def run(network: towers.UniMedI) -> None:
        network.run_towers(towers.example_batch(model))
        for head in network.head.values():
            head(jnp.zeros((1, network.vision.width)))

    shapes = jax.eval_shape(nn.init(run, model), jax.random.key(0))
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}


def _run(place: pathlib.Path, network: str, step: int | None) -> Pretrained:
    step, state, meta = checkpoint_reading.read(place, ("params", "teacher", "stats"), step)
    check_facts({**meta, "network": network, "step": step}, place)
    if network == "teacher" and not state["teacher"]:
        name = meta["config"]["objective"]["name"]
        raise UserError(f"{place} has no teacher: its objective, {name}, needs none with these settings")
    params = lora.merge(state["params"])
    params = params if network == "student" else {**params, **state["teacher"]}
    words = tokenizer.load(place / "tokenizer")
    model = _model(meta["config"], len(words), place)
    variables = {"params": params, "batch_stats": state["stats"]["batch_stats"]}
    own = variables_like(model)  # of another objective's heads nothing is needed
    try:
        variables = {kind: {name: arrays[name] for name in own[kind]} for kind, arrays in variables.items()}
    except KeyError as error:
        raise UserError(f"{place} has no {error.args[0]!r}, which its settings ask for: name another run") from error
    if differing := _differing(variables, own):
        raise UserError(f"{place} does not fit its own settings: {', '.join(differing[:4])}")
    trained = _placed(place, model, variables, words, {**meta, "network": network, "step": step})
    adapters = state["params"].get(lora.KEY) if network == "student" else None
    if adapters is None:
        return trained
    kernels = fingerprint.arrays(jax.device_put(lora.kernels_of(state["params"], adapters)))
    return dataclasses.replace(trained, adapters=jax.device_put(adapters), kernels=kernels)


def _export(place: pathlib.Path, network: str) -> Pretrained:
    checksums.check(place, [path for name in address.EXPORTED for path in place.glob(name) if path.is_file()])
    facts = json_files.read_object(place / FACTS, "export again")
    if not all(key in facts for key in ("format", *META)):
        raise UserError(f"{place / FACTS} is damaged: export again")
    version, facts = facts["format"], {key: facts[key] for key in META}
    if version != FORMAT:
        raise UserError(f"{place} is an export of format {str(version)[:20]}, this code reads {FORMAT}: export again")
    check_facts(facts, place)
    if facts["network"] != network:
        exported = facts["network"]
        raise UserError(f"{place} is an export of the {exported}: set config.network={exported}, or export again")
    words = tokenizer.load(place / REPORT)
    model = _model(facts["config"], len(words), place)
    template, arrays = variables_like(model), weights.read(place / WEIGHTS)
    try:
        variables, missing = names.from_torch(arrays, template)
        unknown = set(names.split_positions(arrays)) - names.known(template)
    except (ValueError, IndexError, TypeError) as error:  # NumPy's, of arrays with other axes
        raise UserError(f"{place / WEIGHTS} does not fit {FACTS}: arrays of other shapes") from error
    if missing or unknown:
        problem = f"{len(missing)} arrays are missing, {len(unknown)} too many"
        raise UserError(f"{place / WEIGHTS} does not fit {FACTS}: {problem}")
    return _placed(place, model, variables, words, facts)


def _released(text: str, network: str) -> Pretrained:
    if network != "student":
        raise UserError(f"{text} is one network: leave config.network as it is")
    opened = released.read(text)
    LOG.info("%s: %s", text, released.summary(opened))
    meta = {"config": opened.config, "contracts": {}, "versions": {}, "network": network, "step": 0}
    placed = _placed(pathlib.Path(text), opened.model, opened.variables, opened.tokenizer, meta)
    return dataclasses.replace(placed, files=opened.folder)


def _differing(variables: PyTree, template: PyTree) -> list[str]:
    """The paths of the template's arrays that are missing, or have another shape or dtype."""
    arrays, shapes = trees.shapes(variables), trees.shapes(template)
    return sorted(name for name, shape in shapes.items() if arrays.get(name) != shape)


def check_facts(facts: Mapping[str, Any], place: pathlib.Path) -> None:
    """Refuses what no run and no export says of itself (its META). Raises UserError."""
    if not all(key in facts for key in META):
        raise UserError(f"{place} is damaged or was edited: it lacks one of {', '.join(META)}")
    loaded.check(facts["config"], str(place))
    sets, versions = facts["contracts"], facts["versions"]
    flaws = [contract.flaw(one, TRAINED_ON) for one in sets.values()] if isinstance(sets, dict) else ["no contracts"]
    flaws += [] if isinstance(versions, dict) and type(facts["step"]) is int else ["no versions or step"]
    if flaw := next(filter(None, flaws), ""):
        raise UserError(f"{place} is damaged or was edited: {flaw}")


def _placed(
    place: pathlib.Path, model: towers.UniMedI | Released, variables: PyTree, words: Any, meta: Any
) -> Pretrained:
    mesh = sharding.make_mesh()
    variables = sharding.put_replicated(variables, mesh)
    return Pretrained(place, model, variables, mesh, words, **{key: meta[key] for key in META})


def _model(config: dict[str, Any], vocab_size: int, place: pathlib.Path) -> towers.UniMedI:
    try:
        return build(config, vocab_size)
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} was made with settings that this version does not know: {error}") from error
