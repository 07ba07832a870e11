"""A released ViT as evaluations take a model: X-rays, and reports where a tower was released with it."""

import flax.linen as nn

from unimedi_jax.models import heads, inputs, linear, text, vision
from unimedi_jax.models.released_vit import ReleasedVit
from unimedi_jax.models.towers import Features
from unimedi_jax.typing import Array, Batch, Float, TextIds, TextMask, UInt8


class GeluProjection(nn.Module):
    """Dense, GELU, Dense, all without bias, to a unit vector (open_clip's "mlp" behind a BERT)."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
        x = linear.gelu(linear.Dense(self.hidden, use_bias=False, name="fc1")(x))
        return heads.unit(linear.Dense(self.width, use_bias=False, name="fc2")(x))


class Released(nn.Module):
    """A released ViT as evaluations take a model: X-rays alone, reports where it has a tower and projections for them.

    Without projections `z` is the unit vector of the image's own representation.
    """

    vision: ReleasedVit
    report: text.ReportTower | None = None
    project_image: nn.Module | None = None
    project_report: nn.Module | None = None
    volume_patch: tuple[int, int, int] = (1, 1, 1)
    ct_patch: tuple[int, int, int] = (1, 1, 1)
    slices: int = 0
    head: None = None
    lateral_type: bool = False

    @property
    def image_patch(self) -> tuple[int, int]:
        """Pixels of a token, y and x."""
        return (self.vision.shape.patch,) * 2

    @property
    def volume_grid(self) -> tuple[int, int, int]:
        """None: CTs are not read."""
        return self.vision.volume_grid

    def embed_xray(self, tokens: UInt8[Array, "b n v"], *, lateral: None = None) -> Float[Array, "b n d"]:
        """X-ray patches to tokens with positions; none that was released distinguishes views."""
        return self.vision.embed_image(inputs.image(tokens))

    def encode(self, tokens: Float[Array, "b n d"], scores: bool = False) -> vision.Encoded:
        """Tokens through the ViT."""
        return self.vision.encode(tokens, scores)

    def xray_features(self, tokens: UInt8[Array, "b n v"]) -> Features:
        """Inference on X-rays."""
        encoded = self.encode(self.embed_xray(tokens), scores=True)
        z = heads.unit(encoded.cls) if self.project_image is None else self.project_image(encoded.cls)
        return Features(encoded.cls, z, encoded.scores, None, None)

    def embed_report(self, tokens: TextIds, mask: TextMask) -> Float[Array, "b e"]:
        """Reports into the joint space."""
        return self.project_report(self.report(tokens, mask).vector)

    def run_towers(self, batch: Batch) -> None:
        """Runs everything once, so that `init` makes all parameters."""
        self.xray_features(batch["xray"]["tokens"])
        if self.report is not None:
            self.embed_report(batch["xray"]["text"], batch["xray"]["text_mask"])
