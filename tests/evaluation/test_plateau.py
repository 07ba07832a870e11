"""The learning rate at a plateau beside torch's scheduler, which waits an epoch longer than Keras' for one number."""

import numpy as np
import optax
import pytest
import torch
from jax import numpy as jnp

from tests.evaluation.test_fit import _fit
from unimedi_jax.evaluation import plateau as plateaus


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_torch(seed):
    rng = np.random.default_rng(seed)
    losses = np.abs(1 / np.arange(1, 120) + rng.normal(0, 0.02, 119))
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.Adam([parameter], lr=1e-3)
    # Keras waits until so many epochs were no better, torch until more were.
    judge = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=5, threshold=1e-4, threshold_mode="abs", min_lr=1e-6
    )
    ours = plateaus.Plateau(6)
    for loss in losses:
        ours = ours.after(-loss)
        judge.step(loss)
        assert ours.scale * 1e-3 == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6)
    assert ours.scale < 0.1


def test_updates_are_scaled_by_the_state():
    tx = optax.chain(optax.sgd(1.0), plateaus.by_state())
    params = {"w": jnp.ones(2)}
    state = plateaus.set_scale(tx.init(params), 0.25)
    updates, state = tx.update({"w": jnp.ones(2)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.25)
    updates, _ = tx.update({"w": jnp.ones(2)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.25)


def test_a_fit_halves_its_rates_while_validation_stands_still():
    def moved(**changes):
        return abs(float(_fit(score=lambda _: 0.0, epochs=4, patience=9, **changes).network.params["decoder"]["b"][0]))

    def last(**changes):
        scores = iter((0.0, 0.0, 0.0, 1.0))  # the last epoch is the best
        return _fit(score=lambda _: next(scores), epochs=4, patience=9, **changes).network.params

    slow, fast = last(plateau=1), last()
    assert moved(plateau=1) == moved(), "the first epoch has the whole rate"
    assert not np.allclose(slow["encoder"]["w"], fast["encoder"]["w"])
    assert np.abs(slow["encoder"]["w"]).sum() < np.abs(fast["encoder"]["w"]).sum()
