"""What embeddings alone allow to measure, and under which names."""

import dataclasses
import pathlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data.errors import UserError
from tests.evaluation.conftest import small_job
from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation import evaluator, examples, probe
from unimedi_jax.inference import features
from unimedi_jax.input import places, records
from unimedi_jax.metrics import gap, slices
from unimedi_jax.train.job import build_evaluator


def split(cls: np.ndarray, z: np.ndarray) -> features.EmbeddedSplit:
    """Cases with no finding and the only one in turn."""
    labels = (np.arange(len(z)) % 2).astype(np.float32)[:, None]
    return features.EmbeddedSplit(cls, z, None, labels, ("",) * len(z), names=("nodule",))


@pytest.fixture
def parts() -> dict[str, features.EmbeddedSplit]:
    """X-rays and CTs that an encoder keeps apart, and a projection that normalises each modality by itself."""
    rng = np.random.default_rng(0)
    xray, ct = rng.normal(size=(60, 8)) + 5 * np.eye(8)[0], rng.normal(size=(40, 8)) + 5 * np.eye(8)[1]
    return {name: split(x, x - x.mean(0)) for name, x in (("xray", xray), ("ct", ct))}


def test_gaps_are_measured_on_cls_too(parts) -> None:
    scalars = evaluator.image_gaps(parts)
    assert set(scalars) == {
        f"{cloud}{end}/{name}"
        for end in ("", "_cls")
        for cloud, names in (("xray_ct", ("distance", "accuracy")), ("images", ("separation",)))
        for name in names
    }
    assert scalars["xray_ct_cls/accuracy"] > 0.95
    assert scalars["xray_ct/accuracy"] < 0.65, "equalised by construction"
    for end, space in (("", "z"), ("_cls", "cls")):
        xray, ct = (getattr(part, space) for part in parts.values())
        assert scalars[f"xray_ct{end}/distance"] == gap.modality_gap(xray, ct).distance
        separation = gap.class_separation(np.concatenate([xray, ct]), np.arange(100) % 2)
        assert scalars[f"images{end}/separation"] == pytest.approx(separation)


def test_one_modality_has_no_gap(parts) -> None:
    assert set(evaluator.image_gaps({"ct": parts["ct"]})) == {"images/separation", "images_cls/separation"}


def test_a_run_measures_how_its_slices_are_chosen(checkpoint_dir, records_dir, trained, monkeypatch) -> None:
    """By hand from the embeddings: fixed layers of the validation CTs, on the test CTs, and of their scores alone."""
    monkeypatch.setattr(evaluator, "RESAMPLES", 0)
    measure = build_evaluator(small_job(records_dir, checkpoint_dir))
    measure = dataclasses.replace(measure, samplers={"ct": measure.samplers["ct"]})
    scalars, embedded = measure(trained.variables, "test", final=True)
    part, (_, val) = embedded["ct"], measure(trained.variables, "val")
    k, layers = measure.slices, part.slice_scores.shape[1]
    assert scalars["ct/slices/any/layer_share"] == slices.layer_share(part.slice_scores)
    fixed = slices.fixed_layers(val["ct"].lesions.any(axis=1), layers=layers, k=k)
    by_hand = slices.hit_rate(np.tile(fixed, (len(part.z), 1)), part.lesions.any(axis=1), k)
    assert scalars["ct/slices/any/fixed_rate"] == by_hand.measured
    assert scalars["ct/slices/any/random_rate"] == by_hand.random
    # The probe of a run is that of the probe job, under all labels.
    config = ProbeConfig(modality="ct", shares=(1.0,), seeds=(0,), untrained=False, rows=4, resamples=0)
    (place,) = [place for place in measure.places if place.name == "ct"]
    job = {row.metric: row.value for row in probe.evaluate(trained, place.dataset, config)}
    for label in (*place.labels, "macro"):
        assert scalars[f"ct/probe/{label}"] == pytest.approx(job[f"auroc/{label}"], abs=1e-6, nan_ok=True)


def test_without_labels_nothing_is_measured_by_finding(checkpoint_dir, records_dir, trained, monkeypatch) -> None:
    monkeypatch.setattr(evaluator, "RESAMPLES", 0)
    measure = build_evaluator(small_job(records_dir, checkpoint_dir))

    def unlabelled(place: places.Place) -> places.Place:
        contract = place.dataset.contract | {"labels": [], "prompts": {}}
        return dataclasses.replace(place, dataset=dataclasses.replace(place.dataset, contract=contract))

    def embed(*args, **settings) -> features.EmbeddedSplit:
        part = measured(*args, **settings)
        return dataclasses.replace(part, labels=part.labels[:, :0])

    measured = features.embed
    monkeypatch.setattr(features, "embed", embed)
    measure = dataclasses.replace(measure, places=[unlabelled(place) for place in measure.places])
    scalars, _ = measure(trained.variables, "test", final=True)
    assert {name.split("/")[1] for name in scalars if not name.startswith("gap/")} == {"retrieval", "slices"}
    assert not any(name.endswith("separation") for name in scalars)
    assert "ct/slices/any/layer_share" in scalars


def test_the_pictures_are_of_the_best_median_and_worst_cases(checkpoint_dir, records_dir, trained) -> None:
    """By hand from scores and masks; the records are those of the split, with the scores that it was ranked by."""
    measure = build_evaluator(small_job(records_dir, checkpoint_dir))
    _, embedded = measure(trained.variables, "test")
    for place in measure.measured("test"):
        part = embedded[place.name]
        shown = measure.pictured(trained.variables, place, "test", part)
        source = place.dataset.source(place.modality, "test")
        for picked in shown.cases:
            case = shown.records[picked.row]
            mask = source[picked.row]["lesion_mask"]
            if place.modality == "xray":
                scores, touched = case["scores"], _touched(mask, measure.samplers["xray"])
            else:
                scores = case["slice_scores"]
                touched = ((mask > 0) & (mask < 255)).reshape(len(scores), -1).any(axis=1)
            by_hand = roc_auc_score(touched, scores)
            assert by_hand == pytest.approx(part.attention_auc[picked.row], abs=1e-6)
            assert picked.reason.endswith(f"attention AUC {by_hand:.2f}")
            assert case["report"].decode() == part.reports[picked.row]
        values = part.attention_auc[[picked.row for picked in shown.cases]]
        assert values[0] == np.nanmax(part.attention_auc)
        assert values[-1] == np.nanmin(part.attention_auc)
        assert {picked.reason.split()[0] for picked in shown.queries} <= {"best", "median", "worst"}
        assert set(shown.records) == {picked.row for picked in (*shown.cases, *shown.queries)}


def _touched(mask: np.ndarray, sampler) -> np.ndarray:
    """Patches of the centre of an X-ray with a lesion, one by one."""
    start, (rows, _) = (mask.shape[0] - sampler.crop) // 2, sampler.image_patch
    side = sampler.crop * rows // sampler.image_size  # pixels of the record in a patch
    inside = mask[start : start + sampler.crop, start : start + sampler.crop]
    cells = range(0, sampler.crop, side)
    blocks = [inside[y : y + side, x : x + side] for y in cells for x in cells]
    return np.array([((block > 0) & (block < 255)).any() for block in blocks])


@pytest.mark.parametrize(
    ("lesions", "scores", "reason"),
    [(True, True, "attention AUC"), (False, True, "zero-shot AUC"), (False, False, "nothing to rank by")],
)
def test_without_masks_the_findings_rank_and_without_either_nothing(lesions, scores, reason) -> None:
    z = np.random.default_rng(0).normal(size=(9, 3))
    part = dataclasses.replace(split(z, z), attention_auc=np.linspace(0, 1, 9) if lesions else None)
    picked = examples.pick(part, z[:, :1] if scores else None)
    assert len(picked) == 3
    assert all(reason in one.reason for one in picked)
    assert examples.pick_queries(part) == (), "no reports"
    if not scores:
        assert [one.row for one in picked] == [0, 1, 2]


# ---- several sets, with made-up embeddings ----


class Made(records.RecordSet):
    """A set of so many records of each modality and split, of which nothing is on the disk."""

    def size(self, modality: str, split: str) -> int:
        return self.contract["splits"].get(modality, {}).get(split, 0)


def made(name: str, labels: tuple[str, ...], **splits: dict[str, int]) -> Made:
    prompts = {label: {"positive": [label], "negative": [f"no {label}"]} for label in labels}
    return Made(name, pathlib.Path(name), {"labels": list(labels), "prompts": prompts, "splits": splits})


@pytest.fixture
def measure(monkeypatch) -> evaluator.Evaluator:
    """Films of two sets and scans of two more, one of which can be damaged by its name."""
    count = {"train": 30, "val": 20, "test": 24}
    sets = [
        made("films", ("nodule", "mass"), xray=count),
        made("scans", ("mass", "nodule", "edema"), ct=count),
        made("more", ("mass",), xray={"test": 12}),
        made("damaged", ("mass",), ct={"test": 12}),
        made("unlabelled", (), xray={"train": 9}),
    ]

    def embed(_, __, dataset, sampler, split, *, images_alone=False, **___) -> features.EmbeddedSplit:
        if dataset.name == "damaged":
            raise UserError("record 3 of damaged cannot be read")
        labels, n = dataset.contract["labels"], dataset.size(sampler, split)
        rng = np.random.default_rng([len(labels), n])
        z = rng.normal(size=(n, 6)).astype(np.float32)
        findings = (np.arange(n)[:, None] % (len(labels) + 1) == np.arange(len(labels))).astype(np.float32)
        reports = tuple(f"report {row}" for row in range(n))
        about = {"names": tuple(labels), "z_report": None if images_alone else z[::-1]}
        return features.EmbeddedSplit(z, z, labels=findings, reports=reports, **about)

    def embed_prompts(*arguments) -> tuple[list[np.ndarray], list[np.ndarray]]:
        count, rng = len(arguments[3]["labels"]), np.random.default_rng(1)
        return tuple([rng.normal(size=(1, 6)) for _ in range(count)] for _ in range(2))

    monkeypatch.setattr(evaluator, "RESAMPLES", 0)
    monkeypatch.setattr(features, "embed", embed)
    monkeypatch.setattr(features, "embed_prompts", embed_prompts)
    return evaluator.Evaluator(
        places=places.of_sets(sets),
        samplers={"xray": "xray", "ct": "ct"},
        embedder=None,
        tokenizer=None,
        length=8,
        limit=0,
        slices=0,
        prompts={one.name: one.contract["prompts"] for one in sets},
        score="sum",
    )


def test_every_set_is_measured_under_its_name(measure, caplog) -> None:
    assert [place.name for place in measure.places] == ["xray", "xray:more", "ct", "ct:damaged"]
    assert [place.title for place in measure.places][:2] == ["X-ray, films", "X-ray, more"]
    scalars, embedded = measure({}, "test", final=True)
    assert list(embedded) == ["xray", "xray:more", "ct"], "what cannot be read costs its own numbers"
    (line,) = [message for message in caplog.messages if "damaged" in message]
    assert line == "CTs of damaged left out: record 3 of damaged cannot be read"
    for place, labels in (("xray", ("nodule", "mass")), ("xray:more", ("mass",)), ("ct", ("mass", "nodule", "edema"))):
        assert f"{place}/retrieval/i2t_r5" in scalars
        assert all(f"{place}/zeroshot/{label}" in scalars for label in (*labels, "macro", "macro10"))
    assert "xray/probe/macro" in scalars
    assert "xray:more/probe/macro" not in scalars, "a set for testing alone has nothing to fit a probe on"
    assert not any("damaged" in name for name in scalars)
    gaps = {name.split("/")[1] for name in scalars if name.startswith("gap/") and name.endswith("/accuracy")}
    reports = {f"{place}_{place}_report" for place in embedded}
    assert gaps == reports | {f"{xray}_ct{end}" for xray in ("xray", "xray:more") for end in ("", "_cls")}
    # By hand: "mass" is all that every set knows, in another column of each; none of a set's own labels is no finding.
    rows = []
    for name, part in embedded.items():
        index = {"xray": 1, "xray:more": 0, "ct": 0}[name]
        rows += [0 if row[index] == 1 else 1 if not row.any() else -1 for row in part.labels]
    z = np.concatenate([part.z for part in embedded.values()])
    assert scalars["gap/images/separation"] == pytest.approx(gap.class_separation(z, np.array(rows)))


def test_a_run_whose_every_set_is_damaged_ends_with_the_reason(measure) -> None:
    alone = dataclasses.replace(measure, places=[place for place in measure.places if place.name == "ct:damaged"])
    with pytest.raises(UserError, match="record 3 of damaged"):
        alone({}, "test")


def test_the_first_set_that_is_measured_has_the_plain_name(measure) -> None:
    assert measure.can_measure("val")
    assert {place.name for place in measure.measured("val")} == {"xray", "ct"}
    only = made("trained", ("mass",), xray={"train": 9})
    later = made("tested", ("mass",), xray={"test": 9})
    assert [place.name for place in places.of_sets([only, later])] == ["xray"]


def test_weights_mean_nothing_to_an_evaluation() -> None:
    assert places.set_names(" mine, phantom:0.5,") == ["mine", "phantom"]
