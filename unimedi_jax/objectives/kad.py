"""KAD: image against report, and a disease query network asked of both.

KAD (Zhang et al., Nature Communications 2023, arXiv 2302.14042) has two stages. The first trains a knowledge encoder,
a BERT, on UMLS: concepts, definitions and their relations. The second keeps it frozen and trains the image encoder:
L = L_contrast + L_dqn. L_contrast is the symmetric InfoNCE between the image and the entities extracted from its report
(by rules, RadGraph or ChatGPT), encoded by the knowledge encoder. L_dqn: the names of a set of diseases, encoded by the
knowledge encoder, query the image's tokens through a decoder of 4 layers and 4 heads, and the same decoder the report's
vector; a cross-entropy on both says whether the disease is there.

What differs from MedKLIP here is what differs between the papers: the global contrast, which makes a joint space, and
the query network on the report's side; there are no questions about places.

UMLS and the extraction are knowledge from outside. Here:
- there is no first stage. The report tower takes the place of the knowledge encoder and learns with the images,
  starting from `config.init.report`: a BERT trained on UMLS there (the authors' Med-KEBERT) comes closer;
- the whole report takes the place of the text of its extracted entities;
- the queries are words of the batch, present where a report holds them, negated or not: see `entities`. The authors'
  code asks for 40 diseases;
- images go into the contrast by CLS, the authors' by the mean of their tokens: CLS is what evaluation looks at;
- two classes' softmax is one logit's sigmoid; GELU for ReLU, no dropout in the decoder.
Losses on image and report are added up, as in the authors' code. CTs go in as their volume's tokens, beside the X-rays.
"""

import flax.linen as nn
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, entities
from unimedi_jax.typing import Array, Batch, Float, PyTree, Step


class Objective(settings.KAD, base.Objective):
    """L_contrast and L_dqn of the paper, with substitutes for its knowledge."""

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """The query network."""
        return entities.query_heads(self, model)

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Every image of the batch against every report, and every entity asked of both."""
        text, mask = common.reports(batch)
        chosen = entities.choose(text, mask, student.report.vocab_size, self.entities)
        queries = entities.encode(student, chosen.ids, text[0, 0])
        pairs = common.encode_pairs(student, batch)

        def ask(memory: Array, side: str) -> Float[Array, "b q"]:
            return student.head["presence"](student.head["decoder"](memory, queries, side))[..., 0]

        images = jnp.concatenate([ask(image.patches, "image") for image in pairs.images.values()])
        rows = {
            "vl": losses.contrastive(pairs.z_image, pairs.z_text, self.temperature, common.studies(batch)).mean(axis=0),
            "image": entities.presence(images, chosen),
            "report": entities.presence(ask(pairs.reports.vector[:, None], "report"), chosen),
        }
        return base.LossTerms({name: common.by_modality(each, batch) for name, each in rows.items()})
