"""Clusters of films and slices, and of volumes with what their slices say together, without reports.

Nguyen et al., "Joint self-supervised image-volume representation learning with intra-inter contrastive clustering"
(arXiv 2212.01893, AAAI 2023). Within 2D: two views of a film or of a slice predict each other's cluster. Between slices
and volume: a small transformer over a volume's slices makes one vector of them, and the vectors of two views predict
each other's cluster. And it fills in slices whose vectors are hidden from it (the paper's masked embedding prediction).
Clusters are SwAV's (arXiv 2006.09882): eq. 2 with Sinkhorn's assignments. Reports are not read.

Otherwise than there: all three losses are trained at once, where the paper has three stages, and only SwAV is here, not
DeepClusterV2. The shared ViT stands for the ResNet-50. It sees volumes by themselves, too: two views of a volume's own
tokens join the vectors of its slices, and each of the four predicts the clusters of the three others; the paper has no
volume tokens, and without this T_3D would learn nothing. The transformer has plain attention, not a deformable one, and
is told each slice's place. A few random slices stand for all, resized to the films' size. Vectors go through DINO's
head, whose prototypes are of unit length, as SwAV's are, and which has no BatchNorm. The assignments are balanced over
the samples of one modality and view, not over films and slices together, and there is no queue: 512 prototypes, not
3000. Of four slices one is hidden (a tenth of all in the authors' code), and there are no small views. Views: see
`crops`.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import losses
from unimedi_jax.models import heads, towers, transformer, vision
from unimedi_jax.objectives import base, common, crops
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Key, Params, PyTree


def swapped(scores: Float[Array, "b c p"], temperature: float, epsilon: float, iterations: int) -> Float[Array, " b"]:
    """SwAV's eq. 1 and 2 over c views of each sample: every view's assignment, predicted by each other; their mean.

    `scores` are cosines with the prototypes. The assignments are balanced over the batch, view by view, and no gradient
    reaches them.
    """
    count = scores.shape[1]
    targets = jax.vmap(lambda view: losses.sinkhorn(view, epsilon, iterations), 1, 1)(scores)
    of_others = jnp.sum(targets, axis=1, keepdims=True) - targets
    shares = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature)
    return -jnp.sum(jax.lax.stop_gradient(of_others) * shares, axis=(1, 2)) / (count * (count - 1))


def filled(
    found: Float[Array, "b s d"], slices: Float[Array, "b s d"], hidden: Bool[Array, "b s"]
) -> Float[Array, " b"]:
    """Squared distance of the vectors found for hidden slices to their own, the mean over them and the width.

    No gradient reaches `slices`, the target.
    """
    target = jax.lax.stop_gradient(slices.astype(jnp.float32))
    distance = jnp.mean((found.astype(jnp.float32) - target) ** 2, axis=-1)
    return jnp.sum(distance * hidden, axis=-1) / jnp.sum(hidden, axis=-1)


class OverSlices(nn.Module):
    """A transformer over the vectors of a volume's slices."""

    depth: int  # slices a volume has
    layers: int
    heads: int
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(
        self, slices: Float[Array, "b s d"], where: Int[Array, "b s"], hidden: Bool[Array, "b s"] | None = None
    ) -> tuple[Float[Array, "b d"], Float[Array, "b s d"]]:
        """One vector of all slices, which lie at `where` in z, and for each slice the vector it should have.

        Where `hidden`, a token stands for the slice; its place is told.
        """
        width = slices.shape[-1]
        token = self.param("mask_token", transformer.init(width), (width,)).astype(self.dtype)
        x = slices.astype(self.dtype)
        if hidden is not None:
            x = jnp.where(hidden[..., None], token[None, None], x)
        x += jnp.asarray(vision.sincos((self.depth,), width), self.dtype)[where]
        norm = dict(epsilon=vision.EPSILON, dtype=self.dtype)
        for i in range(self.layers):
            attention = transformer.Attention(self.heads, self.dtype, name=f"attention{i}")
            x += attention(nn.LayerNorm(name=f"norm{i}a", **norm)(x))[0]
            mlp = transformer.Mlp(4 * width, self.dtype, name=f"mlp{i}")
            x += mlp(nn.LayerNorm(name=f"norm{i}b", **norm)(x))
        x = nn.LayerNorm(name="norm", **norm)(x)
        return jnp.mean(x, axis=1), nn.Dense(width, dtype=self.dtype, name="fill")(x)

    def touch(self, patches: Float[Array, "b n d"], words: Float[Array, "b l w"]) -> None:
        """One call, so that `init` makes the parameters."""
        self(patches[:, :1], jnp.zeros((len(patches), 1), jnp.int32))


@dataclasses.dataclass(frozen=True)
class Objective(crops.Settings, base.Objective):
    """Clusters within 2D, clusters between slices and volume, hidden slices."""

    crop_scale: tuple[float, float] = (0.14, 1.0)
    prototypes: int = 512  # of each of the two sets
    temperature: float = 0.1
    epsilon: float = 0.05  # of Sinkhorn: how soft the assignments are
    iterations: int = 3
    slices: int = 4  # of a volume
    hidden_slices: int = 1  # of them, hidden from the transformer
    layers: int = 4  # of the transformer over slices
    weight_intra: float = 1.0
    weight_inter: float = 1.0
    weight_hidden: float = 1.0

    reads: ClassVar[bool] = False
    aligned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hidden_slices < self.slices:
            raise ValueError(f"hidden_slices is above 0 and below slices={self.slices}, not {self.hidden_slices}")
        for name in ("prototypes", "temperature", "epsilon", "iterations"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)}")

    def heads(self, model: towers.UniMedI) -> dict[str, nn.Module]:
        """Prototypes of 2D and of 3D, and the transformer over slices."""
        size, dtype = model.head_sizes, model.vision.dtype
        depth = model.volume_grid[0] * model.volume_patch[0]
        return {
            "intra": heads.DinoHead(self.prototypes, size.hidden, size.bottleneck, dtype),
            "inter": heads.DinoHead(self.prototypes, size.hidden, size.bottleneck, dtype),
            "slices": OverSlices(depth, self.layers, model.vision.heads, dtype),
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
        """Two views of every film, of every volume, and of some of its slices."""
        keys = common.keys(key, "xray", "ct")
        parts = {"intra": {}}
        for name in common.modalities(batch):
            x = crops.whole(name, batch[name]["tokens"], model=model)
            if name == "xray":
                films = self.see(keys[name], params, x, model=model)
                parts["intra"][name] = self.clusters("intra", params, films, model=model)
            else:
                intra, inter, hidden = self.volumes(keys[name], params, x, model=model)
                parts["intra"][name] = intra
                parts |= {"inter": {name: inter}, "hidden": {name: hidden}}
        weights = {name: getattr(self, f"weight_{name}") for name in parts}
        return common.with_total(parts, weights, stats)

    def volumes(
        self, key: Key[Array, ""], params: Params, x: Float[Array, "b z y x"], *, model: towers.UniMedI
    ) -> tuple[Array, Array, Array]:
        """The three losses of each volume: of its slices, of them against the volume, of hidden ones."""
        keys = common.keys(key, "slices", "slice views", "views", "hidden")
        taken, where = crops.slices(keys["slices"], x, self.slices, crops.size_of("xray", model=model)[0])
        batch, count = where.shape
        seen = crops.see(params, self.views_of_slices(keys["slice views"], taken), model=model)
        intra = self.clusters("intra", params, seen, model=model).reshape(batch, count).mean(axis=1)
        # Each view of the slices by itself: (b s) 2 d to (b 2) s d.
        seen = seen.reshape(batch, count, 2, -1).swapaxes(1, 2).reshape(2 * batch, count, -1)
        where = jnp.repeat(where, 2, axis=0)
        together, _ = common.through("slices", params, seen, where, model=model)
        views = self.see(keys["views"], params, x, model=model)
        views = jnp.concatenate([together.reshape(batch, 2, -1), views], axis=1)
        hidden = _choose(keys["hidden"], where.shape, self.hidden_slices)
        _, found = common.through("slices", params, seen, where, hidden, model=model)
        filled_in = filled(found, seen, hidden).reshape(batch, 2).mean(axis=1)
        return intra, self.clusters("inter", params, views, model=model), filled_in

    def see(
        self, key: Key[Array, ""], params: Params, x: Float[Array, "b *space"], *, model: towers.UniMedI
    ) -> Float[Array, "b 2 d"]:
        """CLS of two random views of films, slices or volumes."""
        views = crops.crop(key, x, 2, x.shape[1:], self.crop_scale, self)
        return crops.see(params, views.images, model=model)

    def views_of_slices(self, key: Key[Array, ""], slices: Float[Array, "b s y x"]) -> Float[Array, "bs 2 y x"]:
        """Two views of each slice; in a view all slices of a volume share box, contrast and brightness."""
        keys = common.keys(key, "boxes", "light")
        batch, count, *plane = slices.shape
        boxes = crops.draw(keys["boxes"], (batch, 2), 2, self.crop_scale, self.crop_aspect)
        boxes = (jnp.repeat(x, count, axis=0) for x in boxes)
        images = crops.cut(slices.reshape(-1, *plane), *boxes, tuple(plane)).reshape(batch, count, 2, *plane)
        images = crops.relight(keys["light"], images.swapaxes(1, 2), self).swapaxes(1, 2)
        return images.reshape(batch * count, 2, *plane)

    def clusters(
        self, head: str, params: Params, views: Float[Array, "b c d"], *, model: towers.UniMedI
    ) -> Float[Array, " b"]:
        """`swapped` on the prototypes of a head."""
        scores = common.through(head, params, views, model=model)
        return swapped(scores, self.temperature, self.epsilon, self.iterations)


def _choose(key: Key[Array, ""], shape: tuple[int, int], count: int) -> Bool[Array, "b s"]:
    """True at `count` random places of each row."""
    ranks = jnp.argsort(jax.random.uniform(key, shape), axis=-1)
    return ranks < count
