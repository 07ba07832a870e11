"""The report tower against Hugging Face's BertModel on copied weights, and parameter counts."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import LAYER_SUMS, float32
from unimedi_jax import trees
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.models import text, towers

torch = pytest.importorskip("torch")
DEPTH, WIDTH, HEADS, MLP, VOCABULARY = 3, 32, 4, 64, 60


@pytest.fixture(scope="module")
def bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        max_position_embeddings=40,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def params(bert):
    """BERT's weights in the tower's tree."""
    state = {name: x.detach().numpy() for name, x in bert.state_dict().items()}

    def dense(name: str) -> dict:
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name: str) -> dict:
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def layer(index: int) -> dict:
        start = f"encoder.layer.{index}"
        q, k, v = (dense(f"{start}.attention.self.{x}") for x in ("query", "key", "value"))
        qkv = {x: np.concatenate([part[x] for part in (q, k, v)], -1) for x in ("kernel", "bias")}
        return {
            "attention": {"qkv": qkv, "out": dense(f"{start}.attention.output.dense")},
            "norm1": norm(f"{start}.attention.output.LayerNorm"),
            "mlp": {"fc1": dense(f"{start}.intermediate.dense"), "fc2": dense(f"{start}.output.dense")},
            "norm2": norm(f"{start}.output.LayerNorm"),
        }

    embeddings = "embeddings.{}_embeddings.weight"
    return {
        "words": {"embedding": state[embeddings.format("word")]},
        "positions": {"embedding": state[embeddings.format("position")]},
        "segments": state[embeddings.format("token_type")],
        "norm": norm("embeddings.LayerNorm"),
        "layers": jax.tree.map(lambda *x: np.stack(x), *(layer(i) for i in range(DEPTH))),
    }


@pytest.fixture(scope="module")
def reports() -> tuple[jax.Array, jax.Array]:
    """Ids and masks of reports of 17, 9 and 1 tokens, padded to 17."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, (3, 17))
    mask = np.arange(17)[None] < np.array([[17], [9], [1]])
    return jnp.asarray(np.where(mask, ids, 0), jnp.int32), jnp.asarray(mask)


def tower(**settings) -> text.ReportTower:
    return text.ReportTower(VOCABULARY, WIDTH, DEPTH, HEADS, MLP, max_positions=40, dtype=jnp.float32, **settings)


@pytest.fixture(scope="module")
def judged(bert, reports) -> np.ndarray:
    ids, mask = (torch.tensor(np.array(x)) for x in reports)
    with torch.no_grad():
        return bert(ids.long(), attention_mask=mask.long()).last_hidden_state.numpy()


def test_hidden_states_equal_bert(params, reports, judged) -> None:
    actual = tower().apply({"params": params}, *reports)
    mask = np.asarray(reports[1])
    np.testing.assert_allclose(np.asarray(actual.words)[mask], judged[mask], atol=1e-4)
    np.testing.assert_allclose(actual.vector, judged[:, 0], atol=1e-4)


def test_mean_pooling_leaves_padding_out(params, reports, judged) -> None:
    actual = tower(pooling="mean").apply({"params": params}, *reports).vector
    expected = [x[m].mean(axis=0) for x, m in zip(judged, np.asarray(reports[1]), strict=True)]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_what_stands_in_the_padding_is_never_read(params, reports) -> None:
    ids, mask = reports
    other = jnp.where(mask, ids, 7)
    actual = tower().apply({"params": params}, ids, mask).vector
    np.testing.assert_array_equal(actual, tower().apply({"params": params}, other, mask).vector)


def test_reports_cut_to_the_longest_mean_the_same(params, reports) -> None:
    ids, mask = (x[1:] for x in reports)
    for pooling in ("cls", "mean"):
        read = jax.jit(lambda *x, pooling=pooling: tower(pooling=pooling).apply({"params": params}, *x).vector)
        whole, cut = read(ids, mask), read(ids[:, :9], mask[:, :9])
        np.testing.assert_allclose(cut, whole, atol=float32(64, depth=DEPTH * LAYER_SUMS))


def test_dropout_acts_in_training_alone(params, reports) -> None:
    def run(seed: int, train: bool) -> jax.Array:
        rngs = {"dropout": jax.random.key(seed)}
        return jax.jit(lambda: tower().apply({"params": params}, *reports, train, rngs=rngs).vector)()

    np.testing.assert_array_equal(run(0, False), run(1, False))
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert np.abs(run(0, True) - run(1, True)).max() > 0.05


def test_the_dropout_path_is_the_same_attention(params, reports) -> None:
    """With a vanishing rate the hand-written attention must give what the fused one gives."""
    rare = tower(dropout=1e-12)
    rngs = {"dropout": jax.random.key(0)}
    actual = rare.apply({"params": params}, *reports, True, rngs=rngs).vector
    np.testing.assert_allclose(actual, rare.apply({"params": params}, *reports).vector, atol=1e-4)


def test_counts_of_bert_base() -> None:
    model = towers.build_model(ModelConfig(), 28996)
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))["params"]["report"]
    embeddings = ("words", "positions", "segments", "norm")
    assert sum(trees.count(shapes[name]) for name in embeddings) == 22_665_216
    assert trees.count(shapes["layers"]) == 12 * 7_087_872
    assert trees.count(shapes) == 107_719_680


def test_mistakes_are_refused(params) -> None:
    ids = jnp.ones((1, 41), jnp.int32)
    with pytest.raises(ValueError, match="41 tokens exceed the 40 positions"):
        tower().apply({"params": params}, ids, ids > 0)
    with pytest.raises(ValueError, match="pooling is cls or mean"):
        tower(pooling="max").apply({"params": params}, ids[:, :4], ids[:, :4] > 0)
