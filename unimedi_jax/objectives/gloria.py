"""GLoRIA: the report against the image as a whole, and its words against the regions of the image.

Huang et al., ICCV 2021 (section 3.3, global and local objective); temperatures and the normalisation of the attention,
over the words first and then over the regions, are those of the authors' public code. For each word a region's share
is weighed, the regions are summed to the word's context, and an image's similarity to a report is
log sum exp(temp2 cos(context, word)) over the words. Both contrasts go both ways.

Deviations: regions are the patch tokens of the last layer (of a CT its volume's tokens), not an intermediate map of a
ResNet; words are tokens of the report tower's last layer, their pieces not summed to words, the last four layers not
summed; both get a linear map to the joint width, where the paper maps the regions alone to the width of BERT. As in
the code [CLS] counts among the words and [SEP] does not. Each loss is the mean of its two directions, half of the
code's sum. Inference compares by the global similarity alone.
"""

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses, placement
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, PyTree, Step


class Objective(settings.GLoRIA, base.Objective):
    """Global contrast (vl) and local contrast."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Linear maps of patches and words to the joint width."""
        width, dtype = model.project_image.width, model.vision.dtype
        return {"region": heads.Local(width, dtype=dtype), "word": heads.Local(width, dtype=dtype)}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every image of the batch against every report, as wholes and by their parts."""
        pairs = common.encode_pairs(student, batch)
        words = student.head["word"](pairs.reports.words[:, :-1])
        mask = common.reports(batch)[1][:, 1:]  # one token less: [SEP] is the last
        regions = [student.head["region"](image.patches) for image in pairs.images.values()]
        options = self.temp1, self.temp2, self.local_chunk
        similarities = jnp.concatenate([local_similarities(x, words, mask, *options) for x in regions])
        each = losses.contrastive(pairs.z_image, pairs.z_text, 1 / self.temp3, common.studies(batch)).mean(axis=0)
        local = contrast(self.temp3 * similarities, common.studies(batch)).mean(axis=0)
        return base.LossTerms({"vl": common.by_modality(each, batch), "local": common.by_modality(local, batch)})


def local_similarities(
    regions: Float[Array, "b n e"],
    words: Float[Array, "c l e"],
    mask: Bool[Array, "c l"],
    temp1: float,
    temp2: float,
    chunk: int,
) -> Float[Array, "b c"]:
    """How well each image has regions for the words of each report; no word of a padded place counts.

    The attention of `chunk` reports over all images exists at a time, forward and backward, so that memory grows with
    b and not with b c. Spread over devices, each holds its images' share of it.
    """

    def similarity(report: tuple[Float[Array, "l e"], Bool[Array, " l"]]) -> Float[Array, " b"]:
        words, mask = report
        likeness = jnp.einsum("bne,le->bnl", regions, words)
        share = jax.nn.softmax(likeness, axis=2, where=mask[None, None])  # of a region, among the words
        attention = jax.nn.softmax(temp1 * share, axis=1)
        context = jnp.einsum("bnl,bne->ble", attention, regions)
        cosine = jnp.sum(heads.unit(context) * heads.unit(words)[None], axis=-1)
        return jax.nn.logsumexp(temp2 * cosine, axis=-1, where=mask[None])

    reports = placement.replicate(words), placement.replicate(mask)  # gathered once, before the loop
    each = jax.checkpoint(similarity, prevent_cse=False)
    return jax.lax.map(each, reports, batch_size=min(chunk, len(words))).T


def contrast(logits: Float[Array, "b b"], study: Int[Array, " b"] | None = None) -> Float[Array, "2 b"]:
    """Cross-entropy of each row and of each column to its place on the diagonal: image to report, report to image.

    Samples with the same number in `study` are left out of each other's negatives.
    """
    own = jnp.diagonal(logits)
    counted = None
    if study is not None:
        counted = (study[:, None] != study[None]) | jnp.eye(len(study), dtype=bool)
    return jnp.stack([jax.nn.logsumexp(logits, axis=axis, where=counted) - own for axis in (1, 0)])
