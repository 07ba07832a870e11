"""KAD: image against report, and a disease query network asked of both.

KAD (Zhang et al., Nature Communications 2023, arXiv 2302.14042) has two stages. The first trains a knowledge encoder,
a BERT, on UMLS: concepts, definitions and their relations. The second keeps it frozen and trains the image encoder:
L = L_contrast + L_dqn. L_contrast is the symmetric InfoNCE between the image and the entities extracted from its report
(by rules, RadGraph or ChatGPT), as the knowledge encoder reads them. L_dqn: the names of a set of diseases, read by the
knowledge encoder, query the image's tokens through a decoder of 4 layers and 4 heads, and the same decoder the report's
vector; whether the disease is there is told by cross-entropy on both.

What differs from MedKLIP here is what differs between the papers: the global contrast, which makes a joint space, and
the query network on the report's side; nothing is asked about places.

UMLS and the extraction are knowledge from outside. Here:
- there is no first stage. The report tower stands for the knowledge encoder and learns with the images, from whatever
  `config.init.report` gives it: put a BERT trained on UMLS there (the authors' Med-KEBERT) to come closer;
- the whole report stands for the text of its extracted entities;
- the queries are words of the batch, present where a report holds them, negated or not: see `entities`. The authors'
  code asks for 40 diseases;
- images go into the contrast by CLS, the authors' by the mean of their tokens: CLS is what evaluation looks at;
- two classes' softmax is one logit's sigmoid; GELU for ReLU, no dropout in the decoder.
Losses on image and report are added up, as in the authors' code. CTs go in as their volume's tokens, beside the X-rays.
"""

import dataclasses

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.models import heads, towers
from unimedi_jax.objectives import base, common, entities
from unimedi_jax.typing import Array, Batch, Int, Key, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Objective(base.Objective):
    """L_contrast and L_dqn of the paper, with stand-ins for its knowledge."""

    entities: int = 40  # queries a step
    depth: int = 4  # of the decoder
    attention_heads: int = 4
    temperature: float = 0.07
    weight_vl: float = 1.0
    weight_image: float = 1.0  # of the query network on the image
    weight_report: float = 1.0  # and on the report

    def __post_init__(self) -> None:
        if self.entities < 1 or self.depth < 1:
            raise ValueError(f"entities={self.entities} and depth={self.depth} are at least 1")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """The query network."""
        entities.check(self.entities, model)
        width, dtype, sides = model.vision.width, model.vision.dtype, ("image", "report")
        return {
            "decoder": heads.QueryDecoder(width, self.depth, self.attention_heads, sides=sides, dtype=dtype),
            "presence": heads.Linear(1, dtype=dtype),
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
        """Every image of the batch against every report, and every entity asked of both."""
        text, mask = common.reports(batch)
        found = entities.find(text, mask, model.report.vocab_size, self.entities)
        queries = entities.encode(params, found.ids, text[0, 0], model=model)
        seen, read, z_image, z_text, batch_stats = common.pair(params, stats, batch, key, model=model)
        report = read.vector

        def ask(memory: Array, side: str) -> Array:
            answers = common.through("decoder", params, memory, queries, side, model=model)
            return common.through("presence", params, answers, model=model)[..., 0]

        images = jnp.concatenate([ask(view.patches, "image") for view in seen.values()])
        parts = {
            "vl": losses.contrastive(z_image, z_text, self.temperature).mean(axis=0),
            "image": entities.presence(images, found),
            "report": entities.presence(ask(report[:, None], "report"), found),
        }
        return common.with_total(
            {name: common.by_modality(each, batch) for name, each in parts.items()},
            {name: getattr(self, f"weight_{name}") for name in parts},
            {"batch_stats": batch_stats},
        )
