"""Sentences against patches, soft targets and negated reports in UniMedI's objective, by loops in numpy."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.objectives import trial
from tests.tolerances import float32
from unimedi_jax import losses
from unimedi_jax.inference import pretrained
from unimedi_jax.objectives import alignment, base, common, token_runs
from unimedi_jax.objectives.unimedi import Objective

TAU = 0.07
OBJECTIVE = Objective(weight_icl=0.0, weight_pcl=0.0, weight_local=0.5, sentences=3, soft_targets=0.2, negation=True)


def unit(x: np.ndarray) -> np.ndarray:
    x = np.float64(x)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # a run that is not there is zero


def attended(regions: np.ndarray, sentence: np.ndarray) -> float:
    """The logit of one sentence and one image."""
    weights = np.exp(regions @ sentence / TAU)
    gathered = (weights[:, None] * regions).sum(axis=0) / weights.sum()
    return unit(gathered) @ sentence / TAU


def local_loss(logits: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Of (image, report, sentence), report by report and sentence by sentence."""
    each = []
    for i in range(len(logits)):
        terms = []
        for s in np.flatnonzero(real[i]):
            own = logits[i, i, s]
            images = np.log(sum(np.exp(logits[j, i, s] - own) for j in range(len(logits))))
            others = sum(
                np.exp(logits[i, j, t] - own) for j in range(len(logits)) for t in range(3) if j != i and real[j, t]
            )
            terms.append((images + np.log(1 + others)) / 2)
        each.append(np.mean(terms) if terms else 0.0)
    return np.asarray(each)


@pytest.mark.parametrize("chunk", [1, 8])
def test_sentences_against_patches_equal_numpy(chunk: int) -> None:
    rng = np.random.default_rng(0)
    regions, sentences = rng.standard_normal((4, 6, 8), np.float32), rng.standard_normal((4, 3, 8), np.float32)
    real = np.asarray([[True] * 3, [True, False, False], [False] * 3, [True, True, False]])
    table = [[[attended(unit(image), one) for one in unit(report)] for report in sentences] for image in regions]
    logits = alignment.sentence_logits(jnp.asarray(regions), jnp.asarray(sentences), TAU, chunk)
    np.testing.assert_allclose(logits, table, atol=float32(8, depth=3, scale=1 / TAU**2))
    ours = jax.jit(alignment.sentence_contrast)(jnp.float32(table), jnp.asarray(real))
    np.testing.assert_allclose(ours, local_loss(np.asarray(table), real), atol=float32(12, scale=1 / TAU))
    assert ours[2] == 0.0
    grads = jax.grad(lambda x: alignment.sentence_contrast(x, jnp.asarray(real)).sum())(jnp.float32(table))
    assert np.isfinite(grads).all()
    alone = alignment.sentence_contrast(jnp.float32(table)[:1, :1], jnp.asarray(real[:1]))
    np.testing.assert_allclose(alone, 0.0, atol=1e-6)


def test_runs_that_are_filled_are_those_that_have_tokens() -> None:
    mask = jnp.arange(9)[None] < jnp.asarray([0, 1, 2, 5, 9])[:, None]
    _, real = token_runs.means(jnp.ones((5, 9, 2)), mask, 3)
    np.testing.assert_array_equal(token_runs.present(mask, 3), real)


@pytest.fixture(scope="module")
def batch(model, make_batch) -> dict:
    """Two thirds of the negated reports differ from the reports."""
    batch = make_batch(model, 4, 3)
    for part in batch.values():
        turned = part["text"].at[::2, 1].set(7) if len(part["text"]) == 3 else part["text"].at[:2, 1].set(7)
        part |= {"negated": turned, "negated_mask": part["text_mask"]}
    return batch


@pytest.mark.parametrize("negatives", ["all", "modality"])
def test_the_objective_puts_them_together(model, networks, batch, negatives: str) -> None:
    objective = Objective(**vars(OBJECTIVE) | {"negatives": negatives})

    def forward(student):
        teacher = base.bind_teacher(model, networks.teacher)
        targets = objective.teacher_forward(teacher, batch, student.make_rng("draws"), jnp.int32(0))
        outputs, reports = objective.student_forward(student, batch, targets)
        terms = objective.batch_losses(student, batch, outputs, reports)
        words = common.encode_reports(student, batch).words
        inner = token_runs.inner(common.reports(batch)[1])
        sentences = student.head["sentence"](token_runs.means(words, inner, 3)[0])
        turned = common.encode_reports(student, batch, "negated").vector
        cls = {name: output.cls for name, output in outputs.items()}
        z = student.project(cls, jnp.concatenate([reports.vector, turned]), True)
        return terms, {name: output.regions for name, output in outputs.items()}, sentences, inner, z

    terms, regions, sentences, inner, (image, text) = trial.bound(
        model, networks.params, forward, networks.model_state["batch_stats"]
    )
    differs = jnp.any(jnp.concatenate([batch[n]["text"] != batch[n]["negated"] for n in ("xray", "ct")]), axis=1)
    assert 0 < differs.sum() < 7
    images = [unit(one) for name in ("xray", "ct") for one in regions[name]]
    real = np.asarray(token_runs.present(inner, 3))
    table = np.asarray([[[attended(one, s) for s in report] for report in unit(sentences)] for one in images])
    for name, rows in (("xray", slice(0, 4)), ("ct", slice(4, 7))):
        group, own = (rows, slice(None)) if negatives == "modality" else (slice(None), rows)
        expected = local_loss(table[group][:, group], real[group])[own]
        np.testing.assert_allclose(terms["local"][name], expected, atol=float32(32, depth=16, scale=1 / TAU**2))
        opposite = losses.Negated(text[7:][group], differs[group])
        vl = losses.contrastive(image[group], text[:7][group], TAU, None, 0, (0.2, TAU), opposite).mean(axis=0)[own]
        np.testing.assert_allclose(terms["vl"][name], vl, atol=float32(32, depth=4, scale=1 / TAU))


def test_gradients_reach_the_maps_of_sentences_and_patches(model, networks, batch) -> None:
    value, metrics, _, grads = trial.gradients(model, OBJECTIVE, networks, batch)
    trial.assert_weighted(OBJECTIVE, value, metrics, ("vl", "local"))
    assert {"head_region", "head_sentence", "report", "vision/patch_2d", "vision/patch_3d"} <= trial.reached(grads)


def test_heads_and_texts_are_there_only_where_they_are_used(tiny) -> None:
    assert Objective().texts == ("text",)
    assert set(Objective().heads(tiny)) == {"cls", "patch"}
    assert OBJECTIVE.texts == ("text", "negated")
    assert set(OBJECTIVE.heads(tiny)) == {"cls", "patch", "region", "sentence"}


@pytest.mark.parametrize(
    ("settings", "heads"),
    [({"weight_local": 1.0}, {"cls", "patch"}), ({"head_norm": True}, set()), ({}, {"cls", "patch"})],
)
def test_inference_has_no_head_that_training_alone_can_use(settings: dict, heads: set[str]) -> None:
    config = {"model": {"vision_size": "Mu", "report_size": "Mu"}, "objective": {"name": "unimedi", **settings}}
    assert set(pretrained.build(config, 50).head) == heads
