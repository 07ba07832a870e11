"""PRIOR: contrast, local alignment, a memory of sentence prototypes, and each modality rebuilt with the other's help.

PRIOR (Cheng et al., arXiv 2307.12577). Images and reports meet in a global InfoNCE with a learnt temperature, and part
by part in the local alignment module: regions attend to sentences and sentences to regions through sigmoids instead of
a softmax; a region agrees with what the sentences say of it as in SimSiam, without negatives, and a sentence finds what
the regions say of it among the sentences of its own report by InfoNCE. The sentences are mixtures of a learnt memory of
prototypes (Gumbel softmax; L1 between mixture and sentence trains both). Cross-modality conditional reconstruction
(CCR): pixels from the regions with half of their channels dropped, beside what the report says of them (L1); and the
report's prototypes from the image by a decoder with 16 learnt queries, in no order: the Hungarian algorithm pairs them
with the sentences (L1), and the memory's shares are compared for each pair (Kullback-Leibler).

Deviations, from the paper or the authors' code:
- sentences: a batch says nothing of full stops. `sentences` equal runs of the report's tokens between [CLS] and [SEP]
  stand for them, each the mean of the token vectors; as many as a report has tokens make every token its own. Long
  reports are not cut;
- the global contrast is of CLS and the report tower's vector through `config.model.projection`, which evaluation knows;
  the authors pool regions and prototypes by attention. With that goes the contrast of the generated prototypes, pooled,
  against the report;
- the pixels of a patch come from its own region by two dense layers; the authors' five-block convolutional decoder
  looks around. The decoder of prototypes is the pre-norm one of `models.heads`; theirs is BERT's, of as many layers;
- what is generated has targets without gradient, the mixtures and their shares; the memory, with which its own shares
  are taken, learns from them, as in the authors' code;
- means over a report's sentences, then over reports, where the authors' are over all sentences of the batch;
- the authors' three stages (20, 30 and 100 epochs: alignment of sentences; with the memory; with CCR) are
  `memory_from` and `reconstruct_from`, in steps; at 0 all begins together, with the weights of the third stage (10 for
  the global contrast, 1 before). The temperatures may not fall below 0.001, theirs have no bound.
CTs go in as their volume's tokens, beside the X-rays of the batch.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.models import heads, linear, towers, transformer, vision
from unimedi_jax.objectives import base, common, masked, prior_losses
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """Global and local alignment, the memory, and the reconstruction of pixels and prototypes."""

    temperature: float = 0.01  # where both of them start: global and within a report
    sentences: int = 16  # runs of tokens that stand for a report's sentences; queries of the decoder
    prototypes: int = 512
    memory_temperature: float = 0.9  # of the Gumbel softmax
    channel_dropout: float = 0.5  # of the regions that pixels are rebuilt from
    depth: int = 8  # of the decoder of prototypes
    attention_heads: int = 12
    memory_from: int = 0  # step from which prototypes take the place of sentences
    reconstruct_from: int = 0  # step from which CCR counts
    weight_vl: float = 10.0
    weight_region: float = 1.0
    weight_sentence: float = 1.0
    weight_memory: float = 10.0
    weight_pixels: float = 1.0
    weight_generated: float = 10.0
    weight_shares: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.memory_temperature <= 0:
            raise ValueError("temperature and memory_temperature are above 0")
        if not 0 <= self.channel_dropout < 1:
            raise ValueError(f"channel_dropout is at least 0 and below 1, not {self.channel_dropout}")
        if min(self.sentences, self.prototypes, self.depth) < 1:
            raise ValueError("sentences, prototypes and depth are at least 1")
        if self.reconstruct_from < self.memory_from:
            raise ValueError("reconstruct_from is at least memory_from: what is generated are mixtures of the memory")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """Local alignment with the memory, the decoders, and both temperatures. All as wide as the vision tower."""
        width, dtype = model.vision.width, model.vision.dtype
        return {
            "local": Local(width, self.prototypes, self.memory_temperature, dtype),
            "pixels_xray": Pixels(math.prod(model.image_patch), dtype),
            "pixels_ct": Pixels(math.prod(model.volume_patch), dtype),
            "generator": heads.QueryDecoder(width, self.depth, self.attention_heads, self.sentences, dtype=dtype),
            "scale": heads.Scale(1 / self.temperature, 1000.0),
            "scale_local": heads.Scale(1 / self.temperature, 1000.0),
        }

    def loss(
        self,
        params: Params,
        teacher: Params,
        stats: PyTree,
        batch: Batch,
        key: Key[Array, ""],
        step: Int[Array, ""],
        *,
        model: towers.UniMedI,
    ) -> base.Loss:
        """Image against report over the batch, then what each sample's regions and sentences say to each other."""
        keys = common.keys(key, "dropout", "xray", "ct")
        seen, read, z_image, z_text, batch_stats = common.pair(params, stats, batch, keys["dropout"], model=model)
        scale = common.through("scale", params, model=model)
        contrasted = losses.contrastive(z_image, z_text, 1 / scale).mean(axis=0)
        inner = prior_losses.inner(common.reports(batch)[1])
        sentences, real = prior_losses.runs(read.words, inner, self.sentences)
        local, told = self._align(params, batch, seen, sentences, real, keys, step, model=model)
        parts = {
            "vl": common.by_modality(contrasted, batch),
            **local,
            **{name: common.by_modality(each, batch) for name, each in told.items()},
        }
        return common.with_total(parts, self._weights(step), {"batch_stats": batch_stats})

    def _weights(self, step: Int[Array, ""]) -> dict[str, Array | float]:
        """Of every loss at a step; those of later stages are 0 until then."""
        memory = step >= self.memory_from
        rebuilt = step >= self.reconstruct_from
        return {
            "vl": self.weight_vl,
            "region": self.weight_region,
            "sentence": self.weight_sentence,
            "memory": self.weight_memory * memory,
            "pixels": self.weight_pixels * rebuilt,
            "generated": self.weight_generated * rebuilt,
            "shares": self.weight_shares * rebuilt,
        }

    def _align(
        self,
        params: Params,
        batch: Batch,
        seen: dict[str, vision.Encoded],
        sentences: Float[Array, "b s w"],
        real: Bool[Array, "b s"],
        keys: dict[str, Key[Array, ""]],
        step: Int[Array, ""],
        *,
        model: towers.UniMedI,
    ) -> tuple[common.Parts, dict[str, Float[Array, " b"]]]:
        """The losses on regions, modality by modality, and those on sentences, of the whole batch."""

        def through(head: str, *x: Any) -> Any:
            return common.through(head, params, *x, model=model)

        own, there = (common.by_modality(x, batch) for x in (sentences, real))
        parts, of_sentences, generated = {"region": {}, "pixels": {}}, [], []
        for name, view in seen.items():
            drawn = common.keys(keys[name], "noise", "channels")
            noise = jax.random.gumbel(drawn["noise"], (*there[name].shape, self.prototypes))
            regions, told, memory = through(
                "local", view.patches, own[name], there[name], noise, step >= self.memory_from
            )
            kept = jax.random.bernoulli(drawn["channels"], 1 - self.channel_dropout, regions.own[:, :1].shape)
            left = jnp.where(kept, regions.own / (1 - self.channel_dropout), 0)
            rebuilt = through(f"pixels_{name}", left, regions.told).astype(jnp.float32)
            pixels = model.apply({"params": params}, name, batch[name]["tokens"], method="pixels")
            parts["region"][name] = prior_losses.disagreement(*regions)
            parts["pixels"][name] = jnp.mean(jnp.abs(rebuilt - pixels), axis=(1, 2))
            generated.append(through("generator", regions.own))
            of_sentences.append(told)
        told = jax.tree.map(lambda *x: jnp.concatenate(x), *of_sentences)
        generated, targets = prior_losses.paired(jnp.concatenate(generated), told.mixtures, real)
        return parts, {
            "sentence": prior_losses.own_sentence(told.used, told.shown, real, through("scale_local")),
            "memory": masked.over(jnp.mean(jnp.abs(told.mixtures - told.own), axis=-1), real),
            "generated": jnp.mean(jnp.abs(generated - targets), axis=(1, 2)),
            "shares": masked.over(prior_losses.divergence(told.logits, generated @ memory.T), real),
        }


class Regions(NamedTuple):
    """What the local alignment makes of an image's tokens."""

    own: Float[Array, "b n e"]
    told: Float[Array, "b n e"]  # what the sentences say of each
    predicted_own: Float[Array, "b n e"]  # SimSiam's predictor on both
    predicted_told: Float[Array, "b n e"]


class Sentences(NamedTuple):
    """What it makes of a report's sentences."""

    own: Float[Array, "b s e"]
    mixtures: Float[Array, "b s e"]  # of the memory's prototypes
    used: Float[Array, "b s e"]  # the mixtures, or the sentences themselves as long as there is no memory
    shown: Float[Array, "b s e"]  # what the regions say of each
    logits: Float[Array, "b s p"]  # of the memory's shares in each


class Local(nn.Module):
    """Regions and sentences in one space, the attention of each to the other, and the memory of prototypes."""

    width: int
    prototypes: int
    temperature: float  # of the Gumbel softmax
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "b n d"],
        words: Float[Array, "b s w"],
        real: Bool[Array, "b s"],
        noise: Float[Array, "b s p"],
        use_memory: Bool[Array, ""],
    ) -> tuple[Regions, Sentences, Float[Array, "p e"]]:
        def dense(name: str, x: Array) -> Array:
            return linear.Dense(self.width, dtype=self.dtype, kernel_init=transformer.init(x.shape[-1]), name=name)(x)

        regions = dense("regions", patches)
        sentences = dense("sentences", words).astype(jnp.float32)
        memory = self.param("memory", nn.initializers.normal(1.0), (self.prototypes, self.width))
        mixtures, logits = prior_losses.mix(sentences, memory, noise, self.temperature)
        used = jnp.where(use_memory, mixtures, sentences).astype(self.dtype)
        query, key, value = (dense(f"region_{part}", regions) for part in ("query", "key", "value"))
        asked, told, said = (dense(f"sentence_{part}", used) for part in ("query", "key", "value"))
        shown = prior_losses.sigmoid_attention(asked, key, value, jnp.ones(regions.shape[:2], bool))
        regions_told = prior_losses.sigmoid_attention(query, told, said, real)
        hidden = linear.Dense(self.width // 2, dtype=self.dtype, name="predictor1")
        out = linear.Dense(self.width, dtype=self.dtype, name="predictor2")
        predicted = (out(nn.relu(hidden(x))) for x in (regions, regions_told.astype(self.dtype)))
        return (Regions(regions, regions_told, *predicted), Sentences(sentences, mixtures, used, shown, logits), memory)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        shape = words.shape[:2]
        self(patches, words, jnp.ones(shape, bool), jnp.zeros((*shape, self.prototypes)), jnp.array(True))


class Pixels(nn.Module):
    """A region and what the report says of it to the pixels of its patch."""

    pixels: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, regions: Float[Array, "b n e"], told: Float[Array, "b n e"]) -> Float[Array, "b n v"]:
        x = jnp.concatenate([regions.astype(self.dtype), told.astype(self.dtype)], axis=-1)
        init = transformer.init(x.shape[-1])
        x = linear.gelu(linear.Dense(regions.shape[-1], dtype=self.dtype, kernel_init=init, name="fc1")(x))
        return linear.Dense(self.pixels, dtype=self.dtype, kernel_init=init, name="fc2")(x)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self(patches, patches)
