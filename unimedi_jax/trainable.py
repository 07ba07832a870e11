"""What trains and what does not, by path rules: a tree of what trains alone is split off, and joined again.

Layers that are one stacked array have names of their own, `vision/trunk/blocks/11/mlp/fc1/kernel`, so that a rule may
take the last of them. Gradients and optimiser state exist for the split tree alone.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util
from jax import numpy as jnp

from unimedi_jax import lora, trees
from unimedi_jax.config.trainable import Choice, Rules, parse
from unimedi_jax.typing import Array, Key, Params, PyTree

STACK = re.compile(r"/(blocks|layers)/")  # of arrays with a leading axis for the layers
TOWER = re.compile(r"(^|.*/)(vision|report)/")
EVERY = slice(None)  # all layers of a stack, or an array that is none


@dataclasses.dataclass(frozen=True)
class Partition:
    """Which parameters train: for each path a choice, or one a layer of a stack; no paths: all of them as usual."""

    choices: Mapping[str, tuple[Choice, ...]] = dataclasses.field(default_factory=dict)

    def split(self, params: Params) -> Params:
        """What trains: whole arrays, the layers of stacks that do, and the adapters' matrices."""
        if not self.choices:
            return params
        flat, trained = _flat(params), {}
        for name, choices in self.choices.items():
            if (rows := _rows(choices, "full")) is not None:
                trained[name] = flat[name] if rows is EVERY else flat[name][rows]
        trained |= {name: x for name, x in flat.items() if _of_adapter(name)}
        return traverse_util.unflatten_dict(trained, sep="/")

    def join(self, params: Params, trained: Params) -> Params:
        """`params` with what has trained in place; the inverse of `split`."""
        if not self.choices:
            return trained
        flat, changes = _flat(params), _flat(trained)
        for name, x in changes.items():
            rows = EVERY if name.startswith(f"{lora.KEY}/") else _rows(self.choices[name], "full")
            flat[name] = x if rows is EVERY else flat[name].at[rows].set(x)
        return traverse_util.unflatten_dict(flat, sep="/")

    def with_adapters(self, params: Params, key: Key[Array, ""]) -> Params:
        """`params` with fresh adapters beside them, where a rule asks for any."""
        chosen = {name: rows for name, choices in self.choices.items() if (rows := _rows(choices, "lora")) is not None}
        if not chosen:
            return params
        flat, adapters = _flat(params), {}
        for (name, rows), own in zip(chosen.items(), jax.random.split(key, len(chosen)), strict=True):
            one = next(choice for choice in self.choices[name] if choice.kind == "lora")
            layers = np.arange(len(self.choices[name]))[rows] if STACK.search(name) else None
            adapters[name] = lora.create(flat[name], one.rank, one.alpha, own, layers)
        return {**params, lora.KEY: traverse_util.unflatten_dict(adapters, sep="/")}

    def trains(self, start: str) -> bool:
        """Whether any parameter whose path begins so trains itself, and not only its adapter."""
        paths = {name: choices for name, choices in self.choices.items() if name.startswith(start)}
        return not self.choices or any(_rows(choices, "full") is not None for choices in paths.values())

    def rates(self, trained: PyTree, layer_decay: float = 1.0) -> PyTree:
        """What the learning rate of each array that trains is multiplied by: numbers, or one for each of its layers.

        `layer_decay` is the factor from each layer of a tower to the one below (BEiT, arXiv 2106.08254, section 3.2):
        1 for what stands above the last layer, `layer_decay` for that, and so on, down to the embeddings.
        """
        depths = {_tower(name): x for name, x in self._depths.items()}

        def rate(path: str, x: Any) -> Any:
            name = path.removeprefix(f"{lora.KEY}/").rsplit("/", 1)[0] if _of_adapter(path) else path
            choices = self.choices[name]
            rows = _rows(choices, "lora" if _of_adapter(path) else "full")
            depth = depths.get(_tower(name), 0)
            below = [max(depth - i, 0) for i in range(len(choices))] if len(choices) > 1 else [_below(name, depth)]
            factors = np.array([one.lr * layer_decay**n for one, n in zip(choices, below, strict=True)], np.float32)
            chosen = factors[rows]
            return chosen[0] if len(chosen) == 1 else chosen.reshape(-1, *(1,) * (x.ndim - 1))

        return trees.map_with_name(rate, trained)

    @property
    def _depths(self) -> dict[str, int]:
        """Layers of the stacks."""
        return {name: len(choices) for name, choices in self.choices.items() if STACK.search(name)}


EVERYTHING = Partition()


def partition(rules: Rules, params: PyTree) -> Partition:
    """The partition of a tree of arrays, or of what stands for them, by `config.trainable`'s rules: first match wins.

    Raises:
        ValueError: no rule matches a parameter, a rule matches none, or lora is asked for what is no dense kernel.
    """
    shapes = {name: shape for name, (shape, _) in trees.shapes(params).items()}
    layered = {name: _layers(name, shape) for name, shape in shapes.items()}
    every = [one for layers in layered.values() for one in layers]
    choice = trees.match([(pattern, parse(text)) for pattern, text in rules], every, "trainable")
    choices = {name: tuple(choice[one] for one in layers) for name, layers in layered.items()}
    for name, several in choices.items():
        _check_adapters(name, shapes[name], {(one.rank, one.alpha) for one in several if one.kind == "lora"})
    if not any(one.kind != "frozen" for several in choices.values() for one in several):
        raise ValueError("trainable rules freeze every parameter: nothing would train")
    return Partition(choices)


def scaled(tx: optax.GradientTransformation, rates: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """`tx`, its updates times `rates(updates)`: learning rates, as AdamW's decay is part of the update."""

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        return jax.tree.map(lambda x, rate: x * jnp.broadcast_to(rate, x.shape), updates, rates(updates))

    return optax.chain(tx, optax.stateless(scale))


def _flat(params: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _of_adapter(name: str) -> bool:
    """Whether a path is that of an adapter's matrix."""
    return name.startswith(f"{lora.KEY}/") and name.endswith(lora.TRAINED)


def _layers(name: str, shape: tuple[int, ...]) -> list[str]:
    """A path, or those of the layers of a stack."""
    if not STACK.search(name):
        return [name]
    return [STACK.sub(rf"/\1/{layer}/", name, count=1) for layer in range(shape[0])]


def _rows(choices: tuple[Choice, ...], kind: str) -> Any:
    """The layers of a kind: EVERY, their numbers, or None where there are none."""
    rows = [i for i, one in enumerate(choices) if one.kind == kind]
    if not rows:
        return None
    return EVERY if len(rows) == len(choices) else np.array(rows)


def _tower(name: str) -> str:
    match = TOWER.match(name)
    return match[0] if match else ""


def _below(name: str, depth: int) -> int:
    """Steps down from the top to what is no stack: the last norm goes with the last layer, as in timm."""
    if not _tower(name):
        return 0
    return 1 if "/trunk/" in name else depth + 1


def _check_adapters(name: str, shape: tuple[int, ...], settings: set[tuple[int, float]]) -> None:
    if not settings:
        return
    own = shape[1:] if STACK.search(name) else shape
    if not name.endswith("kernel") or len(own) != 2:
        raise ValueError(f"{name} is no dense kernel, and lora takes no other: end the rule with 'kernel$'")
    if len(settings) > 1:
        raise ValueError(f"layers of {name} have adapters of several ranks or alphas, in one array: give them the same")
    if (rank := next(iter(settings))[0]) > min(own):
        raise ValueError(f"lora:rank={rank} is more than {name} of {own} has: at most {min(own)}")
