"""L2-regularised logistic regression to its optimum, for many labels and strengths."""

import numpy as np
from jaxtyping import Float
from scipy import special
from threadpoolctl import threadpool_limits

ITERATIONS = 1000
TOLERANCE = 1e-5  # of the largest derivative over the largest at the start


@threadpool_limits.wrap(limits=1)  # products this thin lose more than they gain by a second thread
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
    x, y = np.asarray(x, np.float64), np.nan_to_num(y)
    optima = [_minimise(x, y, known * row, one_of) for row in strengths]
    return np.stack([params[:-1] for params in optima]), np.stack([params[-1] for params in optima])


def probabilities(
    x: Float[np.ndarray, "n d"], weights: Float[np.ndarray, "d c"], bias: Float[np.ndarray, " c"], *, one_of: bool
) -> Float[np.ndarray, "n c"]:
    """Sigmoid of each column, or softmax over the columns with `one_of`."""
    logits = x @ weights + bias
    if not one_of:
        return 0.5 * (1 + np.tanh(logits / 2))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _minimise(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n c"], strength: Float[np.ndarray, "n c"], one_of: bool
) -> Float[np.ndarray, "d+1 c"]:
    """Weights, and below them the intercepts, by L-BFGS; `strength` is C of every label, 0 where it is unknown."""
    from scipy import optimize  # a fifth of a second, which embedding does not need

    shape = (x.shape[1] + 1, y.shape[1])
    scale = 1 / (1 + strength.sum())  # steps of a sensible size from the start

    def objective(flat: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        params = flat.reshape(shape)
        logits = x @ params[:-1] + params[-1]
        if one_of:
            losses, predicted = -y * special.log_softmax(logits, axis=1), special.softmax(logits, axis=1)
        else:
            losses, predicted = np.logaddexp(0, logits) - y * logits, special.expit(logits)
        slope = strength * (predicted - y)
        value = np.sum(strength * losses) + 0.5 * np.sum(params[:-1] ** 2)
        grad = np.concatenate([x.T @ slope + params[:-1], slope.sum(axis=0, keepdims=True)])
        return scale * value, scale * grad.ravel()

    start = np.zeros(shape).ravel()
    goal = TOLERANCE * np.abs(objective(start)[1]).max()
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": goal, "ftol": 0.0, "maxcor": 20}
    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
