"""MGCA: images and reports aligned as wholes, token by token, and by the prototypes they fall to.

Wang et al., arXiv 2210.06044: instance-wise alignment (ITA, here "vl"), bidirectional cross-attention token alignment
(CTA) and cross-modal prototype alignment (CPA), section 3; numbers are those of the authors' public code. CTA lets
each token gather from the other side of its own pair and contrasts the two with the other tokens of its sample. CPA
has each side predict the prototypes that Sinkhorn-Knopp assigns to the other.

Deviations: patches are weighted by eq. 1 (mean over layers and heads) where the paper has the last block's CLS
attention, clipped to its 10th and 90th percentile as in the code; words all weigh alike, for the report tower hands
out no attention; pieces of words are not summed. As in the code's default the cross-attention has no learnt matrices.
What is gathered has unit length both ways (the code leaves it out for a ViT's patches), and padding is nobody's
negative. LayerNorm stands for BatchNorm in the local embeddings. Each loss is the mean of its directions; the code
adds those of ITA and of CTA. Sinkhorn-Knopp balances over X-rays and CTs of the batch together.
"""

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Bool, Float, PyTree, Step, TextMask


class Objective(settings.MGCA, base.Objective):
    """ITA, CTA and CPA."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Local embeddings, as wide as the global ones, and prototypes."""
        size, dtype = model.project_image, model.vision.dtype
        patch, word = (heads.Local(size.width, size.hidden, dtype) for _ in range(2))
        return {"patch": patch, "word": word, "prototype": Prototypes(size.width, self.prototypes)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """The three alignments of a batch."""
        pairs = common.encode_pairs(student, batch, scores=True)
        whole = losses.contrastive(pairs.z_image, pairs.z_text, self.temperature, common.studies(batch)).mean(axis=0)
        words = heads.unit(student.head["word"](pairs.reports.words[:, 1:]))  # all but [CLS]
        words = common.by_modality(words, batch)
        masks = common.by_modality(common.reports(batch)[1][:, 1:], batch)
        cta = {}
        for name, image in pairs.images.items():
            patches, weights = heads.unit(student.head["patch"](image.patches)), token_weights(image.scores)
            each = align_tokens(patches, weights, words[name], masks[name], self.local_temperature)
            cta[name] = each.mean(axis=0)
        similarities = [student.head["prototype"](z) for z in (pairs.z_image, pairs.z_text)]
        sinkhorn = self.epsilon, self.sinkhorn_iterations
        cpa = align_prototypes(*similarities, self.prototype_temperature, *sinkhorn).mean(axis=0)
        vl, cpa = common.by_modality(whole, batch), common.by_modality(cpa, batch)
        return base.LossTerms({"vl": vl, "cta": cta, "cpa": cpa})


class Prototypes(nn.Module):
    """Cosines of unit vectors with learnt prototypes, in float32."""

    width: int
    prototypes: int

    @nn.compact
    def __call__(self, z: Float[Array, "b e"]) -> Float[Array, "b p"]:
        # Named as DINO's, which config.freeze_last_layer_steps keeps still at the start, here as there an epoch.
        kernel = self.param("last_layer", nn.initializers.lecun_normal(), (self.width, self.prototypes))
        return z @ (kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True))


def token_weights(scores: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Shares of the tokens of a sample: its scores, each clipped to the range of the middle eight tenths; detached."""
    low, high = jnp.quantile(scores, jnp.array([0.1, 0.9]), axis=1, keepdims=True)
    clipped = jnp.clip(scores, low, high)
    return jax.lax.stop_gradient(clipped / jnp.sum(clipped, axis=1, keepdims=True))


def align_tokens(
    patches: Float[Array, "b n e"],
    patch_weights: Float[Array, "b n"],
    words: Float[Array, "b l e"],
    mask: TextMask,
    temperature: float,
) -> Float[Array, "2 b"]:
    """CTA of images and their own reports: row 0 the words' alignment to the patches, row 1 the patches' to the words.

    Patches and words are of unit length; words where `mask` is False are left out.
    """
    word_weights = mask / jnp.sum(mask, axis=1, keepdims=True)
    everywhere = jnp.ones(patch_weights.shape, bool)
    of_words = _align(words, mask, word_weights, patches, everywhere, temperature)
    of_patches = _align(patches, everywhere, patch_weights, words, mask, temperature)
    return jnp.stack([of_words, of_patches])


def _align(
    tokens: Float[Array, "b n e"],
    mask: Bool[Array, "b n"],
    weights: Float[Array, "b n"],
    others: Float[Array, "b m e"],
    others_mask: Bool[Array, "b m"],
    temperature: float,
) -> Float[Array, " b"]:
    """Each token and what it gathers from the other side find each other among the tokens of the sample."""
    likeness = jnp.einsum("bne,bme->bnm", tokens, others) / temperature
    attention = jax.nn.softmax(likeness, axis=2, where=others_mask[:, None])
    gathered = heads.unit(jnp.einsum("bnm,bme->bne", attention, others))
    logits = jnp.einsum("bne,bke->bnk", tokens, gathered) / temperature
    own = jnp.diagonal(logits, axis1=1, axis2=2)
    to_gathered = jax.nn.logsumexp(logits, axis=2, where=mask[:, None]) - own
    to_token = jax.nn.logsumexp(logits, axis=1, where=mask[:, :, None]) - own
    return jnp.sum(weights * (to_gathered + to_token) / 2, axis=1)


def align_prototypes(
    image: Float[Array, "b p"], report: Float[Array, "b p"], temperature: float, epsilon: float, iterations: int
) -> Float[Array, "2 b"]:
    """CPA from similarities to the prototypes: row 0 the report predicts the image's assignment, row 1 the reverse.

    The assignments are over the whole batch, and no gradient reaches them.
    """

    def predict(logits: Float[Array, "b p"], other: Float[Array, "b p"]) -> Float[Array, " b"]:
        target = jax.lax.stop_gradient(losses.sinkhorn(other, epsilon, iterations))
        return -jnp.sum(target * jax.nn.log_softmax(logits / temperature), axis=1)

    return jnp.stack([predict(report, image), predict(image, report)])
