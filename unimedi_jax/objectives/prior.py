"""PRIOR: contrast, local alignment, a memory of sentence prototypes, and each modality rebuilt with the other's help.

PRIOR (Cheng et al., arXiv 2307.12577). Images and reports meet in a global InfoNCE with a learnt temperature, and part
by part in the local alignment module: regions attend to sentences and sentences to regions through sigmoids instead of
a softmax; a region agrees with what it gathers from the sentences as in SimSiam, without negatives, and a sentence
finds what it gathers from the regions among the sentences of its own report by InfoNCE. The sentences are mixtures of a
learnt memory of prototypes (Gumbel softmax; L1 between mixture and sentence trains both). Cross-modality conditional
reconstruction (CCR): pixels from the regions with half of their channels dropped, beside what they gather from the
report (L1); and the report's prototypes from the image by a decoder with 16 learnt queries, in no order: the Hungarian
algorithm pairs them with the sentences (L1), and the memory's shares are compared for each pair (Kullback-Leibler).

Deviations, from the paper or the authors' code:
- sentences: a batch does not mark full stops. `sentences` equal runs of the report's tokens between [CLS] and [SEP]
  stand for them, each the mean of the token vectors; with as many as a report has tokens every token is its own. Long
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

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads, linear, transformer
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, masked, token_runs
from unimedi_jax.typing import Array, Batch, Bool, Float, PyTree, Scalar, Step


class Regions(NamedTuple):
    """An image's tokens after the local alignment."""

    own: Float[Array, "b n e"]
    gathered: Float[Array, "b n e"]  # from the sentences, by attention
    predicted_own: Float[Array, "b n e"]  # SimSiam's predictor on both
    predicted_gathered: Float[Array, "b n e"]


class Sentences(NamedTuple):
    """A report's sentences after the local alignment."""

    own: Float[Array, "b s e"]
    mixtures: Float[Array, "b s e"]  # of the memory's prototypes
    used: Float[Array, "b s e"]  # the mixtures, or the sentences themselves as long as there is no memory
    gathered: Float[Array, "b s e"]  # from the regions, by attention
    logits: Float[Array, "b s p"]  # of the memory's shares in each


class Objective(settings.PRIOR, base.Objective):
    """Global and local alignment, the memory, and the reconstruction of pixels and prototypes."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
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

    def weight(self, loss: str, step: Step) -> Scalar:
        """Losses of later stages weigh 0 until then."""
        begins = {"memory": self.memory_from} | dict.fromkeys(("pixels", "generated", "shares"), self.reconstruct_from)
        weight = super().weight(loss, step)
        return weight * (step >= begins[loss]) if loss in begins else weight

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Image against report over the batch, then each sample's regions against its sentences."""
        pairs = common.encode_pairs(student, batch)
        contrasted = losses.contrastive(
            pairs.z_image, pairs.z_text, 1 / student.head["scale"](), common.studies(batch)
        ).mean(axis=0)
        inner = token_runs.inner(common.reports(batch)[1])
        rows, real = token_runs.means(pairs.reports.words, inner, self.sentences)
        rows, present = common.by_modality(rows, batch), common.by_modality(real, batch)
        keys = common.keys(student.make_rng("draws"), "xray", "ct")
        by_region, sentences, generated = {"region": {}, "pixels": {}}, [], []
        for name, image in pairs.images.items():
            drawn = common.keys(keys[name], "noise", "channels")
            noise = jax.random.gumbel(drawn["noise"], (*present[name].shape, self.prototypes))
            parts = image.patches, rows[name], present[name]
            regions, of_report, memory = student.head["local"](*parts, noise, step >= self.memory_from)
            share = 1 - self.channel_dropout
            channels = jax.random.bernoulli(drawn["channels"], share, regions.own[:, :1].shape)
            rebuilt = student.head[f"pixels_{name}"](jnp.where(channels, regions.own / share, 0), regions.gathered)
            pixels = student.pixels(name, batch[name]["tokens"])
            by_region["region"][name] = disagreement(*regions)
            by_region["pixels"][name] = jnp.mean(jnp.abs(rebuilt.astype(jnp.float32) - pixels), axis=(1, 2))
            generated.append(student.head["generator"](regions.own))
            sentences.append(of_report)
        sentences = jax.tree.map(lambda *x: jnp.concatenate(x), *sentences)
        generated, targets = paired(jnp.concatenate(generated), sentences.mixtures, real)
        scale = student.head["scale_local"]()
        by_report = {
            "vl": contrasted,
            "sentence": own_sentence(sentences.used, sentences.gathered, real, scale),
            "memory": masked.masked_mean(jnp.mean(jnp.abs(sentences.mixtures - sentences.own), axis=-1), real),
            "generated": jnp.mean(jnp.abs(generated - targets), axis=(1, 2)),
            "shares": masked.masked_mean(divergence(sentences.logits, generated @ memory.T), real),
        }
        return base.LossTerms({name: common.by_modality(x, batch) for name, x in by_report.items()} | by_region)


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
        size = self.width, self.dtype
        regions = transformer.dense(patches, *size, "regions")
        sentences = transformer.dense(words, *size, "sentences").astype(jnp.float32)
        memory = self.param("memory", nn.initializers.normal(1.0), (self.prototypes, self.width))
        mixtures, logits = mix(sentences, memory, noise, self.temperature)
        used = jnp.where(use_memory, mixtures, sentences).astype(self.dtype)
        query, key, value = (transformer.dense(regions, *size, f"region_{part}") for part in ("query", "key", "value"))
        asked, keys, values = (transformer.dense(used, *size, f"sentence_{part}") for part in ("query", "key", "value"))
        from_regions = sigmoid_attention(asked, key, value, jnp.ones(regions.shape[:2], bool))
        from_sentences = sigmoid_attention(query, keys, values, real)
        hidden = linear.Dense(self.width // 2, dtype=self.dtype, name="predictor1")
        out = linear.Dense(self.width, dtype=self.dtype, name="predictor2")
        predicted = (out(nn.relu(hidden(x))) for x in (regions, from_sentences.astype(self.dtype)))
        of_report = Sentences(sentences, mixtures, used, from_regions, logits)
        return Regions(regions, from_sentences, *predicted), of_report, memory


class Pixels(nn.Module):
    """A region and what it gathers from the report to the pixels of its patch."""

    pixels: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, regions: Float[Array, "b n e"], gathered: Float[Array, "b n e"]) -> Float[Array, "b n v"]:
        x = jnp.concatenate([regions.astype(self.dtype), gathered.astype(self.dtype)], axis=-1)
        init = transformer.init(x.shape[-1])
        x = linear.gelu(linear.Dense(regions.shape[-1], dtype=self.dtype, kernel_init=init, name="fc1")(x))
        return linear.Dense(self.pixels, dtype=self.dtype, kernel_init=init, name="fc2")(x)


def mix(
    sentences: Float[Array, "b s e"], memory: Float[Array, "p e"], noise: Float[Array, "b s p"], temperature: float
) -> tuple[Float[Array, "b s e"], Float[Array, "b s p"]]:
    """Sentences as mixtures of the memory's prototypes, and the logits of the shares before the (Gumbel) noise."""
    logits = sentences @ memory.T
    return jax.nn.softmax((logits + noise) / temperature) @ memory, logits


def sigmoid_attention(
    query: Float[Array, "b m e"], key: Float[Array, "b k e"], value: Float[Array, "b k e"], mask: Bool[Array, "b k"]
) -> Float[Array, "b m e"]:
    """Every key counts by itself: sigmoids of the scaled products, which need not sum to 1. Float32."""
    logits = jnp.einsum("bme,bke->bmk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    weights = (jax.nn.sigmoid(logits) * mask[:, None]).astype(value.dtype)
    return jnp.einsum("bmk,bke->bme", weights, value, preferred_element_type=jnp.float32)


def disagreement(
    one: Float[Array, "b n e"],
    other: Float[Array, "b n e"],
    predicted_one: Float[Array, "b n e"],
    predicted_other: Float[Array, "b n e"],
) -> Float[Array, " b"]:
    """SimSiam (arXiv 2011.10566, eq. 2): minus the cosine of each prediction to the other side, without gradient."""

    def cosine(predicted: Array, target: Array) -> Array:
        return jnp.sum(heads.unit(predicted) * heads.unit(jax.lax.stop_gradient(target)), axis=-1)

    return -jnp.mean(cosine(predicted_one, other) + cosine(predicted_other, one), axis=1) / 2


def own_sentence(
    sentences: Float[Array, "b s e"], gathered: Float[Array, "b s e"], real: Bool[Array, "b s"], scale: Scalar
) -> Float[Array, " b"]:
    """Symmetric InfoNCE between each sentence and what it gathers from the image, among those of its report."""
    logits = scale * jnp.einsum("bse,bte->bst", heads.unit(gathered), heads.unit(sentences))

    def one_way(logits: Float[Array, "b s t"]) -> Float[Array, "b s"]:
        logits = jnp.where(real[:, None], logits, jnp.finfo(logits.dtype).min)
        return -jnp.diagonal(jax.nn.log_softmax(logits), axis1=1, axis2=2)

    return masked.masked_mean((one_way(logits) + one_way(jnp.swapaxes(logits, 1, 2))) / 2, real)


def paired(
    generated: Float[Array, "b s e"], mixtures: Float[Array, "b s e"], real: Bool[Array, "b s"]
) -> tuple[Float[Array, "b s e"], Float[Array, "b s e"]]:
    """The generated prototypes in the order of the sentences they fit best (least L1 in all), and these sentences.

    An absent sentence is 0. The sentences are targets and get no gradient. Float32.
    """
    generated = generated.astype(jnp.float32)
    target = jax.lax.stop_gradient(jnp.where(real[..., None], mixtures, 0.0))
    cost = jnp.sum(jnp.abs(jax.lax.stop_gradient(generated)[:, :, None] - target[:, None]), axis=-1)
    # The algorithm would not come to an end on NaN; the step is skipped all the same, for the loss has it.
    rows, columns = jax.vmap(optax.assignment.hungarian_algorithm)(jnp.nan_to_num(cost))
    order = jnp.take_along_axis(rows, jnp.argsort(columns, axis=1), axis=1)
    return jnp.take_along_axis(generated, order[..., None], axis=1), target


def divergence(target: Float[Array, "b s p"], logits: Float[Array, "b s p"]) -> Float[Array, "b s"]:
    """Kullback-Leibler divergence of the shares that `logits` give from those of `target`, which gets no gradient."""
    target = jax.nn.log_softmax(jax.lax.stop_gradient(target))
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(logits)), axis=-1)
