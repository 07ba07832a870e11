"""Supervised training of a downstream network: AdamW, early stopping, the best epoch kept."""

import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.typing import Array, PyTree

LOG = logging.getLogger(__name__)

# (params, fixed, stats, batch, key) -> (loss, new stats); `fixed` holds what is not trained.
Loss = Callable[[PyTree, PyTree, PyTree, PyTree, Array], tuple[Array, PyTree]]


class Fitted(NamedTuple):
    """The network at its best epoch."""

    params: PyTree
    stats: PyTree  # BatchNorm's running statistics
    score: float  # on the validation patients; NaN where there are none
    epoch: int


def fit(
    params: PyTree,
    fixed: PyTree,
    stats: PyTree,
    loss: Loss,
    batches: Iterator[dict[str, np.ndarray]],
    score: Callable[[PyTree, PyTree], float] | None,
    *,
    mesh: Mesh,
    epochs: int,
    steps: int,
    patience: int,
    lr: float,
    encoder_lr: float,
    weight_decay: float,
    seed: int = 0,
    name: str = "",
) -> Fitted:
    """`epochs` of `steps` batches each, at most; stops after `patience` epochs without a better score.

    The learning rate of the subtree "encoder" of `params` is `encoder_lr`, that of all else `lr`; both are constant,
    as in MGCA. `score(params, stats)` is higher for better networks; without it the last epoch is kept.
    """
    tx = optax.multi_transform(
        {True: optax.adamw(encoder_lr, weight_decay=weight_decay), False: optax.adamw(lr, weight_decay=weight_decay)},
        {part: part == "encoder" for part in params},
    )
    # Copied: the step gives its arguments away, and the caller's weights start the next fit.
    params, stats = (jax.jit(lambda x: x)(jax.device_put(x, NamedSharding(mesh, P()))) for x in (params, stats))
    opt_state = jax.jit(tx.init)(params)
    step = _make_step(loss, tx)
    best = Fitted(jax.device_get(params), jax.device_get(stats), float("nan"), 0)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for number, batch in enumerate(itertools.islice(batches, steps), start=(epoch - 1) * steps):
            key = jax.random.fold_in(jax.random.key(seed), number)
            placed = sharding.put_batch(batch, mesh)
            params, opt_state, stats, value = step(params, opt_state, stats, fixed, placed, key)
            total += float(value)
        if not np.isfinite(total):
            raise UserError(f"{name}: the loss is not finite in epoch {epoch}; try a lower config.lr")
        found = score(params, stats) if score else float("nan")
        LOG.info("%s: epoch %d of at most %d, loss %.4f, validation %.4f", name, epoch, epochs, total / steps, found)
        if not score or np.isnan(best.score) or found > best.score:
            best = Fitted(jax.device_get(params), jax.device_get(stats), found, epoch)
        elif epoch - best.epoch >= patience:
            break
    return best


def _make_step(loss: Loss, tx: optax.GradientTransformation) -> Callable[..., Any]:
    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: PyTree, opt_state: PyTree, stats: PyTree, fixed: PyTree, batch: PyTree, key: Array) -> Any:
        grad_fn = jax.value_and_grad(loss, has_aux=True)
        (value, stats), grads = grad_fn(params, fixed, stats, batch, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, stats, value

    return step


def check_batch(batch: int, mesh: Mesh) -> int:
    """The batch, if its rows divide over the devices; raises UserError where they do not."""
    if batch < 1 or batch % mesh.size:
        raise UserError(f"config.batch={batch} does not divide over {mesh.size} devices")
    return batch
