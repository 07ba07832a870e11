"""Supervised training of a downstream network: AdamW, early stopping, the best epoch is returned."""

import datetime
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from data import progress
from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import draws
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import supervised
from unimedi_jax.typing import Array, PyTree

LOG = logging.getLogger(__name__)
Loss = Callable[[Network, PyTree], tuple[Array, PyTree]]


class Task(Protocol):
    """A downstream network, and the annotated cases that train and test it."""

    pretrained: Pretrained
    name: str  # for the log
    recipe: FitConfig
    cases: Mapping[str, Sequence[int]]  # rows of the records of each split
    strata: np.ndarray  # (n, c) labels of the training cases, of which a share has its proportions
    sampler: supervised.Sampler

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        """The records of a split."""

    def start(self, trial: Trial) -> Network:
        """The network before any step."""

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        """Loss of a batch, and the network's new `stats`."""

    def predict(self, network: Network, tokens: Array) -> Any:
        """Jitted: what the network says of a batch, as arrays whose rows are cases."""

    def score(self, network: Network) -> float:
        """How good the network is on the validation cases: higher is better."""


class Fitted(NamedTuple):
    """The network at its best epoch."""

    network: Network
    score: float  # on the validation patients; NaN where there are none
    epoch: int


Draw = Callable[..., np.ndarray]  # (labels, share, seed=): rows of the training cases


def train(task: Task, trial: Trial, draw: Draw = draws.stratified) -> Network:
    """The network of a task, trained on a share of its training cases, which `draw` draws."""
    mesh, batch = task.pretrained.mesh, check_batch(task.recipe.batch, task.pretrained.mesh)
    cases = [task.cases["train"][i] for i in draw(task.strata, trial.share, seed=trial.seed)]
    batches = supervised.training(task.source("train"), task.sampler, cases, batch, seed=trial.seed)
    score = task.score if task.cases["val"] else None
    settings = dict(steps=max(1, len(cases) // batch), mesh=mesh, name=f"{task.name}, {trial}")
    return fit(task.start(trial), task.loss, batches, score, task.recipe, **settings).network


def predictions(task: Task, split: str, network: Network) -> Iterator[Any]:
    """What the network says of each case of a split, in order, as host arrays."""
    source, mesh, rows = task.source(split), task.pretrained.mesh, task.cases[split]
    with progress.shown(len(rows), f"cases of {split}") as tick:
        for batch, real in supervised.evaluation(source, task.sampler, task.recipe.batch, rows):
            output = jax.device_get(task.predict(network, sharding.put_batch(batch["tokens"], mesh)))
            yield from (jax.tree.map(lambda x, row=row: x[row], output) for row in range(real))
            tick(real)


def fit(
    network: Network,
    loss: Loss,
    batches: Iterator[dict[str, np.ndarray]],
    score: Callable[[Network], float] | None,
    recipe: FitConfig,
    *,
    steps: int,
    mesh: Mesh,
    name: str = "",
) -> Fitted:
    """At most `recipe.epochs` of `steps` batches each; stops after `recipe.patience` epochs without a better score.

    The learning rate of the subtree "encoder" of the parameters is `recipe.encoder_lr`, that of all else `recipe.lr`;
    both follow `schedule`. Without `score` the last epoch is returned. A score that is not a number, such as an
    AUROC of a single class, is no better than any other.

    Raises:
        UserError: the loss is not finite.
    """
    rates = {part: recipe.encoder_lr if part == "encoder" else recipe.lr for part in network.params}
    optimisers = {
        part: optax.adamw(schedule(rate, recipe, recipe.epochs * steps), weight_decay=recipe.weight_decay)
        for part, rate in rates.items()
    }
    tx = optax.multi_transform(optimisers, {part: part for part in network.params})
    # Copied: the step donates its arguments, and the caller's weights start the next fit.
    network = jax.jit(lambda x: x)(sharding.put_replicated(network, mesh))
    opt_state = jax.jit(tx.init)(network.params)
    step = _make_step(loss, tx)
    best, started = Fitted(jax.device_get(network), float("nan"), 0), time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for batch in itertools.islice(batches, steps):
            network, opt_state, value = step(network, opt_state, sharding.put_batch(batch, mesh))
            total += float(value)
        if not np.isfinite(total):
            raise UserError(f"{name}: the loss is not finite in epoch {epoch}; try a lower config.lr")
        value = score(network) if score else float("nan")
        most = datetime.timedelta(seconds=round((time.monotonic() - started) / epoch * (recipe.epochs - epoch)))
        place = f"{name}: epoch {epoch} of at most {recipe.epochs}"
        LOG.info("%s, loss %.4f, validation %.4f, left at most %s", place, total / steps, value, most)
        defined = not np.isnan(value)
        if not score or value > best.score or (defined and np.isnan(best.score)):
            best = Fitted(jax.device_get(network), value, epoch)
        elif epoch - best.epoch >= recipe.patience:
            break
    if not best.epoch:  # no validation was ever defined: patience ended it, and the last epoch is as good as any
        best = Fitted(jax.device_get(network), float("nan"), epoch)
    return best._replace(network=sharding.put_replicated(best.network, mesh))


def schedule(rate: float, recipe: FitConfig, steps: int) -> float | optax.Schedule:
    """A learning rate over so many steps: constant, as in MGCA, or after a warm-up falling to 0 along a cosine."""
    warmup = round(recipe.warmup * steps)
    if recipe.cosine:
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, warmup + 1))
    return optax.linear_schedule(0.0, rate, warmup) if warmup else rate


def _make_step(loss: Loss, tx: optax.GradientTransformation) -> Callable[..., tuple[Network, optax.OptState, Array]]:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(network: Network, opt_state: optax.OptState, batch: PyTree) -> tuple[Network, optax.OptState, Array]:
        grad_fn = jax.value_and_grad(lambda params: loss(network._replace(params=params), batch), has_aux=True)
        (value, stats), grads = grad_fn(network.params)
        updates, opt_state = tx.update(grads, opt_state, network.params)
        return Network(optax.apply_updates(network.params, updates), stats), opt_state, value

    return step


def check_batch(batch: int, mesh: Mesh) -> int:
    """The batch, if its rows divide over the devices; raises UserError where they do not."""
    if batch < 1 or batch % mesh.size:
        raise UserError(f"config.batch={batch} does not divide over {mesh.size} devices")
    return batch
