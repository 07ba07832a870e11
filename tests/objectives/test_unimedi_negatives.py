"""Which reports and images are negatives of each other, by loops in numpy."""

import numpy as np
import pytest
from jax import numpy as jnp

from data.errors import UserError
from tests.objectives import trial
from tests.tolerances import float32
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.objectives import alignment, common
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import job

OBJECTIVE = Objective(weight_icl=0.0, weight_pcl=0.0, mask_ratio=0.0, slices_by="random")
TAU = OBJECTIVE.temperature


def contrast(z_image, z_text, own: list[int], others: list[list[int]]) -> np.ndarray:
    """Both ways' mean of minus log of a sample's share; `others[i]` are compared with sample i, it among them."""
    likeness = np.exp(np.float64(z_image) @ np.float64(z_text).T / TAU)
    ways = [
        [-np.log(table[i, i] / sum(table[i, j] for j in others[i])) for i in own] for table in (likeness, likeness.T)
    ]
    return np.mean(ways, axis=0)


@pytest.mark.parametrize("chunk", [0, 2])
def test_negatives_are_those_of_ones_own_modality(model, networks, make_batch, chunk: int) -> None:
    batch = make_batch(model, 6, 4)
    settings = {"all": {}, "modality": {"negatives": "modality", "contrastive_chunk": chunk}}
    objectives = {name: Objective(weight_icl=0.0, weight_pcl=0.0, **changes) for name, changes in settings.items()}

    def forward(student):
        images = common.encode_images(student, batch)
        cls = {name: image.cls for name, image in images.items()}
        reports = alignment.Reports(common.encode_reports(student, batch).vector)
        terms = {name: goal.contrastive_losses(student, batch, cls, reports)["vl"] for name, goal in objectives.items()}
        return terms, student.project(cls, reports.vector, True)

    terms, z = trial.bound(model, networks.params, forward, networks.model_state["batch_stats"])
    xrays, cts = list(range(6)), list(range(6, 10))
    near = float32(32, depth=4, scale=1 / TAU)
    for name, parts in (("all", {"xray": xrays + cts, "ct": xrays + cts}), ("modality", {"xray": xrays, "ct": cts})):
        for modality, own in (("xray", xrays), ("ct", cts)):
            expected = contrast(*z, own, [parts[modality]] * 10)
            np.testing.assert_allclose(terms[name][modality], expected, atol=near, err_msg=f"{name} {modality}")
    assert float(terms["modality"]["ct"].mean()) < float(terms["all"]["ct"].mean()), "fewer negatives"


def test_both_halves_of_a_report_belong_to_the_image_and_to_each_other(model, networks, make_batch) -> None:
    batch = make_batch(model, 3, 2)
    other = make_batch(model, 3, 2, seed=1)
    for name, part in batch.items():
        part |= {"other": other[name]["text"], "other_mask": other[name]["text_mask"]}
    goal = Objective(weight_icl=0.0, weight_pcl=0.0, report_halves=True)

    def forward(student):
        cls = {name: image.cls for name, image in common.encode_images(student, batch).items()}
        reports = goal.encode_reports(student, batch)
        z = student.project(cls, jnp.concatenate([reports.vector, reports.other]), True)
        return goal.contrastive_losses(student, batch, cls, reports), z

    terms, (image, texts) = trial.bound(model, networks.params, forward, networks.model_state["batch_stats"])
    own, every, near = list(range(5)), [list(range(5))] * 5, float32(32, depth=4, scale=1 / TAU)
    first, second = texts[:5], texts[5:]
    images = (contrast(image, first, own, every) + contrast(image, second, own, every)) / 2
    for name, expected in (("vl", images), ("reports", contrast(first, second, own, every))):
        np.testing.assert_allclose(terms[name]["xray"], expected[:3], atol=near)
        np.testing.assert_allclose(terms[name]["ct"], expected[3:], atol=near)


def test_identical_reports_are_positives_within_the_modality(model, networks, make_batch) -> None:
    """A copy in the other modality is neither positive nor negative."""
    batch = make_batch(model, 3, 3)
    for field in ("text", "text_mask"):
        batch["ct"][field] = batch["ct"][field].at[1].set(batch["ct"][field][0])
        batch["xray"][field] = batch["xray"][field].at[2].set(batch["ct"][field][0])
    goal = Objective(weight_icl=0.0, weight_pcl=0.0, negatives="modality", identical_reports=True)

    def forward(student):
        cls = {name: image.cls for name, image in common.encode_images(student, batch).items()}
        reports = alignment.Reports(common.encode_reports(student, batch).vector)
        return goal.contrastive_losses(student, batch, cls, reports)["vl"], student.project(cls, reports.vector, True)

    terms, (image, text) = trial.bound(model, networks.params, forward, networks.model_state["batch_stats"])
    shares = np.exp(np.float64(image) @ np.float64(text).T / TAU)[3:, 3:]
    expected = []
    for i, positives in enumerate([(0, 1), (0, 1), (2,)]):
        ways = [-np.mean([np.log(table[i, j] / table[i].sum()) for j in positives]) for table in (shares, shares.T)]
        expected.append(np.mean(ways))
    np.testing.assert_allclose(terms["ct"], expected, atol=float32(32, depth=4, scale=1 / TAU))


def test_chunks_that_do_not_divide_a_modality_are_refused() -> None:
    settings = {"batch": {"xray": 6, "ct": 12}, "objective": {"contrastive_chunk": 9}}
    job.check_batch(typed(PretrainConfig, settings), {"xray": 6, "ct": 12}, 1)
    for change in ({"negatives": "modality"}, {"weight_koleo": 0.1}):
        config = typed(PretrainConfig, settings | {"objective": {"contrastive_chunk": 9, **change}})
        with pytest.raises(UserError, match="contrastive_chunk=9 does not divide the 12 samples of ct"):
            job.check_batch(config, {"xray": 6, "ct": 12}, 1)
