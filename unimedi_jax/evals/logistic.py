"""L2-regularised logistic regression to its optimum, for many labels and strengths in one compiled solve."""

import functools

import jax
import numpy as np
import optax
from jax import numpy as jnp

from unimedi_jax.typing import Array, Bool, Float

ITERATIONS = 300
SMALLEST = 256  # rows of one compiled solve
TOLERANCE = 1e-5  # of the gradient's norm over the norm at the start


def fit(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n c"],
    strengths: Float[np.ndarray, "s c"],
    *,
    one_of: bool = False,
) -> tuple[Float[np.ndarray, "s d c"], Float[np.ndarray, "s c"]]:
    """Weights and intercepts for each row of inverse strengths C.

    Minimises sum_i C loss_i + |w|^2 / 2 (scikit-learn's objective, the intercept free), with a binary loss per column,
    or one softmax over the columns with `one_of`. NaN labels are skipped, in all columns with `one_of`.
    """
    known = ~np.isnan(y)
    if one_of:
        known = np.broadcast_to(known.all(axis=1, keepdims=True), y.shape)
    # Rows of no weight up to a power of two: compiling takes seconds, solving a tenth of one, and sizes repeat.
    spare = ((0, max(SMALLEST, 1 << (len(x) - 1).bit_length()) - len(x)), (0, 0))
    x, y, known = np.pad(x, spare), np.pad(np.nan_to_num(y), spare), np.pad(known, spare)
    arrays = (jnp.asarray(a, jnp.float32) for a in (x, y, strengths))
    weights, bias = _solve(*arrays, jnp.asarray(known), one_of)
    return np.asarray(weights), np.asarray(bias)


def probabilities(
    x: Float[np.ndarray, "n d"], weights: Float[np.ndarray, "d c"], bias: Float[np.ndarray, " c"], *, one_of: bool
) -> Float[np.ndarray, "n c"]:
    """Sigmoid of each column, or softmax over the columns with `one_of`."""
    logits = x @ weights + bias
    if not one_of:
        return 0.5 * (1 + np.tanh(logits / 2))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames="one_of")
def _solve(
    x: Float[Array, "n d"],
    y: Float[Array, "n c"],
    strengths: Float[Array, "s c"],
    known: Bool[Array, "n c"],
    one_of: bool,
) -> tuple[Float[Array, "s d c"], Float[Array, "s c"]]:
    def of_strength(strength: Float[Array, " c"]) -> tuple[Array, Array]:
        def objective(params: tuple[Array, Array]) -> Float[Array, ""]:
            weights, bias = params
            logits = x @ weights + bias[None]
            losses = -y * jax.nn.log_softmax(logits) if one_of else optax.sigmoid_binary_cross_entropy(logits, y)
            fitted = jnp.sum(jnp.where(known, losses, 0.0) * strength[None])
            # Divided by what it grows with, so that the line search starts with steps of a sensible size.
            return (fitted + 0.5 * jnp.sum(weights**2)) / (1 + jnp.sum(strength[None] * known))

        start = (jnp.zeros((x.shape[1], y.shape[1])), jnp.zeros(y.shape[1]))
        return _minimise(objective, start)

    return jax.vmap(of_strength)(strengths)


def _minimise(objective, params):
    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(objective)
    goal = TOLERANCE * optax.tree.norm(jax.grad(objective)(params))

    def step(carry):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=objective)
        return optax.apply_updates(params, updates), state

    def going(carry):
        _, state = carry
        count, grad = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
        return (count == 0) | ((count < ITERATIONS) & (optax.tree.norm(grad) > goal))

    return jax.lax.while_loop(going, step, (params, solver.init(params)))[0]
