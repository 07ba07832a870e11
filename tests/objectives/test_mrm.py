"""Masked records: which words are hidden, what is guessed of them, and what the image has to do with it."""

import types

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from data.errors import UserError
from data.reports import tokenizer
from tests.objectives import trial
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import sizes
from unimedi_jax.objectives import mae, mrm
from unimedi_jax.objectives.mrm import Objective
from unimedi_jax.train import dataset

SIZE = sizes.Size(32, 1, 4, 64)
DECODER = dict(decoder_width=24, decoder_depth=1, decoder_heads=2)
OBJECTIVE = Objective(**DECODER)


def test_the_ids_are_those_of_the_sets_own_tokenizers(tmp_path) -> None:
    tokenizer.save(tokenizer.train(["no effusion", "no pneumothorax"]), tmp_path)
    reports = tokenizer.load(tmp_path)
    assert Objective().mask_id == reports.mask_token_id
    assert Objective().special_ids == (reports.pad_token_id, reports.cls_token_id, reports.sep_token_id)
    dataset.check_ids(settings.MRM(), reports)
    dataset.check_ids(settings.MAE(), types.SimpleNamespace())
    with pytest.raises(UserError, match=r"mask_id=4 .*objective.special_ids=\(0, 2, 3\)"):
        dataset.check_ids(settings.MRM(special_ids=(0, 1)), reports)
    bert = types.SimpleNamespace(mask_token_id=103, pad_token_id=0, cls_token_id=101, sep_token_id=102)
    with pytest.raises(UserError, match=r"mask_id=103 .*special_ids=\(0, 101, 102\)"):
        dataset.check_ids(settings.MRM(), bert)
    dataset.check_ids(settings.MRM(mask_id=103, special_ids=(0, 101, 102)), bert)
    with pytest.raises(UserError, match="no mask token"):
        dataset.check_ids(settings.MRM(), types.SimpleNamespace(mask_token_id=None))


@pytest.mark.parametrize("ratio", [0.5, 0.15])
def test_a_share_of_every_reports_words_is_hidden(ratio: float) -> None:
    rng = np.random.default_rng(0)
    words = np.array([1, 2, 3, 7, 8, 20, 0])
    at = np.arange(24)[None]
    text = np.where(at <= words[:, None], rng.integers(5, 50, (7, 24)), 0)
    text[:, 0] = 2  # [CLS]
    text[np.arange(7), words + 1] = 3  # [SEP]
    mask = at < words[:, None] + 2
    hide = jax.jit(lambda key: mrm.random_word_mask(key, jnp.asarray(text), jnp.asarray(mask), ratio, (0, 2, 3)))
    draws = np.stack([hide(key) for key in jax.random.split(jax.random.key(0), 100)])
    expected = {0.5: [1, 1, 2, 4, 4, 10, 0], 0.15: [1, 1, 1, 2, 2, 3, 0]}[ratio]
    np.testing.assert_array_equal(draws.sum(axis=2), np.broadcast_to(expected, (100, 7)))
    ordinary = mask & (text > 4)
    assert not draws[:, ~ordinary].any(), "no padding, no special token"
    shares = draws.mean(axis=0)[5, 1:21]
    assert np.abs(shares - expected[5] / 20).max() < 0.2, "every word alike"
    assert shares.min() > 0


def test_the_cross_entropy_is_over_hidden_words_alone() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 6, 11)).astype(np.float32)
    text = rng.integers(0, 11, (3, 6))
    hidden = rng.random((3, 6)) < 0.5
    hidden[2] = False  # a report without words
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected, gradient = np.zeros(3), np.zeros_like(logits)
    for i in range(2):
        for n in np.flatnonzero(hidden[i]):
            expected[i] -= np.log(shares[i, n, text[i, n]]) / hidden[i].sum()
            gradient[i, n] = (shares[i, n] - np.eye(11)[text[i, n]]) / hidden[i].sum()
    cross_entropy = jax.jit(mrm.masked_cross_entropy)
    np.testing.assert_allclose(cross_entropy(logits, text, hidden), expected, atol=1e-5)
    grads = jax.jit(jax.grad(lambda *x: mrm.masked_cross_entropy(*x).sum()))(logits, text, hidden)
    np.testing.assert_allclose(grads, gradient, atol=1e-6)
    uniform = cross_entropy(np.zeros((3, 6, 11), np.float32), text, hidden)
    np.testing.assert_allclose(uniform, [np.log(11), np.log(11), 0], rtol=1e-5)
    sure = cross_entropy(100 * np.eye(11, dtype=np.float32)[text], text, hidden)
    np.testing.assert_allclose(sure, 0, atol=1e-5)


@pytest.mark.parametrize(("xrays", "cts", "weight_mim"), [(3, 0, 1.0), (0, 2, 0.0)])
def test_where_gradients_go(model, networks, make_batch, xrays: int, cts: int, weight_mim: float) -> None:
    objective = Objective(weight_mim=weight_mim, **DECODER)
    batch = make_batch(model, xrays, cts)
    value, metrics, _, gradient = trial.gradients(model, objective, networks, batch)
    assert metrics.keys() == {"loss", *(f"{part}/{kind}" for part in ("loss", *batch) for kind in ("mim", "mlm"))}
    total = weight_mim * float(metrics["loss/mim"].value) + float(metrics["loss/mlm"].value)
    assert float(value) == pytest.approx(total, rel=1e-5)
    # The ViT without the images' own loss too: the reports supervise it.
    of_vision = {f"vision/{part}_{2 if xrays else 3}d" for part in ("patch", "position")}
    of_vision |= {f"vision/{part}" for part in ("cls", "position_cls", "trunk")}
    decoder = {"head_decoder"} if weight_mim else set()
    assert trial.reached(gradient) == {"report", "head_context", "head_words"} | of_vision | decoder
    assert gradient["report"]["words"]["embedding"][objective.mask_id].any()


def test_words_are_guessed_beside_the_images_visible_tokens(model, networks, make_batch) -> None:
    """The words' loss of a mixed batch once more by hand."""
    batch, params = make_batch(model, 2, 2), networks.params
    run = jax.jit(lambda batch: trial.loss(model, OBJECTIVE)(*networks, batch))
    value, (metrics, _) = run(batch)
    assert float(value) == pytest.approx(sum(float(metrics[f"loss/{kind}"].value) for kind in ("mim", "mlm")), rel=1e-5)

    text, text_mask = (jnp.concatenate([batch[n][field] for n in ("xray", "ct")]) for field in ("text", "text_mask"))

    def word_logits(student):
        visible = [mae.encode_visible(student, n, batch[n]["tokens"], 0.75).patches for n in ("xray", "ct")]
        feature = jnp.concatenate([x.mean(axis=1) for x in visible])
        context = feature @ params["head_context"]["out"]["kernel"] + params["head_context"]["out"]["bias"][None]
        mask = mrm.random_word_mask(student.make_rng("draws"), text, text_mask, 0.5, (0, 2, 3))
        words = student.encode_text_tokens(jnp.where(mask, 4, text), text_mask, False, context).words
        return mask, words @ params["head_words"]["out"]["kernel"] + params["head_words"]["out"]["bias"][None, None]

    mask, logits = jax.device_get(trial.bound(model, params, word_logits))
    logs = np.asarray(jax.nn.log_softmax(logits))
    each = [-logs[i, mask[i], np.asarray(text)[i, mask[i]]].mean() for i in range(4)]
    assert float(metrics["xray/mlm"].value) == pytest.approx(np.mean(each[:2]), rel=1e-3)
    assert float(metrics["ct/mlm"].value) == pytest.approx(np.mean(each[2:]), rel=1e-3)

    other = {**batch, "xray": {**batch["xray"], "tokens": 255 - batch["xray"]["tokens"]}}
    changed = run(other)[1][0]
    assert abs(float(changed["xray/mlm"].value) - float(metrics["xray/mlm"].value)) > 1e-3
    assert float(changed["ct/mlm"].value) == pytest.approx(float(metrics["ct/mlm"].value), rel=1e-4)


@pytest.mark.parametrize("settings", [{"word_ratio": 0.0}, {"word_ratio": 1.0}, {"mask_id": 2}, {"mask_ratio": 1.0}])
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Objective(**settings)


def test_a_mask_beyond_the_vocabulary_is_refused(make_tiny) -> None:
    with pytest.raises(ValueError, match="mask_id=103 is no id of a vocabulary of 50"):
        make_tiny(objective=Objective(mask_id=103))
