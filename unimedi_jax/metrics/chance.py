"""Exact chances of drawing something right, and top-k hits that break ties by them.

Ties are not broken by the order of rows: a tied place counts as the probability that a random order
of the tied candidates would fill it rightly. A model that scores everything alike thus gets exactly
the random rate.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def hit_probability(
    total: Int[np.ndarray, "*q"], correct: Int[np.ndarray, "*q"], draws: Int[np.ndarray, "*q"]
) -> Float[np.ndarray, "*q"]:
    """Chance that `draws` of `total` candidates, drawn without replacement, hold one of `correct`.

    1 - C(total - correct, draws) / C(total, draws), as a product: no large factorials, and exactly
    0 or 1 in the certain cases. `draws` beyond `total` count as all of them; arguments broadcast.
    """
    total, correct, draws = np.broadcast_arrays(total, correct, draws)
    if np.any((correct < 0) | (correct > total) | (draws < 0)):
        raise ValueError("needs 0 <= correct <= total and draws >= 0")
    draws = np.minimum(draws, total)
    miss = np.ones(total.shape)
    for drawn in range(int(draws.max(initial=0))):
        left = np.maximum(total - drawn, 1)
        wrong = np.maximum(total - correct - drawn, 0)
        miss = np.where(drawn < draws, miss * (wrong / left), miss)
    return 1.0 - miss


def top_k_hit(scores: Float[np.ndarray, "q c"], correct: Bool[np.ndarray, "q c"], k: int) -> Float[np.ndarray, " q"]:
    """Per row, the chance in [0, 1] that a correct candidate is among the k highest scores.

    It is 0 or 1 unless candidates tie across the k-th place. k beyond c counts as c.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    above, tied, k = _top_k(scores, correct, k)
    lucky = hit_probability(tied.sum(1), (tied & correct).sum(1), k - above.sum(1))
    return np.where((above & correct).any(1), 1.0, lucky)


def top_k_share(scores: Float[np.ndarray, "q c"], correct: Bool[np.ndarray, "q c"], k: int) -> Float[np.ndarray, " q"]:
    """Per row, the expected share of correct candidates among the k highest scores, tied ones in random order.

    k beyond c counts as c.
    """
    above, tied, k = _top_k(scores, correct, k)
    lucky = (tied & correct).sum(axis=1) / tied.sum(axis=1) * (k - above.sum(axis=1))
    return ((above & correct).sum(axis=1) + lucky) / k


def _top_k(scores: np.ndarray, correct: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Which candidates score above the k-th highest score and which tie with it, and k, at most all of them."""
    if scores.shape != correct.shape or k < 1:
        raise ValueError(f"scores {scores.shape}, correct {correct.shape}, k {k} do not fit")
    k = min(k, scores.shape[1])
    if not scores.size:
        return np.zeros(scores.shape, bool), np.zeros(scores.shape, bool), k
    threshold = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    return scores > threshold, scores == threshold, k
