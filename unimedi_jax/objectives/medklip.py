"""MedKLIP: entities as queries to the image's tokens, their presence and their place taken from the report.

MedKLIP (Wu et al., arXiv 2301.02228). A report filter (RadGraph) makes triplets {entity, position, exists} of every
report; each of 75 entities, translated into a description from a medical knowledge base and encoded by ClinicalBERT,
queries the image's tokens through a transformer decoder (4 layers, 4 heads). On its output a classifier predicts
whether the entity is there (cross-entropy) and a contrast, for entities that are, picks its position among others.

The filter, the descriptions and the 51 names of positions are knowledge from outside, which no batch holds. Here:
- entities are words of the batch and exist where a report holds them, negated or not: see `entities`. They go
  through the report tower as they are, without a description;
- the report tower learns, where the paper's text encoder is frozen: here it may start from scratch;
- the mention takes the place of the position's name: the report tower's vector of that word in its report (mean over
  its occurrences), which depends on the words around, "left", "no", "small". The negatives are the same entity's
  mentions in the other reports of the batch, where the paper takes 7 other positions;
- two classes' softmax is one logit's sigmoid; the contrast is of unit vectors with `temperature`, the paper's of plain
  dot products;
- the decoder is as wide as the vision tower (the paper: 256, behind a ResNet-50's two-layer map), with GELU for ReLU
  and without dropout.
Image and report have no joint space in MedKLIP, whose zero-shot classification asks the decoder: `has_joint_space` is
False, and evaluation looks at the images alone. CTs go in as their volume's tokens, beside the X-rays of the batch.
"""

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, entities
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, PyTree, Step


class Objective(settings.MedKLIP, base.Objective):
    """L_cls and L_loc of the paper, with substitutes for its knowledge."""

    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The decoder, and what is made of its answers."""
        mention = heads.Linear(model.report.width, dtype=model.vision.dtype)
        return {**entities.query_heads(self, model), "mention": mention}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every entity asked of every image, and of every report."""
        text, mask = common.reports(batch)
        chosen = entities.choose(text, mask, student.report.vocab_size, self.entities)
        queries = entities.encode(student, chosen.ids, text[0, 0])
        images = common.encode_images(student, batch)
        answers = jnp.concatenate([student.head["decoder"](image.patches, queries) for image in images.values()])
        logits = student.head["presence"](answers)[..., 0]
        mentions = entities.mentions(common.encode_reports(student, batch).words, text, mask, chosen.ids)
        answered, present = student.head["mention"](answers), chosen.present & chosen.informative[None]
        rows = {
            "presence": entities.presence(logits, chosen),
            "mention": mention_contrast(
                heads.unit(answered), heads.unit(mentions), present, self.temperature, common.studies(batch)
            ),
        }
        return base.LossTerms({name: common.by_modality(each, batch) for name, each in rows.items()})


def mention_contrast(
    answers: Float[Array, "b q e"],
    mentions: Float[Array, "b q e"],
    present: Bool[Array, "b q"],
    temperature: float,
    study: Int[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """InfoNCE from an image's answer to its own report's mention, among all reports that mention the entity.

    Samples with the same number in `study` are left out of each other's negatives. Mean over the entities that the
    sample's report mentions; 0 where it mentions none.
    """
    logits = jnp.einsum("iqe,jqe->qij", answers, mentions) / temperature
    counted = present.T[:, None, :]
    if study is not None:
        counted &= ((study[:, None] != study[None]) | jnp.eye(len(study), dtype=bool))[None]
    logits = jnp.where(counted, logits, jnp.finfo(logits.dtype).min)
    own = jnp.diagonal(jax.nn.log_softmax(logits), axis1=1, axis2=2).T
    return jnp.sum(jnp.where(present, -own, 0.0), axis=1) / jnp.maximum(jnp.sum(present, axis=1), 1)
