"""A downstream network's arrays: the pretrained encoder and a fresh head or decoder on it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from unimedi_jax import lora
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.typing import Params, PyTree

BASELINE = "slice_baseline"  # the one part of an encoder's running statistics that its CLS depends on


class Network(NamedTuple):
    """What is trained and what is not."""

    params: PyTree  # "decoder", "encoder" where it is fine-tuned, and adapters of both (lora.KEY) where there are any
    stats: PyTree  # BatchNorm's running statistics, "encoder" where it is frozen, "encoder_stats" where it has some

    @property
    def encoder(self) -> Params:
        """Parameters of the vision tower, under "vision", with their adapters in them."""
        return lora.merge({**self.stats, **self.params})["encoder"]

    @property
    def decoder(self) -> Params:
        """Parameters of the head or decoder."""
        return lora.merge({**self.stats, **self.params})["decoder"]

    def without_encoder(self) -> "Network":
        """The same, its encoder among what is not trained: that of the checkpoint, whatever adapters add to it."""
        params = {name: part for name, part in self.params.items() if name != "encoder"}
        return Network(params, {**self.stats, "encoder": self.params["encoder"]})

    @property
    def encoder_stats(self) -> PyTree:
        """The running mean of its slices' scores, where it has one."""
        return self.stats.get("encoder_stats", {})


def start(pretrained: Pretrained, encoder: str, decoder: Mapping[str, PyTree], *, frozen: bool) -> Network:
    """The "trained" or "untrained" encoder under a decoder of these variables."""
    params, stats = {"decoder": decoder["params"]}, {name: x for name, x in decoder.items() if name != "params"}
    variables = pretrained.encoder(encoder)
    (stats if frozen else params)["encoder"] = {"vision": variables["params"]["vision"]}
    if BASELINE in variables["batch_stats"]:
        stats["encoder_stats"] = {BASELINE: variables["batch_stats"][BASELINE]}
    return Network(params, stats)


def decode(decoder: nn.Module, network: Network, *inputs: Any, train: bool) -> tuple[Any, PyTree]:
    """The decoder's output, and the network's `stats` with BatchNorm's new statistics, where it has any."""
    stats = {name: x for name, x in network.stats.items() if not name.startswith("encoder")}
    variables = {"params": network.decoder, **stats}
    if not (train and stats):
        return decoder.apply(variables, *inputs), network.stats
    output, updates = decoder.apply(variables, *inputs, train=True, mutable=list(stats))
    return output, {**network.stats, **updates}
