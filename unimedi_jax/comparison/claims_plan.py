"""What the claims are tested with: sets of scarce CTs, fresh patients, models, steps of equal arithmetic."""

import copy
import json
import logging
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections

from data import job as building
from data import pages
from data.build import dataset
from data.errors import UserError, check_choice
from data.phantom import source as phantom
from data.phantom.options import Options
from unimedi_jax.comparison import runs

LOG = logging.getLogger(__name__)
CT_ONLY, XRAY_ONLY, ONE, TWO, UNIMEDI = "ct_only", "xray_only", "one_encoder", "two_encoders", "unimedi"
MODELS = (CT_ONLY, XRAY_ONLY, ONE, UNIMEDI)
# What a network of this size, and one of finer tokens, reaches at most: the findings themselves are its targets.
CEILINGS = {"supervised": "supervised", "supervised_fine": "supervised+fine_tokens"}
STEPS, FLOPS = "steps", "flops"  # what a model has as much of as UniMedI
TRAINING_SEED = 0  # of the phantom's training patients, those of the built-in set


class Planned(NamedTuple):
    """One training of one model."""

    model: str  # one of MODELS or CEILINGS
    data: str  # of the sets, as `config.sets` names it
    budget: str  # STEPS or FLOPS
    run: runs.Run


def presets(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The preset of each model: plain contrast on one modality or both, and the one that stands for UniMedI."""
    alone = {model: f"{ONE}+{model}" for model in (CT_ONLY, XRAY_ONLY)}
    return {**alone, ONE: ONE, UNIMEDI: config.unimedi, **CEILINGS}


def set_names(config: ml_collections.ConfigDict) -> list[str]:
    """The training sets, as `config.sets` lists them.

    Raises:
        UserError: one is neither a number of CTs nor the built-in phantom, or there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in config.sets.split(",") if name.strip()))
    if not names or any(name != building.PHANTOM_NAME and not (name.isdecimal() and int(name)) for name in names):
        raise UserError(f"config.sets is a list of numbers of training CTs and of phantom, not {config.sets!r}")
    return names


def built_name(name: str) -> str:
    """The built set of a training set."""
    return name if name == building.PHANTOM_NAME else f"claims-{name}"


def build_sets(config: ml_collections.ConfigDict) -> None:
    """Builds the training sets that are not there yet. They share their X-rays, and all but the CTs that train."""
    names = set_names(config)
    numbers = [int(name) for name in names if name.isdecimal()]
    tenth = max(config.xrays, config.plenty, *numbers) / phantom.SPLIT_OF_TEN.count("train")
    pool = len(phantom.SPLIT_OF_TEN) * math.ceil(tenth)
    for name in names:
        if name == building.PHANTOM_NAME:
            building.ensure_phantom(config.data_dir)
            continue
        options = Options(train_xrays=config.xrays, train_cts=int(name), nodules="by_height")
        source = phantom.source(xrays=pool, cts=pool, seed=TRAINING_SEED, options=options)
        dataset.build(source, pathlib.Path(config.data_dir).expanduser(), built_name(name))


def build_patients(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """Builds the set of fresh patients on whom the models are judged, and returns its name.

    The seed of test patients is written into the workdir: no second one is drawn there.

    Raises:
        UserError: no seed, one that is in use, or another one than was drawn.
    """
    check_choice("split", config.split, ("val", "test"))
    seed, name = config.val_seed, "claims-val"
    if config.split == "test":
        seed, name = _test_seed(config, workdir), "claims-test"
    options = Options(split=config.split, both=config.both, nodules="by_height")
    source = phantom.source(xrays=config.patients, cts=config.patients, seed=seed, options=options)
    dataset.build(source, pathlib.Path(config.data_dir).expanduser(), name)
    return name


def _test_seed(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    seed, path = config.test_seed, workdir / "test_seed.json"
    if seed is None:
        raise UserError(
            "config.split=test draws the test patients, once, when all settings are frozen: give "
            "--config.test_seed=N, a number never used before"
        )
    if seed < 0 or seed in (TRAINING_SEED, config.val_seed):
        raise UserError(f"config.test_seed={seed} is negative, or the seed of patients for training or validation")
    if path.exists():
        drawn = json.loads(path.read_text(encoding="utf-8"))["test_seed"]
        if drawn != seed:
            raise UserError(f"the test patients of {workdir} were drawn with config.test_seed={drawn}, and only once")
    pages.write(path, json.dumps({"test_seed": seed}) + "\n")
    return seed


def planned(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Planned]:
    """Every model with every set and seed, at UniMedI's number of steps.

    X-rays are the same in all sets but the embedded one, so that X-rays alone are trained once.

    Raises:
        UserError: no seeds, or a preset that does not exist or does not fit.
    """
    known = {runs.UNIMEDI, *config.changes}
    if config.unimedi not in known:
        raise UserError(f"config.unimedi must be one of {', '.join(sorted(known))}, not {config.unimedi!r}")
    if not config.seeds:
        raise UserError("config.seeds is empty: give at least one")
    names = set_names(config)
    first = next((name for name in names if name.isdecimal()), names[0])
    return [
        _planned(config, workdir, model, name, seed)
        for name in names
        for model in MODELS
        if model != XRAY_ONLY or name in (first, building.PHANTOM_NAME)
        for seed in dict.fromkeys(config.seeds)
    ]


def ceilings(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Planned]:
    """Supervised training on the set of plenty CTs, or else the first one, with the first seed."""
    names, seed = set_names(config), config.seeds[0]
    name = str(config.plenty) if str(config.plenty) in names else names[0]
    return [_planned(config, workdir, model, name, seed) for model in CEILINGS] if config.ceilings else []


def _planned(config: ml_collections.ConfigDict, workdir: pathlib.Path, model: str, name: str, seed: int) -> Planned:
    settings = runs.settings_of(config, presets(config)[model], seed, built_name(name))
    settings.model.norm_by_modality = False  # it would equalise the modalities' clouds by construction
    folder = workdir / built_name(name) / folder_name(model, STEPS, seed)
    return Planned(model, name, STEPS, runs.Run(model, seed, folder, settings))


def folder_name(model: str, budget: str, seed: int) -> str:
    """The last part of the path of a run."""
    return "-".join([model, *([FLOPS] if budget == FLOPS else []), str(seed)])


def with_equal_flops(plans: Sequence[Planned], workdir: pathlib.Path) -> list[Planned]:
    """The cheaper models once more, with as many steps as UniMedI's arithmetic buys; after the others.

    The arithmetic of a step is counted in the compiled program of each model's first run, once for a workdir.
    """
    gflop = _gflop(plans, workdir)
    more = []
    for plan in plans:
        share = gflop[UNIMEDI] / gflop[plan.model]
        if plan.model == UNIMEDI:
            continue
        if share <= 1:  # it has had more than its share already
            more.append(plan._replace(budget=FLOPS))
            continue
        settings = copy.deepcopy(plan.run.settings)
        settings.steps = round(settings.steps * share)  # what is a share of the steps follows
        folder = plan.run.folder.with_name(folder_name(plan.model, FLOPS, plan.run.seed))
        more.append(plan._replace(budget=FLOPS, run=plan.run._replace(folder=folder, settings=settings)))
    return more


def _gflop(plans: Sequence[Planned], workdir: pathlib.Path) -> dict[str, float]:
    path = workdir / "gflop.json"
    counts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for plan in plans:
        if plan.model not in counts:
            LOG.info("counting the arithmetic of a step of %s", plan.model)
            counts[plan.model] = runs.gflop(plan.run)
            pages.write(path, json.dumps(counts, indent=2) + "\n")
    return counts
