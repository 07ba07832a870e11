"""UniMedI's image-report losses beside the plain contrast: which samples meet, and sentences against patches.

Sentences against patches follow RadZero (arXiv 2504.07416): a sentence attends to the patches of an image by its
cosines with them, and its cosine with what it gathers is the logit of the pair. A sentence has one image of its own; an
image has several sentences, each of which is contrasted with those of other reports alone.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp

from unimedi_jax import placement
from unimedi_jax.losses import NOWHERE
from unimedi_jax.models import heads
from unimedi_jax.objectives import common, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, PyTree


class Reports(NamedTuple):
    """The reports of a batch, modality after modality, as they are compared with images."""

    vector: Float[Array, "b w"]
    other: Float[Array, "b w"] | None = None  # of their other halves
    negated: Float[Array, "b w"] | None = None  # of the reports turned into their opposite
    sentences: Float[Array, "b s e"] | None = None


def by_group(rows: PyTree, batch: Batch, within_modality: bool) -> dict[str, PyTree]:
    """Rows of a joined batch in the groups whose samples meet: all of them, under the name "", or each modality."""
    if not within_modality:
        return {"": rows}

    def of(name: str) -> PyTree:
        return jax.tree.map(lambda x: common.by_modality(x, batch)[name], rows)

    return {name: of(name) for name in common.modalities(batch)}


def by_modality(each: dict[str, Float[Array, " _"]], batch: Batch) -> dict[str, Float[Array, " _"]]:
    """Values of the groups of `by_group` by modality."""
    return common.by_modality(each[""], batch) if "" in each else each


def sentence_logits(
    regions: Float[Array, "b n e"], sentences: Float[Array, "c s e"], temperature: float, chunk: int
) -> Float[Array, "b c s"]:
    """For each image and each sentence: the cosine of the sentence with the patches it attends to, over temperature.

    The attention of `chunk` reports over all images exists at a time, forward and backward.
    """
    regions = heads.unit(regions)

    def of_report(sentences: Float[Array, "s e"]) -> Float[Array, "b s"]:
        cosine = jnp.einsum("bne,se->bns", regions, sentences)
        gathered = jnp.einsum("bns,bne->bse", jax.nn.softmax(cosine / temperature, axis=1), regions)
        return jnp.sum(heads.unit(gathered) * sentences[None], axis=-1) / temperature

    reports = placement.replicate(heads.unit(sentences))  # gathered once, before the loop
    each = jax.checkpoint(of_report, prevent_cse=False)
    return jnp.swapaxes(jax.lax.map(each, reports, batch_size=min(chunk, len(reports))), 0, 1)


def sentence_contrast(
    logits: Float[Array, "b b s"], real: Bool[Array, "b s"], same: Int[Array, " b"] | None = None
) -> Float[Array, " b"]:
    """Each sentence among the images, and each image's sentence among those of other reports; means over sentences.

    Samples with the same number in `same` are left out of each other's negatives. A report without sentences has a loss
    of 0.
    """
    batch = len(logits)
    own = logits[jnp.arange(batch), jnp.arange(batch)]
    alone = jnp.eye(batch, dtype=bool)[..., None]
    apart = ~alone if same is None else (same[:, None] != same[None])[..., None]
    among_images = jax.nn.logsumexp(logits, axis=0, where=None if same is None else apart | alone) - own
    others = jnp.where(real[None] & apart, logits, NOWHERE)
    against = jax.nn.logsumexp(others, axis=(1, 2))[:, None]
    among_sentences = jnp.logaddexp(own, against) - own
    return masked.masked_mean((among_images + among_sentences) / 2, real)
