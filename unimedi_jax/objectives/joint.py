"""Clusters of X-rays and slices, and of volumes with the vectors of their slices, without reports.

Nguyen et al., "Joint self-supervised image-volume representation learning with intra-inter contrastive clustering"
(arXiv 2212.01893, AAAI 2023). Within 2D: two views of an X-ray or of a slice predict each other's cluster. Between
slices and volume: a small transformer over a volume's slices makes one vector of them, and the vectors of two views
predict each other's cluster. It also fills in slices whose vectors are hidden from it (the paper's masked embedding
prediction). Clusters are SwAV's (arXiv 2006.09882): eq. 2 with Sinkhorn's assignments. Reports are not used.

Differences: all three losses are trained at once, where the paper has three stages, and only SwAV is here, not
DeepClusterV2. The shared ViT replaces the ResNet-50. It sees volumes by themselves, too: two views of a volume's own
tokens join the vectors of its slices, and each of the four predicts the clusters of the three others; the paper has no
volume tokens, and without this T_3D would learn nothing. The transformer has plain attention, not a deformable one, and
gets each slice's position. A few random slices stand for all, resized to the X-rays' size. Vectors go through DINO's
head, whose prototypes are of unit length, as SwAV's are, and which has no BatchNorm. The assignments are balanced over
the samples of one modality and view, not over X-rays and slices together, and there is no queue: 512 prototypes, not
3000. Of four slices one is hidden (a tenth of all in the authors' code), and there are no small views. Views: see
`crops`.
"""

from typing import Any

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.config import objectives as settings
from unimedi_jax.models import heads, transformer, vision
from unimedi_jax.models.towers import UniMedI
from unimedi_jax.objectives import base, common, crops, masked
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, PyTree, Step


def swapped_prediction_loss(
    scores: Float[Array, "b c p"], temperature: float, epsilon: float, iterations: int
) -> Float[Array, " b"]:
    """SwAV's eq. 1 and 2 over c views of each sample: every view's assignment, predicted by each other; their mean.

    `scores` are cosines with the prototypes. The assignments are balanced over the batch, view by view, and no gradient
    reaches them.
    """
    count = scores.shape[1]
    targets = jax.vmap(lambda view: losses.sinkhorn(view, epsilon, iterations), 1, 1)(scores)
    of_others = jnp.sum(targets, axis=1, keepdims=True) - targets
    shares = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)
    return -jnp.sum(jax.lax.stop_gradient(of_others) * shares, axis=(1, 2)) / (count * (count - 1))


def masked_slice_loss(
    predicted: Float[Array, "b s d"], slices: Float[Array, "b s d"], mask: Bool[Array, "b s"]
) -> Float[Array, " b"]:
    """Squared distance of the predicted vectors of masked slices to their own, the mean over them and the width.

    No gradient reaches `slices`, the target.
    """
    target = jax.lax.stop_gradient(slices.astype(jnp.float32))
    return masked.masked_mean(jnp.mean((predicted.astype(jnp.float32) - target) ** 2, axis=-1), mask)


class SliceTransformer(nn.Module):
    """A transformer over the vectors of a volume's slices."""

    depth: int  # slices a volume has
    layers: int
    heads: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(
        self, slices: Float[Array, "b s d"], z: Int[Array, "b s"], mask: Bool[Array, "b s"] | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b s d"]]:
        """One vector for all slices, which lie at `z` in the volume, and a predicted vector for each of them.

        Where `mask` is True, the mask token replaces the slice; its position stays.
        """
        width = slices.shape[-1]
        token = self.param("mask_token", transformer.init(width), (width,)).astype(self.dtype)
        x = slices.astype(self.dtype)
        if mask is not None:
            x = jnp.where(mask[..., None], token[None, None], x)
        x += jnp.asarray(vision.sincos((self.depth,), width), self.dtype)[z]
        norm = dict(epsilon=vision.EPSILON, dtype=self.dtype)
        for i in range(self.layers):
            attention = transformer.Attention(self.heads, self.dtype, name=f"attention{i}")
            x += attention(nn.LayerNorm(name=f"norm{i}a", **norm)(x))[0]
            mlp = transformer.Mlp(4 * width, self.dtype, name=f"mlp{i}")
            x += mlp(nn.LayerNorm(name=f"norm{i}b", **norm)(x))
        x = nn.LayerNorm(name="norm", **norm)(x)
        return jnp.mean(x, axis=1), nn.Dense(width, dtype=self.dtype, name="fill")(x)


class Objective(settings.Joint, base.Objective):
    """Clusters within 2D, clusters between slices and volume, hidden slices."""

    uses_reports = False
    has_joint_space = False

    def heads(self, model: UniMedI) -> dict[str, nn.Module]:
        """Prototypes of 2D and of 3D, and the transformer over slices."""
        size, dtype = model.head_sizes, model.vision.dtype
        depth = model.volume_grid[0] * model.volume_patch[0]
        intra, inter = (heads.DinoHead(self.prototypes, size.hidden, size.bottleneck, dtype) for _ in range(2))
        slices = SliceTransformer(depth, self.layers, model.vision.heads, dtype)
        return {"intra": intra, "inter": inter, "slices": slices}

    def forward(self, student: UniMedI, teacher: UniMedI, batch: Batch, state: PyTree, step: Step) -> base.LossTerms:
        """Two views of every X-ray, of every volume, and of some of its slices."""
        terms = {"intra": {}}
        for modality in common.modalities(batch):
            x = crops.to_image(student, modality, batch[modality]["tokens"])
            if modality == "xray":
                cls = self.encode_two_views(student, x, common.lateral(batch, modality))
                terms["intra"][modality] = self.cluster_loss(student.head["intra"](cls))
            else:
                intra, inter, hidden = self.volume_losses(student, x)
                terms["intra"][modality] = intra
                terms |= {"inter": {modality: inter}, "hidden": {modality: hidden}}
        return base.LossTerms(terms)

    def volume_losses(self, student: UniMedI, x: Float[Array, "b z y x"]) -> tuple[Array, Array, Array]:
        """The three losses of each volume: within its slices, between them and the volume, of hidden ones."""
        size = crops.view_shape(student, "xray")[0]
        slices, z = crops.random_slices(student.make_rng("draws"), x, self.slices, size)
        batch, count = z.shape
        vectors = crops.encode_views(student, self.views_of_slices(student.make_rng("draws"), slices))
        intra = self.cluster_loss(student.head["intra"](vectors)).reshape(batch, count).mean(axis=1)
        # Each view of the slices by itself: (b s) 2 d to (b 2) s d.
        vectors = vectors.reshape(batch, count, 2, -1).swapaxes(1, 2).reshape(2 * batch, count, -1)
        z = jnp.repeat(z, 2, axis=0)
        from_slices, _ = student.head["slices"](vectors, z)
        views = jnp.concatenate([from_slices.reshape(batch, 2, -1), self.encode_two_views(student, x)], axis=1)
        inter = self.cluster_loss(student.head["inter"](views))
        mask = masked.random_ranks(student.make_rng("draws"), *z.shape) < self.hidden_slices
        _, predicted = student.head["slices"](vectors, z, mask)
        return intra, inter, masked_slice_loss(predicted, vectors, mask).reshape(batch, 2).mean(axis=1)

    def encode_two_views(
        self, student: UniMedI, x: Float[Array, "b *space"], lateral: vision.Lateral = None
    ) -> Float[Array, "b 2 d"]:
        """CLS of two random views of X-rays or volumes."""
        return crops.encode_views(student, crops.random_crops(student.make_rng("draws"), x, self).images, lateral)

    def views_of_slices(self, key: Key[Array, ""], slices: Float[Array, "b s y x"]) -> Float[Array, "bs 2 y x"]:
        """Two views of each slice; in a view all slices of a volume share box, contrast and brightness."""
        key_boxes, key_light = jax.random.split(key)
        batch, count, *plane = slices.shape
        boxes = crops.random_boxes(key_boxes, (batch, 2), 2, self.crop_scale, self.crop_aspect)
        boxes = (jnp.repeat(x, count, axis=0) for x in boxes)
        images = crops.crop_and_resize(slices.reshape(-1, *plane), *boxes, tuple(plane))
        images = images.reshape(batch, count, 2, *plane).swapaxes(1, 2)
        images = crops.jitter(key_light, images, self).swapaxes(1, 2)
        return images.reshape(batch * count, 2, *plane)

    def cluster_loss(self, scores: Float[Array, "b c p"]) -> Float[Array, " b"]:
        """`swapped_prediction_loss` with these settings."""
        return swapped_prediction_loss(scores, self.temperature, self.epsilon, self.iterations)
