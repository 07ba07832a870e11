"""The claims: verdicts on scores whose truth is known, the plan of runs, and the whole job on a tiny phantom."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest

from configs import claims as configs
from data.errors import StoppedError, UserError
from tests.conftest import TINY
from unimedi_jax.comparison import claims, claims_page, claims_plan, claims_scores, claims_verdicts, runs
from unimedi_jax.comparison.claims_numbers import NAMES, Numbers, Place
from unimedi_jax.comparison.claims_plan import CT_ONLY, FLOPS, ONE, STEPS, TWO, UNIMEDI, XRAY_ONLY
from unimedi_jax.comparison.claims_verdicts import FAILS, GATE, HOLDS, MISSING
from unimedi_jax.evaluation import evaluator
from unimedi_jax.inference import features
from unimedi_jax.models import sizes
from unimedi_jax.train import loop, run_report

# ---- verdicts ----

PATIENTS, PAIRS, SEEDS = 200, 120, 3
# What each model is good at, where all claims hold: AUC as a shift of positives, shares of hits, silhouettes.
TRUTH = {
    (CT_ONLY, "112"): {"shift": 1.0},
    (CT_ONLY, "1120"): {"shift": 2.0},
    (ONE, "112"): {"shift": 1.6},
    (ONE, "1120"): {"shift": 2.0, "own_hit": 0.3, "correct_cls": 0.8, "separation_z": 0.2},
    (UNIMEDI, "1120"): {"shift": 2.6, "own_hit": 0.7, "correct_cls": 0.6, "separation_z": 0.3, "hit": 0.9},
    (TWO, "1120"): {"own_hit": 0.05, "correct_cls": 1.0, "separation_z": 0.1},
}


def scores_of(seed, *, shift=None, **shares):
    """The scores of one run; patients and their labels are those of every run."""
    rng, everyone = np.random.default_rng([seed, len(shares)]), np.random.default_rng(0)
    scores = {}
    for modality in ("xray", "ct"):
        labels = (everyone.random((PATIENTS, 5)) < 0.3).astype(float)
        hard = everyone.normal(size=(PATIENTS, 5))  # what every model makes of a patient
        if shift is not None:
            for task in ("zeroshot", "probe"):
                scores[f"{modality}/{task}"] = shift * labels + hard + 0.2 * rng.normal(size=hard.shape)
            scores[f"{modality}/prompts"] = 6 * labels + hard
            scores[f"{modality}/labels"] = labels
            scores[f"{modality}/information"] = np.array([2.5])
        for name in ("within", "across"):
            scores[f"shared/{modality}/{name}"] = 0.5 + 0.1 * rng.random(PATIENTS)
        for name in ("correct_cls", "separation_z"):
            share = shares.get(name, 0.5)
            flips = (rng.random(PATIENTS) < share).astype(float)
            scores[f"shared/{modality}/{name}"] = (
                flips if name == "correct_cls" else share + 0.05 * rng.normal(size=PATIENTS)
            )
    scores["shared/own_hit"] = (rng.random(PAIRS) < shares.get("own_hit", 0.2)).astype(float)
    nodule = everyone.random(PATIENTS) < 0.4
    for name, share in (("hit", shares.get("hit", 0.3)), ("random", 0.35), ("fixed", 0.4)):
        scores[f"ct/slices/{name}"] = np.where(nodule, rng.random(PATIENTS) < share, np.nan)
    return scores | {"loss_train": np.array([2.2, 2.3]), "loss_heldout": np.array([2.4, 2.5])}


def numbers_of(**changes):
    """All models' numbers; `changes` by name of a model in what it is good at, or None to leave it out."""
    scores = {}
    for (model, data), truth in TRUTH.items():
        change = changes.get(model, {})
        if change is None:
            continue
        each = [scores_of(seed, **{**truth, **change}) for seed in range(SEEDS)]
        scores |= {Place(model, data, budget): each for budget in (STEPS, FLOPS)}
    return Numbers(scores, resamples=200)


def verdicts(numbers):
    return [claim.verdict for claim in claims_verdicts.judged(numbers, plenty="1120", scarce="112")]


def test_all_claims_hold_where_they_are_true():
    assert verdicts(numbers_of()) == [HOLDS] * 4


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({CT_ONLY: {"shift": 1.6}}, 0),  # X-rays do not help
        ({UNIMEDI: {"shift": 2.0}}, 1),  # no better than plain contrast
        ({UNIMEDI: {"own_hit": 0.3}}, 2),
        ({UNIMEDI: {"correct_cls": 0.8}}, 2),
        ({UNIMEDI: {"separation_z": 0.15}}, 2),
        ({UNIMEDI: {"hit": 0.47}}, 3),  # above both, but not by enough
    ],
    ids=str,
)
def test_a_claim_that_is_false_fails_and_nothing_else_does(changes, claim):
    result = verdicts(numbers_of(**changes))
    assert result[claim] == FAILS
    others = [each for at, each in enumerate(result) if at != claim]
    assert others == [HOLDS] * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xray/information", [1.9]),
        ("loss_heldout", [2.7]),
        ("ct/prompts", "noise"),
        ("ct/probe", "noise"),
        ("xray/information", [np.nan]),
    ],
)
def test_a_gate_that_is_not_passed_comes_before_the_verdict(name, value):
    numbers = numbers_of()
    for scores in numbers.scores[Place(UNIMEDI, "1120", STEPS)]:
        flipped = np.random.default_rng(1).normal(size=(PATIENTS, 5))
        scores[name] = flipped if isinstance(value, str) else np.array(value)
    assert verdicts(numbers) == [HOLDS, GATE, GATE, GATE]


def test_what_was_not_trained_is_not_measured():
    assert verdicts(numbers_of(**{TWO: None})) == [HOLDS, HOLDS, MISSING, HOLDS]
    assert verdicts(numbers_of(**{UNIMEDI: None})) == [HOLDS, MISSING, MISSING, MISSING]


def test_models_of_different_patients_are_not_compared():
    numbers = numbers_of()
    numbers.scores[Place(ONE, "112", STEPS)][0]["ct/labels"] = np.zeros((7, 5))
    with pytest.raises(ValueError, match="different patients"):
        numbers.estimate("CT AUC", Place(ONE, "1120", STEPS))


def test_page_and_csv_hold_the_numbers_of_the_verdicts(tmp_path, capsys):
    numbers = numbers_of()
    families = {"decides": claims_verdicts.judged(numbers, plenty="1120", scarce="112")}
    families |= {
        budget: claims_verdicts.judged(numbers, plenty="1120", scarce="112", budgets=(budget,) * 4)
        for budget in (STEPS, FLOPS)
    }
    config = {"split": "test", "test_seed": 77, "patients": PATIENTS, "both": PAIRS}
    claims_page.publish(families, numbers, tmp_path, config)
    page, out = (tmp_path / "index.html").read_text(), capsys.readouterr().out
    with (tmp_path / "claims.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    said = {line["claim"]: line["verdict"] for line in lines if (line["kind"], line["family"]) == ("claim", "decides")}
    assert said == dict.fromkeys(("C1", "C2", "C3", "C4"), HOLDS)
    assert "drawn once with seed 77" in page
    for claim in families["decides"]:
        assert re.search(f"{claim.name} .*{claim.verdict}", out)
        for condition in claim.conditions:
            (line,) = [
                each
                for each in lines
                if (each["kind"], each["family"], each["name"]) == ("condition", "decides", condition.name)
            ]
            assert float(line["value"]) == condition.estimate.value
            assert f"{condition.estimate.value:.3f}" in page
    measured = {line["name"] for line in lines if line["kind"] == "number" and line["model"] == UNIMEDI}
    assert set(NAMES) - measured == {
        "modality classification accuracy on z",
        "separation of findings on CLS",
    }  # not made up above


# ---- the plan ----


def test_every_model_has_every_set_and_seed_and_x_rays_alone_are_trained_once(tmp_path):
    config = configs.get_config()
    config.seeds = (0, 1)
    plans = claims_plan.planned(config, tmp_path)
    assert len(plans) == 2 * (4 + 3 + 3 + 4)
    assert {plan.data for plan in plans if plan.model == XRAY_ONLY} == {"1120", "phantom"}
    by_model = {plan.model: plan.run.settings for plan in plans}
    assert (by_model[CT_ONLY].batch.xray, by_model[XRAY_ONLY].batch.ct) == (0, 0)
    assert {plan.run.settings.objective.weight_icl for plan in plans if plan.model != UNIMEDI} == {0.0}
    assert not any(plan.run.settings.model.norm_by_modality for plan in plans)
    assert all(plan.run.settings.objective.report_halves for plan in plans)
    assert {plan.run.settings.model.tokenizer for plan in plans} == {"nonlinear"}
    assert {plan.run.settings.steps for plan in plans} == {700}
    assert [plan.run.settings.data for plan in plans][:1] == ["claims-1120"]
    pairs = claims._pairs(plans)
    assert [(xray.data, ct.data) for xray, ct in pairs][::2] == [
        ("1120", "1120"),
        ("1120", "112"),
        ("1120", "56"),
        ("phantom", "phantom"),
    ]
    assert all(xray.run.seed == ct.run.seed for xray, ct in pairs)


def test_ceilings_have_the_findings_as_targets_on_the_set_of_plenty_cts(tmp_path):
    config = configs.get_config()
    coarse, fine = (plan.run.settings for plan in claims_plan.ceilings(config, tmp_path))
    assert {coarse.objective.name, fine.objective.name} == {"supervised"}
    assert (coarse.data, coarse.steps, coarse.seed) == ("claims-1120", config.base.steps, config.seeds[0])
    assert [a // b for a, b in zip(coarse.model.image_patch, fine.model.image_patch, strict=True)] == [2, 2]
    config.sets, config.ceilings = "phantom", True
    assert claims_plan.ceilings(config, tmp_path)[0].data == "phantom"
    config.ceilings = False
    assert claims_plan.ceilings(config, tmp_path) == []


def test_equal_arithmetic_buys_the_cheaper_models_more_steps(tmp_path, monkeypatch):
    config = configs.get_config()
    config.seeds, config.sets, config.base.steps = (0,), "1120,112", 100
    counts = {UNIMEDI: 60.0, ONE: 40.0, CT_ONLY: 20.0, XRAY_ONLY: 90.0}
    counted = []
    monkeypatch.setattr(runs, "gflop", lambda run: counted.append(run.name) or counts[run.name])
    plans = claims_plan.planned(config, tmp_path)
    more = claims_plan.with_equal_flops(plans, tmp_path)
    steps = {(plan.model, plan.data): plan.run.settings.steps for plan in more}
    assert steps[ONE, "112"] == 150
    assert steps[CT_ONLY, "1120"] == 300
    assert steps[XRAY_ONLY, "1120"] == 100  # dearer: the run at equal steps stands for it
    assert {plan.budget for plan in more} == {FLOPS}
    assert not any(plan.model == UNIMEDI for plan in more)
    assert {plan.run.settings.objective.temperature_warmup_steps for plan in more if plan.model == ONE} == {90}
    own = {plan.run.folder for plan in more} - {plan.run.folder for plan in plans}
    assert {folder.name for folder in own} == {"one_encoder-flops-0", "ct_only-flops-0"}
    claims_plan.with_equal_flops(plans, tmp_path)
    assert len(counted) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(split="test"), "draws the test patients, once"),
        (dict(split="test", test_seed=0), "is negative, or the seed of patients"),
        (dict(split="test", test_seed=1), "is negative, or the seed of patients"),
        (dict(split="test", test_seed=-4), "is negative, or the seed of patients"),
        (dict(split="train"), r"config\.split"),
        (dict(sets="1120,few"), r"config\.sets"),
        (dict(sets=""), r"config\.sets"),
        (dict(unimedi="unimedy"), r"config\.unimedi"),
        (dict(seeds=()), "give at least one"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line_before_anything_is_built(tmp_path, settings, words):
    config = configs.get_config()
    config.data_dir = str(tmp_path / "records")
    config.update(settings)
    with pytest.raises(UserError, match=words) as error:
        claims.run(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "records").exists()
    assert not (tmp_path / "run").exists()


def test_test_patients_are_drawn_once(tmp_path):
    config = configs.get_config()
    config.update(data_dir=str(tmp_path / "records"), split="test", patients=1, both=1, test_seed=5)
    assert claims_plan.build_patients(config, tmp_path) == "claims-test"
    assert json.loads((tmp_path / "test_seed.json").read_text()) == {"test_seed": 5}
    claims_plan.build_patients(config, tmp_path)
    config.test_seed = 6
    with pytest.raises(UserError, match="test_seed=5, and only once"):
        claims_plan.build_patients(config, tmp_path)


def test_the_large_size_is_five_times_the_demo():
    config = configs.get_config("large")
    assert (config.xrays, config.base.steps, config.plenty, config.sets) == (11200, 3500, 5600, "5600,560,280")
    with pytest.raises(ValueError, match="large"):
        configs.get_config("huge")


# ---- the job ----


CEILINGS = ("supervised-3", "supervised_fine-3")


@pytest.fixture
def tiny_job(tmp_path, monkeypatch):
    """Two steps of tiny networks on 16 X-rays and 8 CTs; the runs' own evaluations are left out."""
    monkeypatch.setitem(sizes.VISION, "tiny", TINY)
    monkeypatch.setitem(sizes.REPORT, "tiny", TINY)
    monkeypatch.setattr(evaluator.Evaluator, "__call__", lambda *_, **__: ({"loss": 0.0}, {}))
    monkeypatch.setattr(evaluator.Evaluator, "unread", lambda *_: "")
    monkeypatch.setattr(run_report, "_map", lambda *_: None)
    monkeypatch.setattr(runs, "gflop", lambda run: {CT_ONLY: 1.0}.get(run.name, 2.0))
    config = configs.get_config()
    config.update(data_dir=str(tmp_path / "records"), sets="8", plenty=8, scarce=8, xrays=16, seeds=(3,))
    config.update(patients=9, both=3, resamples=20, rows=8)
    base = config.base
    base.update(compilations="", steps=2, log_every=1)
    base.batch.update(xray=1, ct=1)
    base.input.update(report_length=16, report_buckets=())
    sizes_of = dict(vision_size="tiny", report_size="tiny", image_size=56, volume_size=(16, 32, 32), slice_size=56)
    sizes_of |= dict(image_patch=(8, 8), projection_hidden=16, embedding=16, prototypes_cls=8, prototypes_patch=8)
    base.model.update(**sizes_of, head_hidden=16, head_bottleneck=8)
    return config


def test_the_job_resumes_and_does_nothing_twice(tiny_job, tmp_path, monkeypatch, capsys):
    trained, whole = [], loop.run

    def train(settings, folder):
        if len(trained) == 2:
            raise StoppedError("stopped")
        trained.append(folder.name)
        whole(settings, folder)

    monkeypatch.setattr(loop, "run", train)
    workdir = tmp_path / "claims"
    with pytest.raises(StoppedError):
        claims.run(tiny_job, workdir)
    assert trained == ["ct_only-3", "xray_only-3"]
    first = {path: path.read_bytes() for path in workdir.rglob("scores-*.npz")}
    assert len(first) == 2
    trained.clear()
    monkeypatch.setattr(loop, "run", lambda settings, folder: trained.append(folder.name) or whole(settings, folder))
    claims.run(tiny_job, workdir)
    assert trained == ["one_encoder-3", "unimedi-3", "ct_only-flops-3", "supervised-3", "supervised_fine-3"]
    assert all(path.read_bytes() == content for path, content in first.items())
    check_scores(workdir / "claims-8")
    capsys.readouterr()
    page = (workdir / "index.html").read_text()

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(loop, "run", never)
    monkeypatch.setattr(features, "embed", never)
    # Settings and scores are all that is needed of a run.
    for path in (path for path in (workdir / "claims-8").rglob("*") if path.is_file()):
        if path.name != "config.json" and not path.name.startswith("scores-"):
            path.unlink()
    claims.run(tiny_job, workdir)
    assert (workdir / "index.html").read_text() == page
    assert "VALIDATION patients" in page
    assert re.search("C1 .* equal steps", capsys.readouterr().out)
    tiny_job.base.steps = 3
    with pytest.raises(UserError, match="other settings"):
        claims.run(tiny_job, workdir)


def check_scores(folder: pathlib.Path) -> None:
    """The files hold what they say, for every patient, in float32."""
    files = {path.parent.name: claims_scores.load(path) for path in folder.rglob("scores-*.npz")}
    assert set(files) == {"ct_only-3", "xray_only-3", "one_encoder-3", "unimedi-3", "two_encoders-3"} | {
        "ct_only-flops-3",
        "two_encoders-flops-3",
        *CEILINGS,
    }
    for name in CEILINGS:
        assert set(files.pop(name)) == {
            f"{modality}/{what}" for modality in ("xray", "ct") for what in ("labels", "probe")
        }
    for name, scores in files.items():
        assert {values.dtype for values in scores.values()} == {np.dtype(np.float32)}
        shared = scores.get("shared/own_hit")
        assert (shared is None) == (name.rpartition("-")[0] in ("ct_only", "xray_only", "ct_only-flops"))
        assert shared is None or shared.shape == (3,)
    whole = files["unimedi-3"]
    assert whole["xray/zeroshot"].shape == whole["ct/prompts"].shape == (9, 5)
    assert whole["shared/ct/correct_cls"].shape == whole["ct/slices/hit"].shape == (9,)
    assert np.isfinite(whole["xray/information"]).all()
    assert np.isnan(files["one_encoder-3"]["xray/information"]).all()
    assert "ct/slices/hit" not in files["one_encoder-3"]
    assert "xray/labels" not in files["ct_only-3"]
