"""The type embedding of lateral X-rays: absent by default, and added to the tokens of those that are lateral alone."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tests.tolerances import float32
from unimedi_jax import trees
from unimedi_jax.models import towers
from unimedi_jax.objectives import base
from unimedi_jax.objectives.unimedi import Objective

LATERAL = np.array([True, False, True])


@pytest.fixture(scope="module")
def model(make_tiny) -> towers.UniMedI:
    return make_tiny(lateral_type=True)


@pytest.fixture(scope="module")
def variables(model):
    return jax.jit(lambda: base.init_variables(model, Objective(), jax.random.key(0)))()


def run(model, variables, *args, method: str):
    return jax.jit(lambda v, a: model.apply(v, *a, method=method))(variables, args)


def test_it_adds_one_vector_and_leaves_all_others_as_the_seed_gives_them(variables, tiny_variables) -> None:
    names, leaves = trees.names(variables), jax.tree.leaves(variables)
    without = dict(zip(trees.names(tiny_variables), jax.tree.leaves(tiny_variables), strict=True))
    assert set(names) - set(without) == {"params/vision/type_lateral"}
    for name, leaf in zip(names, leaves, strict=True):
        if name in without:
            np.testing.assert_array_equal(leaf, without[name], err_msg=name)


def test_without_it_batches_and_networks_are_those_of_before(
    tiny, model, variables, tiny_variables, make_batch
) -> None:
    assert "lateral" not in towers.example_batch(tiny)["xray"]
    assert towers.example_batch(model)["xray"]["lateral"].dtype == bool
    batch = make_batch(tiny, 3, 2)
    expected = run(tiny, tiny_variables, batch["xray"]["tokens"], method="xray_features")
    for views in ((), (jnp.zeros(3, bool),)):
        actual = run(model, variables, batch["xray"]["tokens"], *views, method="xray_features")
        for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)


def test_lateral_films_have_it_on_each_token_and_no_others(model, variables, make_batch) -> None:
    tokens = make_batch(model, 3, 0)["xray"]["tokens"]
    plain = np.asarray(run(model, variables, tokens, method="embed_xray"))
    marked = np.asarray(run(model, variables, tokens, None, LATERAL, method="embed_xray"))
    np.testing.assert_array_equal(marked[1], plain[1])
    vector = np.asarray(variables["params"]["vision"]["type_lateral"])
    expected = np.tile(vector, (2, plain.shape[1], 1))
    np.testing.assert_allclose((marked - plain)[[0, 2]], expected, atol=float32(256))
    cls = np.asarray(run(model, variables, tokens, method="xray_features").cls)
    lateral = np.asarray(run(model, variables, tokens, LATERAL, method="xray_features").cls)
    assert np.abs(lateral - cls)[[0, 2]].max(axis=1).min() > 1e-3


def test_a_network_without_it_takes_no_views(tiny, tiny_variables, make_batch) -> None:
    tokens = make_batch(tiny, 3, 0)["xray"]["tokens"]
    with pytest.raises(AttributeError, match="type_lateral"):
        run(tiny, tiny_variables, tokens, None, LATERAL, method="embed_xray")
