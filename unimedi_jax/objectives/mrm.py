"""Masked record modelling: restore the dropped patches of an image and the masked words of its report.

Zhou et al., arXiv 2301.13155: a masked autoencoder on the image (75 % of its tokens dropped, see mae.py) and, in
one step with it, masked words of the report (50 %), to whose embeddings the image's global feature is added: the mean
of its encoded visible tokens through a linear map. What the report tower cannot tell from the other words it may guess
from the image, so that the ViT learns to represent it. Both losses count alike (`weight_mim`, `weight_mlm`). Reports
supervise the ViT, but share no space with it: nothing to retrieve by.

Differences:
  * The paper restores an image of 448 pixels from one of 224. Here the target is as large as the input: records hold
    256 x 256 pixels, of which the pipeline hands out one crop at one size.
  * The published code masks whole words, each with a chance of 0.5. The objective knows ids and not where words end:
    pieces are masked one by one, and of every report exactly the half, rounded up, so that each has one to guess.
  * Cross-entropy runs over the masked words alone; the published code takes every position, padding too. It is a mean
    over each report, then over the batch, so that a long report counts no more than a short one.
  * The words' head is one linear map, not BERT's MLP tied to the embeddings. The feature is added before the LayerNorm
    of the embeddings, in the published code behind it. The report tower is the run's (there: six layers of 384), and
    the decoder's size is that code's.
  * CTs go in as their volume's tokens, with their reports beside those of the X-rays.

`mask_id` and `special_ids` are ids of the vocabulary. The defaults are those of the sets' own tokenizers
(input/tokenizer.py); a named tokenizer needs its own: Bio_ClinicalBERT 103 and (0, 101, 102).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, mae, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Key, PyTree, Step, TextIds, TextMask


def random_word_mask(
    key: Key[Array, ""], text: TextIds, text_mask: TextMask, ratio: float, special_ids: Sequence[int]
) -> Bool[Array, "b l"]:
    """Masks ceil(ratio * words) of every report at random; padding and special tokens are not words."""
    words = text_mask & ~jnp.isin(text, jnp.array(special_ids, text.dtype))
    # All words come first in a random order, everything else behind them.
    order = jnp.argsort(jnp.where(words, jax.random.uniform(key, text.shape), 2.0), axis=-1)
    # A hair less: in float32 a ratio of 0.15 makes a little more than 3 of 20.
    count = jnp.ceil(ratio * jnp.sum(words, axis=-1, keepdims=True) - 1e-4)
    return jnp.argsort(order, axis=-1) < count


def masked_cross_entropy(logits: Float[Array, "b l c"], text: TextIds, mask: TextMask) -> Float[Array, " b"]:
    """The mean of -log p(word) over the masked words of every report."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), text)
    return masked.masked_mean(losses, mask)


class Objective(settings.MRM, base.Objective):
    """Dropped patches and masked words."""

    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The images' decoder, the map of their feature to the word embeddings, and the words' logits.

        Raises:
            ValueError: `mask_id` is no id of the vocabulary.
        """
        size = model.report.vocab_size
        if not 0 <= self.mask_id < size:
            raise ValueError(f"mask_id={self.mask_id} is no id of a vocabulary of {size}")
        return {
            "decoder": mae.make_decoder(self, model),
            "context": heads.Linear(model.report.width, dtype=model.vision.dtype),
            "words": heads.Linear(size, dtype=model.report.dtype),
        }

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Most patches of every image, and half of the words of its report, are restored."""
        features, mim = [], {}
        for modality in common.modalities(batch):
            tokens = batch[modality]["tokens"]
            lateral = common.lateral(batch, modality)
            encoded = mae.encode_visible(student, modality, tokens, self.mask_ratio, lateral)
            features.append(encoded.patches.mean(axis=1))
            mim[modality] = mae.reconstruction_loss(student, modality, tokens, encoded, self.norm_pix)
        mlm = self.word_loss(student, *common.reports(batch), jnp.concatenate(features))
        return base.LossTerms({"mim": mim, "mlm": common.by_modality(mlm, batch)})

    def word_loss(
        self, student: UniMedI, text: TextIds, text_mask: TextMask, features: Float[Array, "b d"]
    ) -> Float[Array, " b"]:
        """Guesses the masked words of each report from the others and from the feature of its image."""
        mask = random_word_mask(student.make_rng("draws"), text, text_mask, self.word_ratio, self.special_ids)
        context = student.head["context"](features)
        encoded = student.encode_text_tokens(jnp.where(mask, self.mask_id, text), text_mask, True, context)
        return masked_cross_entropy(student.head["words"](encoded.words), text, mask)
