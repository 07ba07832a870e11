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
from unimedi_jax import lora, sharding, trainable, trees
from unimedi_jax.config import trainable as rules
from unimedi_jax.config.recipes import FitConfig
from unimedi_jax.evaluation import draws
from unimedi_jax.evaluation import plateau as plateaus
from unimedi_jax.evaluation.network import Network
from unimedi_jax.evaluation.trials import Trial
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.input import supervised
from unimedi_jax.typing import Array, PyTree

LOG = logging.getLogger(__name__)
Loss = Callable[[Network, PyTree], tuple[Array, PyTree]]
ENCODER = "encoder/"  # how the paths of its parameters start


class Keys(NamedTuple):
    """How a job calls the settings of a recipe, for messages."""

    lr: str
    batch: str


def keys(section: str) -> Keys:
    """Those of a recipe that is a section of the job's settings."""
    return Keys(f"config.{section}.lr", f"config.{section}.batch")


class Task(Protocol):
    """A downstream network, and the annotated cases that train and test it."""

    pretrained: Pretrained
    name: str  # for the log
    recipe: FitConfig
    keys: Keys  # of the recipe
    trainable: rules.Rules  # what trains of the parameters of `start`
    cases: Mapping[str, Sequence[int]]  # rows of the records of each split
    strata: np.ndarray  # (n, c) labels of the training cases, of which a share has its proportions
    sampler: supervised.Sampler

    def source(self, split: str) -> Sequence[dict[str, Any]]:
        """The records of a split."""

    def start(self, trial: Trial) -> Network:
        """The network before any step."""

    def loss(self, network: Network, batch: PyTree) -> tuple[Array, PyTree]:
        """Loss of a batch, and the network's new `stats`."""

    def predict(self, network: Network, batch: PyTree) -> Any:
        """Jitted: what the network says of the `supervised.INPUTS` of a batch, as arrays whose rows are cases."""

    def score(self, network: Network) -> float:
        """How good the network is on the validation cases: higher is better."""


class Loop(NamedTuple):
    """What a fit runs on."""

    steps: int  # of all epochs, which share them evenly
    mesh: Mesh
    name: str = ""  # for the log
    partition: trainable.Partition = trainable.EVERYTHING
    lr: str = "lr"  # how the job calls the learning rate


class Fitted(NamedTuple):
    """The network at its best epoch."""

    network: Network
    score: float  # on the validation patients; NaN where there are none
    epoch: int


Draw = Callable[..., np.ndarray]  # (labels, share, seed=): rows of the training cases


def train(task: Task, trial: Trial, draw: Draw = draws.stratified) -> Network:
    """The network of a task, trained on a share of its training cases, which `draw` draws.

    Raises:
        UserError: the batch does not divide over the devices, a rule fits no parameter, or the loss is not finite.
    """
    recipe, mesh = task.recipe, task.pretrained.mesh
    batch = check_batch(recipe.batch, mesh, task.keys.batch)
    cases = [task.cases["train"][i] for i in draw(task.strata, trial.share, seed=trial.seed)]
    batches = supervised.training(task.source("train"), task.sampler, cases, batch, seed=trial.seed)
    score = task.score if task.cases["val"] else None
    start, partition = prepared(task.start(trial), task.trainable, recipe, trial.seed)
    steps = recipe.epochs * max(1, len(cases) // batch)
    loop = Loop(steps, mesh, f"{task.name}, {trial}", partition, task.keys.lr)
    return trimmed(fit(start, task.loss, batches, score, recipe, loop).network, partition)


def prepared(start: Network, asked: rules.Rules, recipe: FitConfig, seed: int) -> tuple[Network, trainable.Partition]:
    """The network with the adapters that `config.trainable` asks for, and what trains of it. Raises UserError."""
    if asked == rules.EVERYTHING and recipe.layer_decay == 1:
        return start, trainable.EVERYTHING
    partition = _partition(asked, start)
    return start._replace(params=jax.jit(partition.with_adapters)(start.params, jax.random.key(seed))), partition


def trimmed(network: Network, partition: trainable.Partition) -> Network:
    """The network without its copy of an encoder that nothing has changed."""
    frozen = "encoder" in network.params and not partition.trains(ENCODER)
    return network.without_encoder() if frozen else network


def _partition(asked: rules.Rules, start: Network) -> trainable.Partition:
    try:
        return trainable.partition(asked, start.params)
    except ValueError as error:
        raise UserError(f"config.trainable: {error}") from error


def predictions(task: Task, split: str, network: Network) -> Iterator[Any]:
    """What the network says of each case of a split, in order, as host arrays."""
    source, mesh, rows = task.source(split), task.pretrained.mesh, task.cases[split]
    with progress.shown(len(rows), f"cases of {split}") as tick:
        for batch, real in supervised.evaluation(source, task.sampler, task.recipe.batch, rows):
            inputs = {name: batch[name] for name in supervised.INPUTS if name in batch}
            output = jax.device_get(task.predict(network, sharding.put_batch(inputs, mesh)))
            yield from (jax.tree.map(lambda x, row=row: x[row], output) for row in range(real))
            tick(real)


def fit(
    network: Network,
    loss: Loss,
    batches: Iterator[dict[str, np.ndarray]],
    score: Callable[[Network], float] | None,
    recipe: FitConfig,
    loop: Loop,
) -> Fitted:
    """`loop.steps` batches in `recipe.epochs`, or fewer: ends `recipe.patience` epochs after the best score.

    The learning rate of the subtree "encoder" of the parameters is `recipe.encoder_lr`, that of all else `recipe.lr`;
    both follow `schedule`, and `plateau.py` where the recipe says so. What `loop.partition` freezes stays, without
    optimiser state.

    Without `score` the last epoch is returned. A score that is not a number, such as an
    AUROC of a single class, is no better than any other.

    Raises:
        UserError: the loss is not finite.
    """
    steps, mesh, name, partition, lr = loop
    tx = optimiser(recipe, partition, steps)
    ends = np.arange(recipe.epochs + 1) * steps // recipe.epochs
    # Copied: the step donates its arguments, and the caller's weights start the next fit.
    network = jax.jit(lambda x: x)(sharding.put_replicated(network, mesh))
    opt_state = jax.jit(lambda params: tx.init(partition.split(params)))(network.params)
    step = _make_step(loss, tx, partition)
    plateau = plateaus.Plateau(recipe.plateau)
    best, started = Fitted(jax.device_get(network), float("nan"), 0), time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        total, count = 0.0, int(ends[epoch] - ends[epoch - 1])
        with progress.shown(count, f"steps of epoch {epoch}") as tick:
            for batch in itertools.islice(batches, count):
                network, opt_state, value = step(network, opt_state, sharding.put_batch(batch, mesh))
                total += float(value)
                tick(1)
        if not np.isfinite(total):
            raise UserError(f"{name}: the loss is not finite in epoch {epoch}; try a lower {lr}")
        value = score(network) if score else float("nan")
        most = datetime.timedelta(seconds=round((time.monotonic() - started) / epoch * (recipe.epochs - epoch)))
        place = f"{name}: epoch {epoch} of at most {recipe.epochs}"
        LOG.info("%s, loss %.4f, validation %.4f, at most %s left", place, total / count, value, most)
        defined = not np.isnan(value)
        if not score or value > best.score or (defined and np.isnan(best.score)):
            best = Fitted(jax.device_get(network), value, epoch)
        elif epoch - best.epoch >= recipe.patience:
            break
        if recipe.plateau:
            plateau = plateau.after(value)
            opt_state = plateaus.set_scale(opt_state, plateau.scale)
    if not best.epoch:  # no validation was ever defined: patience ended it, and the last epoch is as good as any
        best = Fitted(jax.device_get(network), float("nan"), epoch)
    return best._replace(network=sharding.put_replicated(best.network, mesh))


def schedule(rate: float, recipe: FitConfig, steps: int) -> float | optax.Schedule:
    """A learning rate over so many steps: constant, as in MGCA, or after a warm-up falling to 0 along a cosine."""
    warmup = round(recipe.warmup * steps)
    if recipe.cosine:
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, warmup + 1))
    return optax.linear_schedule(0.0, rate, warmup) if warmup else rate


def optimiser(recipe: FitConfig, partition: trainable.Partition, steps: int) -> optax.GradientTransformation:
    """AdamW at the encoder's rate and at that of all else, adapters included, times the rates of the partition."""

    def part(name: str, _: Any) -> str:
        return "encoder" if name.removeprefix(f"{lora.KEY}/").startswith(ENCODER) else "decoder"

    rates = {"encoder": recipe.encoder_lr, "decoder": recipe.lr}
    optimisers = {
        name: optax.adamw(schedule(rate, recipe, steps), weight_decay=recipe.weight_decay)
        for name, rate in rates.items()
    }
    tx = optax.multi_transform(optimisers, functools.partial(trees.map_with_name, part))
    if recipe.l2:
        tx = optax.chain(optax.add_decayed_weights(recipe.l2), tx)
    if recipe.plateau:
        tx = optax.chain(tx, plateaus.by_state())
    if not partition.choices:
        return tx
    return trainable.scaled(tx, functools.partial(partition.rates, layer_decay=recipe.layer_decay))


def _make_step(
    loss: Loss, tx: optax.GradientTransformation, partition: trainable.Partition
) -> Callable[..., tuple[Network, optax.OptState, Array]]:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(network: Network, opt_state: optax.OptState, batch: PyTree) -> tuple[Network, optax.OptState, Array]:
        def of_trained(trained: PyTree) -> tuple[Array, PyTree]:
            return loss(network._replace(params=partition.join(network.params, trained)), batch)

        trained = partition.split(network.params)
        (value, stats), grads = jax.value_and_grad(of_trained, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, opt_state, trained)
        params = partition.join(network.params, optax.apply_updates(trained, updates))
        return Network(params, stats), opt_state, value

    return step


def check_batch(batch: int, mesh: Mesh, key: str) -> int:
    """The batch, if its rows divide over the devices; raises UserError where they do not, with the setting's `key`."""
    if batch < 1 or batch % mesh.size:
        raise UserError(f"{key}={batch} does not divide over {mesh.size} devices: choose a multiple")
    return batch
