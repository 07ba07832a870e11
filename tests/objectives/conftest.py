"""A small network with the heads of a test file's OBJECTIVE, and a batch through both; MODEL changes the network."""

import functools

import pytest

from tests.objectives import trial
from unimedi_jax.models import sizes


@pytest.fixture(scope="module")
def model(request, make_tiny):
    settings = {"size": sizes.Size(32, 1, 4, 64), **getattr(request.module, "MODEL", {})}
    return make_tiny(objective=request.module.OBJECTIVE, **settings)


@pytest.fixture(scope="module")
def networks(request, model, random_tree) -> trial.Networks:
    return trial.networks(model, request.module.OBJECTIVE, random_tree)


@pytest.fixture(scope="module")
def run(request, model, networks, make_batch):
    """`run(xrays, cts)`: the parameters, a batch, and loss, metrics, state and gradients of it."""

    @functools.cache
    def run(xrays: int, cts: int, objective=None):
        batch = make_batch(model, xrays, cts)
        objective = objective or request.module.OBJECTIVE
        value, metrics, state, grads = trial.gradients(model, objective, networks, batch)
        return networks.params, batch, float(value), metrics, state, grads

    return run
