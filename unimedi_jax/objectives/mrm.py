"""Masked record modelling: restore the dropped patches of an image and the masked words of its report.

Zhou et al., arXiv 2301.13155: a masked autoencoder on the image (75 % of its tokens dropped, see mae.py) and, in
one step with it, masked words of the report (50 %), to whose embeddings the image's global feature is added: the mean
of its encoded visible tokens through a linear map. What the report tower cannot read it may then guess from what the
ViT has seen, and the ViT learns to say it. Both losses count alike (`weight_mim`, `weight_mlm`). The reports teach, but
no space is shared with them: nothing to retrieve by.

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
  * CTs go in as their volume's tokens, with their reports beside those of the films.

`mask_id` and `special_ids` are ids of the vocabulary. The defaults are those of the sets' own tokenizers
(input/tokenizer.py); a named tokenizer needs its own: Bio_ClinicalBERT 103 and (0, 101, 102).
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import optax
from jax import numpy as jnp

from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, mae, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


def hide_words(
    key: Key[Array, ""], text: Int[Array, "b l"], mask: Bool[Array, "b l"], ratio: float, special_ids: Sequence[int]
) -> Bool[Array, "b l"]:
    """Chooses ceil(ratio * words) of every report at random; padding and special tokens are no words."""
    words = mask & ~jnp.isin(text, jnp.array(special_ids, text.dtype))
    # All words come first in a random order, everything else behind them.
    order = jnp.argsort(jnp.where(words, jax.random.uniform(key, text.shape), 2.0), axis=-1)
    # A hair less: in float32 a ratio of 0.15 makes a little more than 3 of 20.
    count = jnp.ceil(ratio * jnp.sum(words, axis=-1, keepdims=True) - 1e-4)
    return jnp.argsort(order, axis=-1) < count


def cross_entropy(
    logits: Float[Array, "b l c"], text: Int[Array, "b l"], hidden: Bool[Array, "b l"]
) -> Float[Array, " b"]:
    """The mean of -log p(word) over the hidden words of every report."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), text)
    return masked.over(each, hidden)


@dataclasses.dataclass(frozen=True)
class Objective(mae.Settings):
    """Dropped patches and masked words."""

    decoder_width: int = 768
    decoder_depth: int = 4
    decoder_heads: int = 6
    word_ratio: float = 0.5  # share of a report's words that is masked
    weight_mim: float = 1.0
    weight_mlm: float = 1.0
    mask_id: int = 4
    special_ids: tuple[int, ...] = (0, 2, 3)  # [PAD], [CLS], [SEP]: never masked

    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.word_ratio < 1:
            raise ValueError(f"word_ratio is above 0 and below 1, not {self.word_ratio}")
        if self.mask_id in self.special_ids:
            raise ValueError(f"mask_id={self.mask_id} is one of special_ids={tuple(self.special_ids)}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """The decoder of the images, the way of their feature to the words, and the words' logits.

        Raises:
            ValueError: `mask_id` is no id of the vocabulary.
        """
        size = model.report.vocab_size
        if not 0 <= self.mask_id < size:
            raise ValueError(f"mask_id={self.mask_id} is no id of a vocabulary of {size}")
        return super().heads(model) | {
            "context": heads.Linear(model.report.width, dtype=model.vision.dtype),
            "words": heads.Linear(size, "words", model.report.dtype),
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
        """What was hidden of every record, against what is restored of it."""
        keys = common.keys(key, "xray", "ct", "words", "dropout")
        seen, mim = {}, {}
        for name in common.modalities(batch):
            tokens = batch[name]["tokens"]
            seen[name] = mae.see(name, params, tokens, keys[name], self.mask_ratio, model=model)
            mim[name] = mae.restore(name, params, tokens, seen[name], self.norm_pix, model=model)
        mlm = common.by_modality(self._read(params, batch, seen, keys, model=model), batch)
        return common.with_total({"mim": mim, "mlm": mlm}, {"mim": self.weight_mim, "mlm": self.weight_mlm}, stats)

    def _read(
        self,
        params: Params,
        batch: Batch,
        seen: dict[str, mae.Seen],
        keys: dict[str, Key[Array, ""]],
        *,
        model: towers.UniMedI,
    ) -> Float[Array, " b"]:
        """The masked words of all reports, each read beside what is visible of its image."""
        text, mask = common.reports(batch)
        hidden = hide_words(keys["words"], text, mask, self.word_ratio, self.special_ids)
        feature = jnp.concatenate([seen[name].patches.mean(axis=1) for name in common.modalities(batch)])
        context = common.through("context", params, feature, model=model)
        read = model.apply(
            {"params": params},
            jnp.where(hidden, self.mask_id, text),
            mask,
            True,
            context,
            method="read_words",
            rngs={"dropout": keys["dropout"]},
        )
        logits = common.through("words", params, read.words, model=model)
        return cross_entropy(logits, text, hidden)
