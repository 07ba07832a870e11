"""A trained UniMedI by its path: a run's workdir or an export, ready for inference."""

import dataclasses
import json
import pathlib
from typing import Any

import jax

from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import checkpoint, objectives
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.convert import names, weights
from unimedi_jax.models import towers
from unimedi_jax.train import state as states
from unimedi_jax.typing import PyTree

FACTS, WEIGHTS, REPORT = "unimedi.json", "unimedi.safetensors", "report"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network with everything that belongs to it."""

    path: pathlib.Path
    model: towers.UniMedI  # float32, whatever the run computed in
    variables: PyTree  # {"params", "batch_stats"}
    reports: Any  # tokenizer
    config: dict[str, Any]  # the run's
    contracts: dict[str, Any]  # preprocessing, by name of the set
    versions: dict[str, str]
    network: str  # "student" or "teacher"
    step: int


def read(path: str | pathlib.Path, network: str = "student") -> Trained:
    """The network of a run's workdir or of an export; `network` names the run's student or teacher (visual side).

    Raises:
        UserError: no run and no export, a damaged one, or an export of the other network.
    """
    place = pathlib.Path(path).expanduser()
    if network not in ("student", "teacher"):
        raise UserError(f"config.network is student or teacher, not {network!r}")
    if (place / FACTS).is_file():
        return _export(place, network)
    if not place.is_dir():
        raise UserError(f"no run and no export at {place}: name a run's workdir or an exported folder")
    return _run(place, network)


def build(config: dict[str, Any], words: int) -> towers.UniMedI:
    """The network of a run's configuration, for inference; of the objectives' heads it has UniMedI's alone."""
    # Inference in float32 by XLA's own attention: the numbers are to be the same wherever they are computed.
    plain = {"attention": "xla", "remat": "none", "layers": "scanned", "dtype": "float32"}
    model = towers.build_model(typed(ModelConfig, {**config["model"], **plain}, "config.model"), words)
    objective = objectives.make(**config["objective"])
    return model.clone(head=objective.heads(model) if config["objective"]["name"] == "unimedi" else {})


def _run(place: pathlib.Path, network: str) -> Trained:
    step, state, meta = checkpoint.read(place, ("params", "teacher", "stats"))
    state = jax.device_put(state)  # jnp.asarray would compile a program for every shape
    if network == "teacher" and not state["teacher"]:
        raise UserError(f"{place} has no teacher: its objective is {meta['config']['objective']['name']}")
    params = state["params"] if network == "student" else {**state["params"], **state["teacher"]}
    reports = tokenizer.load(place / "tokenizer")
    model = _model(meta["config"], len(reports), place)
    variables = {"params": params, "batch_stats": state["stats"]["batch_stats"]}
    own = variables_like(model)
    variables = {kind: {name: arrays[name] for name in own[kind]} for kind, arrays in variables.items()}
    return Trained(place, model, variables, reports, meta["config"], meta["contracts"], meta["versions"], network, step)


def _export(place: pathlib.Path, network: str) -> Trained:
    try:
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
        known = [facts[key] for key in ("format", "config", "contracts", "versions", "network", "step")]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place / FACTS} is damaged: export again") from error
    form, config, contracts, versions, exported, step = known
    if form != FORMAT:
        raise UserError(f"{place} is an export of format {form}, this code reads {FORMAT}: export again")
    if exported != network:
        raise UserError(f"{place} is an export of the {exported}: set config.network={exported}, or export again")
    reports = tokenizer.load(place / REPORT)
    model = _model(config, len(reports), place)
    template = variables_like(model)
    state = weights.read(place / WEIGHTS)
    variables, lacking = names.from_torch(state, template)
    strange = set(names.split_positions(state)) - names.known(template)
    if lacking or strange:
        raise UserError(f"{place / WEIGHTS} does not fit {FACTS} ({len(lacking)} arrays lack, {len(strange)} too many)")
    variables = jax.device_put(variables)
    return Trained(place, model, variables, reports, config, contracts, versions, network, step)


def variables_like(model: towers.UniMedI) -> PyTree:
    """Shapes of the model's {"params", "batch_stats"}."""
    shapes = jax.eval_shape(lambda: states.init_variables(model, jax.random.key(0))[0])
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}


def _model(config: dict[str, Any], words: int, place: pathlib.Path) -> towers.UniMedI:
    try:
        return build(config, words)
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} was made with settings that this version does not know: {error}") from error
