"""GLoRIA's local similarities against PyTorch, report by report, their memory, and the whole objective."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax import losses
from unimedi_jax.objectives import gloria

TEMP1, TEMP2, TEMP3 = 4.0, 5.0, 10.0
OBJECTIVE = gloria.Objective(weight_vl=0.5, weight_local=2.0, local_chunk=2)
MODEL = dict(projection="linear", report_pooling="mean")
IMAGES, REPORTS, REGIONS, LENGTH, WIDTH = 4, 5, 6, 7, 8


@pytest.fixture(scope="module")
def parts() -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    regions = rng.standard_normal((IMAGES, REGIONS, WIDTH), np.float32)
    words = rng.standard_normal((REPORTS, LENGTH, WIDTH), np.float32)
    lengths = np.array([7, 1, 3, 5, 2])
    return jnp.asarray(regions), jnp.asarray(words), jnp.asarray(np.arange(LENGTH)[None] < lengths[:, None])


def similarities(regions, words, mask, chunk: int = 2) -> jax.Array:
    return gloria.local_similarities(regions, words, mask, TEMP1, TEMP2, chunk)


def in_torch(regions, words, lengths):
    """One image, one report, one word after the other; padding is cut off beforehand."""
    torch = pytest.importorskip("torch")

    def one(image, report):
        share = torch.softmax(image @ report.T, dim=1)  # region x word
        terms = []
        for word, of_regions in zip(report, share.T, strict=True):
            context = torch.softmax(TEMP1 * of_regions, dim=0) @ image
            terms.append(torch.exp(TEMP2 * torch.cosine_similarity(context, word, dim=0)))
        return torch.log(sum(terms))

    rows = [
        torch.stack([one(image, report[:n]) for report, n in zip(words, lengths, strict=True)]) for image in regions
    ]
    return torch.stack(rows)


def test_similarities_and_gradients_equal_those_of_torch(parts) -> None:
    torch = pytest.importorskip("torch")
    regions, words, mask = parts
    theirs = [torch.tensor(np.array(x), requires_grad=True) for x in (regions, words)]
    expected = in_torch(*theirs, np.asarray(mask).sum(axis=1))
    weight = np.linspace(0.5, 1.5, IMAGES * REPORTS, dtype=np.float32).reshape(IMAGES, REPORTS)
    (expected * torch.tensor(weight)).sum().backward()

    def ours(regions, words):
        actual = similarities(regions, words, mask)
        return jnp.sum(actual * weight), actual

    grads, actual = jax.jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(regions, words)
    np.testing.assert_allclose(actual, expected.detach().numpy(), atol=1e-5)
    for ours, twin in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(ours, twin.grad.numpy(), atol=1e-5)


def test_contrast_equals_torch_both_ways() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(1).standard_normal((5, 5), np.float32)
    target = torch.arange(5)
    for ours, x in zip(gloria.contrast(jnp.asarray(logits)), (logits, logits.T), strict=True):
        expected = torch.nn.functional.cross_entropy(torch.tensor(x), target, reduction="none")
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


def test_padding_does_not_count(parts) -> None:
    regions, words, mask = parts
    other = jnp.where(mask[..., None], words, 100.0)
    actual = jax.jit(similarities)
    np.testing.assert_allclose(actual(regions, other, mask), actual(regions, words, mask), atol=1e-6)
    grads = jax.jit(jax.grad(lambda words: similarities(regions, words, mask).sum()))(words)
    assert not np.asarray(grads)[~np.asarray(mask)].any()
    assert np.asarray(grads)[np.asarray(mask)].any()


def test_chunks_change_neither_value_nor_gradient(parts) -> None:
    regions, words, mask = parts

    def run(chunk: int):
        def loss(regions, words):
            actual = similarities(regions, words, mask, chunk)
            return jnp.sum(actual**2), actual

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(regions, words)

    # One at a time, and all at once: 8 is more than there are. 2, of the test against PyTorch, leaves one over.
    for ours, expected in zip(*map(jax.tree.leaves, (run(1), run(8))), strict=True):
        np.testing.assert_allclose(ours, expected, atol=float32(IMAGES * REPORTS, depth=4, scale=10), rtol=1e-5)


def test_memory_is_that_of_a_chunk() -> None:
    """Forward and backward hold the attention of two reports over all images, and not that of 32."""
    regions, words, mask = jnp.zeros((32, 16, 4)), jnp.zeros((32, 24, 4)), jnp.ones((32, 24), bool)

    def taken(chunk: int) -> int:
        loss = jax.value_and_grad(lambda *x: similarities(*x, mask, chunk).mean(), argnums=(0, 1))
        return jax.jit(loss).lower(regions, words).compile().memory_analysis().temp_size_in_bytes

    dense = taken(32)
    assert dense > 32 * 32 * 16 * 24 * 4
    assert taken(2) < dense / 8


def test_known_values() -> None:
    np.testing.assert_allclose(gloria.contrast(jnp.full((6, 6), 3.0)), np.log(6), rtol=1e-6)
    assert gloria.contrast(100 * jnp.eye(6)).max() < 1e-6
    # An image that is nothing but the words' direction has cosine 1 with each of its three words.
    along = jnp.ones((1, REGIONS, WIDTH))
    mask = jnp.arange(LENGTH)[None] < 3
    actual = similarities(along, jnp.ones((1, LENGTH, WIDTH)), mask)
    np.testing.assert_allclose(actual, [[np.log(3) + TEMP2]], rtol=1e-5)


@pytest.mark.parametrize("settings", [{"temp1": 0.0}, {"temp2": -1.0}, {"temp3": 0.0}, {"local_chunk": 0}])
def test_a_wrong_setting_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        gloria.Objective(**settings)


@pytest.mark.parametrize(("xrays", "cts"), [(3, 2), (4, 0), (0, 3)])
def test_every_batch_gives_a_loss_and_gradients(run, xrays: int, cts: int) -> None:
    _, _, _, metrics, _, grads = run(xrays, cts)
    names = [name for name, rows in (("xray", xrays), ("ct", cts)) if rows]
    assert metrics.keys() == {"loss", *(f"{part}/{kind}" for part in ("loss", *names) for kind in ("vl", "local"))}
    assert grads["report"]["words"]["embedding"].any()
    for part in ("head_region", "head_word", "project_image", "project_report"):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads[part])), part
    for part, name in (("patch_2d", "xray"), ("patch_3d", "ct")):
        assert any(leaf.any() for leaf in jax.tree.leaves(grads["vision"][part])) == (name in names), part


def test_the_loss_is_put_together_from_its_parts(model, run) -> None:
    """Once more, with the words of each report cut out: all but the padding and the [SEP] before it."""
    torch = pytest.importorskip("torch")
    params, batch, value, metrics, *_ = run(3, 2)

    @jax.jit
    def parts(params):
        def apply(*args, method):
            return model.apply({"params": params}, *args, method=method)

        images, reports, vectors = [], [], []
        for name, embed in (("xray", "embed_xray"), ("ct", "embed_volume")):
            image = apply(apply(batch[name]["tokens"], method=embed), method="encode")
            report = apply(batch[name]["text"], batch[name]["text_mask"], method="encode_text_tokens")
            vectors.append(apply({name: image.cls}, report.vector, method="project"))
            images += list(image.patches @ params["head_region"]["fc"]["kernel"])
            reports += list(report.words @ params["head_word"]["fc"]["kernel"])
        return images, reports, [jnp.concatenate(z) for z in zip(*vectors, strict=True)]

    images, reports, vectors = parts(params)
    images, reports = ([torch.tensor(np.array(x)) for x in each] for each in (images, reports))
    lengths = np.concatenate([np.asarray(part["text_mask"]).sum(axis=1) for part in batch.values()])
    actual = np.stack([in_torch([image], reports, lengths - 1)[0].numpy() for image in images])
    expected = {
        "vl": losses.contrastive(*vectors, 1 / TEMP3).mean(axis=0),
        "local": gloria.contrast(TEMP3 * jnp.asarray(actual)).mean(axis=0),
    }
    for kind, each in expected.items():
        for name, rows in (("xray", slice(0, 3)), ("ct", slice(3, 5)), ("loss", slice(0, 5))):
            assert float(metrics[f"{name}/{kind}"].value) == pytest.approx(float(each[rows].mean()), rel=1e-3)
    assert value == pytest.approx(float(0.5 * expected["vl"].mean() + 2 * expected["local"].mean()), rel=1e-3)
