"""MedKLIP: entities as queries to the image's tokens, their presence and their place told by the report.

MedKLIP (Wu et al., arXiv 2301.02228). A report filter (RadGraph) makes triplets {entity, position, exists} of every
report; each of 75 entities, translated into a description from a medical knowledge base and encoded by ClinicalBERT,
queries the image's tokens through a transformer decoder (4 layers, 4 heads). Of what comes out, a classifier says
whether the entity is there (cross-entropy) and a contrast, for entities that are, tells its position among others.

The filter, the descriptions and the 51 names of positions are knowledge from outside, which no batch holds. Here:
- entities are words of the batch and exist where a report holds them, negated or not: see `entities`. They are read by
  the report tower as they stand, without a description;
- the report tower learns, where the paper's text encoder is frozen: nothing says here that it knows anything yet;
- in place of the position's name stands what the report says of the entity: the report tower's vector of that word in
  its report (mean over its mentions), which knows the words around, "left", "no", "small". The negatives are the same
  entity's mentions in the other reports of the batch, where the paper takes 7 other positions;
- two classes' softmax is one logit's sigmoid; the contrast is of unit vectors with `temperature`, the paper's of plain
  dot products;
- the decoder is as wide as the vision tower (the paper: 256, behind a ResNet-50's two-layer map), with GELU for ReLU
  and without dropout.
Image and report have no joint space in MedKLIP, whose zero-shot classification asks the decoder: `aligned` is False,
and evaluation looks at the images alone. CTs go in as their volume's tokens, beside the X-rays of the batch.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, entities
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """L_cls and L_loc of the paper, with stand-ins for its knowledge."""

    entities: int = 75  # queries a step
    depth: int = 4  # of the decoder
    attention_heads: int = 4
    temperature: float = 0.07  # of the contrast between mentions
    weight_presence: float = 1.0
    weight_mention: float = 1.0

    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.entities < 1 or self.depth < 1:
            raise ValueError(f"entities={self.entities} and depth={self.depth} are at least 1")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """The decoder, and what is made of its answers."""
        entities.check(self.entities, model)
        width, dtype = model.vision.width, model.vision.dtype
        return {
            "decoder": heads.QueryDecoder(width, self.depth, self.attention_heads, dtype=dtype),
            "presence": heads.Linear(1, dtype=dtype),
            "mention": heads.Linear(model.report.width, dtype=dtype),
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
        """Every entity asked of every image, and told by every report."""
        text, mask = common.reports(batch)
        found = entities.find(text, mask, model.report.vocab_size, self.entities)
        queries = entities.encode(params, found.ids, text[0, 0], model=model)
        seen = common.see(params, batch, model=model)
        answers = jnp.concatenate(
            [common.through("decoder", params, view.patches, queries, model=model) for view in seen.values()]
        )
        logits, asked = (common.through(head, params, answers, model=model) for head in ("presence", "mention"))
        words = common.read(params, batch, key, model=model).words
        told = entities.mentions(words, text, mask, found.ids)
        here = found.present & found.telling[None]
        parts = {
            "presence": entities.presence(logits[..., 0], found),
            "mention": own_mention(heads.unit(asked), heads.unit(told), here, self.temperature),
        }
        return common.with_total(
            {name: common.by_modality(each, batch) for name, each in parts.items()},
            {"presence": self.weight_presence, "mention": self.weight_mention},
            {"batch_stats": stats["batch_stats"]},
        )


def own_mention(
    asked: Float[Array, "b q e"], told: Float[Array, "b q e"], present: Bool[Array, "b q"], temperature: float
) -> Float[Array, " b"]:
    """InfoNCE from an image's answer to its own report's mention, among all reports that mention the entity.

    Mean over the entities that the sample's report mentions; 0 where it mentions none.
    """
    logits = jnp.einsum("iqe,jqe->qij", asked, told) / temperature
    logits = jnp.where(present.T[:, None, :], logits, jnp.finfo(logits.dtype).min)
    own = jnp.diagonal(jax.nn.log_softmax(logits), axis1=1, axis2=2).T
    return jnp.sum(jnp.where(present, -own, 0.0), axis=1) / jnp.maximum(jnp.sum(present, axis=1), 1)
