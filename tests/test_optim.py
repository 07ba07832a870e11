"""AdamW against PyTorch's, schedules against their formulas."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from unimedi_jax import optim
from unimedi_jax.config.pretraining import OptimConfig

STEPS, WARMUP, PEAK, LOW = 100, 40, 2e-5, 1e-8


@pytest.mark.parametrize("step", [0, 1, 20, 40, 41, 70, 99, 100])
def test_learning_rate_is_warmup_and_half_a_cosine(step: int) -> None:
    _, schedule = optim.make(OptimConfig(warmup_steps=WARMUP, peak_lr=PEAK), steps=STEPS)
    if step <= WARMUP:
        expected = LOW + (PEAK - LOW) * step / WARMUP
    else:
        turn = np.pi * (step - WARMUP) / (STEPS - WARMUP)
        expected = LOW + (PEAK - LOW) * (1 + np.cos(turn)) / 2
    assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=1e-4, abs=1e-11)


def test_warmup_may_be_as_long_as_the_run() -> None:
    _, schedule = optim.make(OptimConfig(warmup_steps=5, peak_lr=PEAK), steps=5)
    assert float(schedule(jnp.int32(5))) == pytest.approx(PEAK)


def test_teachers_momentum_goes_from_base_to_final() -> None:
    momentum = optim.ema_schedule(base=0.996, final=1.0, steps=200)
    assert float(momentum(jnp.int32(0))) == pytest.approx(0.996)
    assert float(momentum(jnp.int32(200))) == 1.0
    assert float(momentum(jnp.int32(300))) == 1.0
    step = np.arange(200)
    expected = 1.0 + 0.5 * (0.996 - 1.0) * (1 + np.cos(np.pi * step / 200))  # DINO
    np.testing.assert_allclose(jax.vmap(momentum)(step), expected, rtol=1e-6)


def test_average_of_every_leaf() -> None:
    teacher, student = {"a": np.ones(3), "b": [np.zeros(2)]}, {"a": np.zeros(3), "b": [np.ones(2)]}
    found = optim.average(teacher, student, jnp.float32(0.75))
    np.testing.assert_allclose(found["a"], 0.75)
    np.testing.assert_allclose(found["b"][0], 0.25)


PARAMS = {
    "fc": {"kernel": jnp.full((3, 4), 2.0), "bias": jnp.full(4, 2.0)},
    "norm": {"scale": jnp.full(4, 2.0)},
    "words": {"embedding": jnp.full((5, 4), 2.0)},
    "head": {"last_layer": jnp.full((4, 6), 2.0)},
}


@pytest.mark.parametrize(("rule", "decayed"), [(None, {"kernel", "embedding", "last_layer"}), (".*", None)])
def test_decay_reaches_what_the_rule_names(rule: str | None, decayed: set[str] | None) -> None:
    chosen = {} if rule is None else {"decay": rule}
    tx, _ = optim.make(OptimConfig(warmup_steps=0, peak_lr=0.1, weight_decay=0.5, **chosen), steps=10)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = jax.jit(lambda: tx.update(still, tx.init(PARAMS), PARAMS))()
    for part in updates.values():
        for name, update in part.items():
            moves = decayed is None or name in decayed
            np.testing.assert_allclose(update, -0.1 * 0.5 * 2.0 if moves else 0.0, rtol=1e-5)


@pytest.mark.parametrize("clip_norm", [3.0, 0.0])
def test_adamw_equals_torch(clip_norm: float) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.standard_normal((6, 5)).astype(np.float32)
    grads = 5 * rng.standard_normal((6, 6, 5)).astype(np.float32)
    tx, schedule = optim.make(OptimConfig(warmup_steps=3, peak_lr=1e-2, start_lr=1e-3, clip_norm=clip_norm), steps=20)
    params = {"kernel": jnp.asarray(start)}
    state = tx.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.999), weight_decay=0.05)
    for step, grad in enumerate(grads):
        updates, state = tx.update({"kernel": jnp.asarray(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        adamw.param_groups[0]["lr"] = float(schedule(jnp.int32(step)))
        theirs.grad = torch.tensor(grad)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_([theirs], clip_norm)
        adamw.step()
    np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), atol=1e-5)


def test_first_moments_in_bfloat16() -> None:
    """They lose 2^-9 of themselves in a step and forget a tenth: updates differ by 2 % of the learning rate at most."""
    rng = np.random.default_rng(0)
    start = {"kernel": jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)}
    grads = [{"kernel": jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)} for _ in range(8)]
    ends = {}
    for dtype in ("float32", "bfloat16"):
        tx, _ = optim.make(OptimConfig(warmup_steps=0, peak_lr=1e-2, moment_dtype=dtype), steps=20)
        params, state = start, tx.init(start)
        for grad in grads:
            updates, state = tx.update(grad, state, params)
            params = optax.apply_updates(params, updates)
        types = {str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim}
        assert types == {dtype, "float32"}
        assert params["kernel"].dtype == jnp.float32
        ends[dtype] = np.asarray(params["kernel"])
    assert 0 < np.abs(ends["bfloat16"] - ends["float32"]).max() < 0.02 * 1e-2 * len(grads)


def test_a_moment_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="moment_dtype must be one of float32, bfloat16, not 'float16'"):
        OptimConfig(moment_dtype="float16")
