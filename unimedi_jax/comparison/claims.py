"""The paper's claims C1 to C4 on the phantom: trains the models, scores fresh patients, judges, one page and one CSV.

What is trained or scored already is not done again: an interrupted call resumes, and another one only judges anew. Of
a run that is scored config.json and its scores are enough, and of one modality alone its checkpoints until its pair is
scored.
"""

import contextlib
import dataclasses
import io
import json
import logging
import pathlib
from collections.abc import Sequence

import ml_collections

from data.buckets import mirror
from unimedi_jax.comparison import claims_page, claims_plan, claims_scores, claims_verdicts
from unimedi_jax.comparison.claims_numbers import Numbers, Place
from unimedi_jax.comparison.claims_plan import CT_ONLY, FLOPS, STEPS, TWO, XRAY_ONLY, Planned
from unimedi_jax.comparison.claims_scores import Network, Patients, Scores
from unimedi_jax.comparison.runs import Run
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.input import records
from unimedi_jax.train import loop, run_report, saved_config

LOG = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `configs/claims.py`: every run in a folder of its own in `workdir`, `claims.csv` and `index.html` there.

    Raises:
        UserError: a setting is wrong, no seed or another seed of test patients, or runs of other settings are there.
    """
    plans = claims_plan.planned(config, workdir)
    name = claims_plan.build_patients(config, workdir)
    claims_plan.build_sets(config)
    patients = Patients(records.open_set(config.data_dir, name), config.split)
    scores = _scores(plans, patients, config)
    if config.equal_flops:
        scores |= _scores(claims_plan.with_equal_flops(plans, workdir), patients, config)
    scores |= _scores(claims_plan.ceilings(config, workdir), patients, config)
    numbers = Numbers(scores, config.resamples)
    sets = {"plenty": str(config.plenty), "scarce": str(config.scarce)}
    families = {
        "decides": claims_verdicts.judged(numbers, **sets),
        **{budget: claims_verdicts.judged(numbers, **sets, budgets=(budget,) * 4) for budget in (STEPS, FLOPS)},
    }
    claims_page.publish(families, numbers, workdir, mirror.named(json.loads(config.to_json_best_effort())))


def _scores(
    plans: Sequence[Planned], patients: Patients, config: ml_collections.ConfigDict
) -> dict[Place, list[Scores]]:
    """Trains and scores what is not trained or scored yet; the seeds of each place in the order of `config.seeds`."""
    scores: dict[Place, list[Scores]] = {}
    for plan in plans:
        LOG.info("%s on %s, seed %d, equal %s", plan.model, plan.data, plan.run.seed, plan.budget)
        path = _file(plan.run.folder, patients)
        if path.exists() or run_report.finished(plan.run.folder):
            _compare_settings(plan.run)
        else:
            _train(plan.run)
        if not path.exists():
            network = Network.load(plan.run.folder, config.rows)
            own = records.open_set(config.data_dir, plan.run.settings.data)
            claims_scores.save(path, claims_scores.of_model(network, own, patients))
        scores.setdefault(Place(plan.model, plan.data, plan.budget), []).append(claims_scores.load(path))
    for xray, ct in _pairs(plans):
        path = _file(ct.run.folder.with_name(claims_plan.folder_name(TWO, ct.budget, ct.run.seed)), patients)
        if not path.exists():
            networks = [Network.load(each.run.folder, config.rows) for each in (xray, ct)]
            claims_scores.save(path, claims_scores.of_pair(*networks, patients))
        scores.setdefault(Place(TWO, ct.data, ct.budget), []).append(claims_scores.load(path))
    return scores


def _train(run: Run) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # its own tables: those of this job come at the end
        loop.run(run.settings, run.folder)


def _compare_settings(run: Run) -> None:
    """Raises UserError where a run has other settings than those asked for."""
    plain = json.loads(json.dumps(dataclasses.asdict(typed(PretrainConfig, run.settings))))
    saved_config.check(plain, run.folder)


def _file(folder: pathlib.Path, patients: Patients) -> pathlib.Path:
    """The scores of a run; other patients have another file."""
    return folder / f"scores-{patients.split}-{patients.dataset.contract['content_sha256'][:8]}.npz"


def _pairs(plans: Sequence[Planned]) -> list[tuple[Planned, Planned]]:
    """Two encoders: the one of X-rays, of the same set or of the one that shares its X-rays, and the one of CTs."""
    xrays = {(plan.data, plan.run.seed): plan for plan in plans if plan.model == XRAY_ONLY}
    shared = next((data for data, _ in xrays if data.isdecimal()), None)
    pairs = []
    for ct in (plan for plan in plans if plan.model == CT_ONLY):
        xray = xrays.get((ct.data, ct.run.seed)) or (ct.data.isdecimal() and xrays.get((shared, ct.run.seed)))
        if xray:
            pairs.append((xray, ct))
    return pairs
