"""Embeddings on the unit sphere, and means that may have nothing to average."""

import numpy as np
from jaxtyping import Float


def unit_rows(z: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Rows scaled to length 1, in float64; a row of zeros stays zero (similarity 0 to everything).

    Raises ValueError if `z` is not a matrix or holds NaN or infinity.
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or not np.isfinite(z).all():
        raise ValueError(f"embeddings must be a finite matrix, got shape {z.shape}")
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


def nan_mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the values that are not NaN; NaN (without a warning) if there are none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
