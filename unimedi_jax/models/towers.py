"""UniMedI: vision tower, report tower and heads, and the ways of X-rays, CTs and reports through them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import numpy as jnp

from unimedi_jax import patches, selection
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.models import attention, heads, inputs, scores, sizes, text, tokenizer, vision
from unimedi_jax.typing import Array, Batch, Bool, Float, Int, Num, TextIds, TextMask, UInt8


class Features(NamedTuple):
    """What inference gives for a batch of X-rays or CTs."""

    cls: Float[Array, "b d"]  # the representation probes and decoders use
    z: Float[Array, "b e"]  # unit vector in the space shared with the reports
    scores: Float[Array, "b n"]  # eq. 1 over the tokens of the sequence
    slice_scores: Float[Array, "b layers"] | None  # eq. 2; None for X-rays
    layers: Int[Array, "b k"] | None  # the depth layers chosen by eq. 2; None for X-rays


class UniMedI(nn.Module):
    """The whole model. Build it with `build_model`; call its methods through `apply(..., method="...")`.

    X-ray tokens are uint8 patches (b, n, 256), CT tokens int16 HU patches (b, n, 1024); both are normalised here. Where
    slices are cut from finer planes, a CT's tokens hold those, and T_3D takes block means of them.
    `head` is what an objective trains beside the towers; its modules are the parameters `head_<name>`.
    """

    vision: vision.VisionTower
    report: text.ReportTower
    project_image: heads.Projection
    project_report: heads.Projection
    head: Mapping[str, nn.Module]
    head_sizes: heads.Sizes
    image_patch: tuple[int, int]
    volume_patch: tuple[int, int, int]
    window_hu: tuple[float, float]
    slice_size: int
    slices_per_layer: int
    slices: int  # k of the top-k: depth layers chosen; 0 = volume tokens alone
    ct_patch: tuple[int, int, int]  # voxels of a CT's token in a batch: `volume_patch`, or finer in plane
    frontal_view: bool = False  # a projection of the CT joins its slices
    slice_baseline: scores.SliceBaseline | None = None

    @property
    def volume_grid(self) -> tuple[int, int, int]:
        """Tokens along z, y, x."""
        return self.vision.volume_grid

    @property
    def tokens_2d(self) -> int:
        """Tokens of all slices, and of the frontal view, that join a CT."""
        images = self.slices * self.slices_per_layer + self.frontal_view
        return images * math.prod(self._slice_grid)

    @property
    def lateral_type(self) -> bool:
        """Whether it distinguishes lateral X-rays, so that batches say which these are."""
        return self.vision.lateral_type

    def embed_xray(
        self, tokens: UInt8[Array, "b n v"], hidden: vision.Hidden = None, lateral: vision.Lateral = None
    ) -> Float[Array, "b n d"]:
        """X-ray patches to tokens with positions."""
        return self.vision.embed_image(inputs.image(tokens), hidden=hidden, lateral=lateral)

    def embed_volume(self, tokens: Num[Array, "b n v"], hidden: vision.Hidden = None) -> Float[Array, "b n d"]:
        """CT patches to tokens with positions: the volume alone, what slice selection looks at."""
        if tokens.shape[-1] != math.prod(self.volume_patch):
            tokens = inputs.mean_in_plane(tokens, self.volume_patch, self.ct_patch)
        return self.vision.embed_volume(inputs.hounsfield(tokens, self.window_hu), hidden=hidden)

    def pixels(self, name: str, tokens: Num[Array, "b n v"]) -> Float[Array, "b n v"]:
        """The patches of a modality in [-1, 1], as the tokenizers take them and as reconstruction aims at them."""
        return inputs.image(tokens) if name == "xray" else inputs.hounsfield(tokens, self.window_hu)

    def embed_pixels(
        self,
        name: str,
        pixels: Float[Array, "b n v"],
        grid: tuple[int, ...],
        hidden: vision.Hidden = None,
        lateral: vision.Lateral = None,
    ) -> Float[Array, "b n d"]:
        """Patches in [-1, 1], of a crop of any `grid` of tokens say, to tokens with positions of that grid."""
        if name == "xray":
            return self.vision.embed_image(pixels, grid, hidden, lateral)
        return self.vision.embed_volume(pixels, grid, hidden)

    def embed_ct(
        self, tokens: Num[Array, "b n v"], layers: Int[Array, "b k"], hidden: Bool[Array, "b m"] | None = None
    ) -> Float[Array, "b m d"]:
        """The joint sequence of a CT: tokens of the frontal view, of the chosen slices, then of the volume."""
        if not layers.shape[1]:
            return self.embed_volume(tokens, hidden)
        n, of_view = tokens.shape[1], math.prod(self._slice_grid) if self.frontal_view else 0
        hidden_parts = (None,) * 3 if hidden is None else jnp.split(hidden, [of_view, hidden.shape[1] - n], axis=1)
        embedded = [self._embed_slices(tokens, layers, hidden_parts[1]), self.embed_volume(tokens, hidden_parts[2])]
        if self.frontal_view:
            embedded.insert(0, self._embed_view(tokens, hidden_parts[0]))
        return jnp.concatenate(embedded, axis=1)

    @property
    def _slice_grid(self) -> tuple[int, ...]:
        return patches.grid((self.slice_size,) * 2, self.image_patch)

    def _embed_view(self, tokens: Num[Array, "b n v"], hidden: Bool[Array, "b m"] | None) -> Float[Array, "b m d"]:
        volume = patches.unpatchify(tokens, self.volume_grid, self.ct_patch)
        pixels = inputs.frontal_patches(volume, self.slice_size, self.image_patch)
        return self.vision.embed_image(pixels, self._slice_grid, hidden)

    def _embed_slices(
        self, tokens: Num[Array, "b n v"], layers: Int[Array, "b k"], hidden: Bool[Array, "b m"] | None
    ) -> Float[Array, "b m d"]:
        slices = selection.take_slices(tokens, layers, self.volume_grid, self.ct_patch, self.slices_per_layer)
        pixels = inputs.slice_patches(slices, self.slice_size, self.image_patch, self.window_hu)
        of_slice = jnp.repeat(layers, self.slices_per_layer, axis=1)
        return self.vision.embed_slices(pixels, of_slice, self._slice_grid, hidden)

    def encode(self, tokens: Float[Array, "b n d"], scores: bool = False) -> vision.Encoded:
        """Tokens through the shared ViT."""
        return self.vision.encode(tokens, scores)

    def choose_layers(self, scores: Float[Array, "b n"]) -> tuple[Float[Array, "b layers"], Int[Array, "b k"]]:
        """Eq. 2 and the top-k: scores of the volume's tokens to layer scores and the chosen layers."""
        by_layer = selection.slice_scores(scores, self.volume_grid[0])
        if self.slice_baseline is not None:
            by_layer = self.slice_baseline(by_layer)
        return by_layer, selection.topk_indices(by_layer, self.slices)

    def project(
        self, cls: dict[str, Float[Array, "_ d"]], reports: Float[Array, "r w"], train: bool = False
    ) -> tuple[Float[Array, "b e"], Float[Array, "r e"]]:
        """CLS of each modality, X-rays first, and the vectors of all their reports into the joint space.

        With BatchNorms by modality each is normalised by itself. A mixed batch otherwise spends most of its unit
        variance on the difference between X-rays and CTs, and little is left for what distinguishes two X-rays.
        """
        cls = {name: cls[name] for name in ("xray", "ct") if name in cls}  # jax.tree functions sort a dict's keys
        if self.project_image.by_modality:
            images = jnp.concatenate([self.project_image(x, train, name) for name, x in cls.items()])
        else:
            images = self.project_image(jnp.concatenate(list(cls.values())), train)
        return images, self.project_report(reports, train)

    def encode_text(self, tokens: TextIds, mask: TextMask, train: bool = False) -> Float[Array, "b w"]:
        """Reports to vectors of the report tower."""
        return self.report(tokens, mask, train).vector

    def encode_text_tokens(
        self, tokens: TextIds, mask: TextMask, train: bool = False, context: text.Context = None
    ) -> text.TextOutput:
        """Reports to the vectors of their words too; `context` is added to each word's embedding."""
        return self.report(tokens, mask, train, context)

    def embed_report(self, tokens: TextIds, mask: TextMask) -> Float[Array, "b e"]:
        """Reports into the joint space."""
        return self.project_report(self.encode_text(tokens, mask))

    def xray_features(self, tokens: UInt8[Array, "b n v"], lateral: vision.Lateral = None) -> Features:
        """Inference on X-rays: all tokens, nothing masked."""
        encoded = self.encode(self.embed_xray(tokens, lateral=lateral), scores=True)
        z = self.project_image(encoded.cls, modality="xray")
        return Features(encoded.cls, z, encoded.scores, None, None)

    def ct_features(self, tokens: Num[Array, "b n v"], with_slices: bool = True) -> Features:
        """Inference on CTs: the volume picks its slices, then the joint sequence, nothing masked.

        With `with_slices=False` it is the volume's tokens alone (docs/method_evaluation.md, no. 22); scores and chosen
        slices are computed all the same.
        """
        volume = self.encode(self.embed_volume(tokens), scores=True)
        by_layer, layers = self.choose_layers(volume.scores)
        encoded = self.encode(self.embed_ct(tokens, layers), scores=True) if with_slices else volume
        z = self.project_image(encoded.cls, modality="ct")
        return Features(encoded.cls, z, encoded.scores, by_layer, layers)

    def run_towers(self, batch: Batch) -> None:
        """Runs all but the heads once, so that `init` makes their parameters whatever an objective uses."""
        layers = jnp.zeros((len(batch["ct"]["tokens"]), self.slices), jnp.int32)
        self.embed_ct(batch["ct"]["tokens"], layers)
        if self.slice_baseline is not None:
            self.slice_baseline(jnp.zeros((1, self.volume_grid[0])))
        encoded = self.encode(self.embed_xray(batch["xray"]["tokens"]))
        report = self.encode_text(batch["xray"]["text"], batch["xray"]["text_mask"])
        for name in ("xray", "ct"):  # one after the other: their numbers of samples may differ
            self.project({name: encoded.cls}, report)


def build_model(config: ModelConfig, vocab_size: int, device: jax.Device | None = None) -> UniMedI:
    """UniMedI with a report tower of `vocab_size` words.

    "auto" in `attention`, `layers` and `remat` is what is fastest on `device` (docs/performance_trials.md,
    docs/compiling.md), which may be one that is compiled for alone; without a device the plain one. Parameters are
    float32 whatever `dtype` the arithmetic uses. The heads of an objective are not in it yet:
    `model.clone(head=objective.heads(model))`.

    Raises:
        ValueError: there is no such size.
    """
    visual = _size(sizes.VISION, "vision_size", config.vision_size)
    textual = _size(sizes.REPORT, "report_size", config.report_size)
    if config.score_layers > visual.depth:
        raise ValueError(f"config.model.score_layers={config.score_layers}, but the ViT has {visual.depth} layers")
    dtype, kind, remat = jnp.dtype(config.dtype), config.attention, config.remat
    unrolled = config.layers == "unrolled"
    if kind == "auto":
        kind = "xla" if device is None else attention.fitting(device, config.dtype)
    if config.layers == "auto":
        unrolled = device is not None and device.platform == "gpu"
    if remat == "auto":
        remat = "full" if device is not None and device.device_kind in ("TPU v5 lite", "TPU v6 lite") else "none"

    def pick(*names: str) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    image_grid = patches.grid((config.image_size,) * 2, config.image_patch)
    volume_grid = patches.grid(config.volume_size, config.volume_patch)
    computed = dict(dtype=dtype, remat=remat, unrolled=unrolled)
    options = pick("type_embedding", "lateral_type", "slice_embedding", "registers", "position_init")
    scoring = scores.Scoring(config.cls_key, config.score_layers, config.scores, config.sink_norm)
    tokenizers = _subpatches(config, visual.width, dtype)
    options |= {"scoring": scoring}
    tower = vision.VisionTower(*visual, image_grid, volume_grid, attention=kind, **options, **tokenizers, **computed)
    reading = config.report_positions, config.report_dropout, config.report_pooling
    report = text.ReportTower(vocab_size, *textual, *reading, **computed)
    project = config.embedding, config.projection_hidden, config.projection
    image = heads.Projection(*project, config.norm_by_modality, dtype)
    report_projection = heads.Projection(*project, dtype=dtype)
    head_sizes = heads.Sizes(config.prototypes_cls, config.prototypes_patch, config.head_hidden, config.head_bottleneck)
    rest = pick("image_patch", "volume_patch", "window_hu", "slice_size", "slices_per_layer", "slices", "frontal_view")
    if config.slice_baseline:
        rest["slice_baseline"] = scores.SliceBaseline(volume_grid[0], config.slice_baseline)
    rest["ct_patch"] = config.ct_input[1]
    return UniMedI(tower, report, image, report_projection, head={}, head_sizes=head_sizes, **rest)


def _subpatches(config: ModelConfig, width: int, dtype: Any) -> dict[str, tokenizer.SubPatches]:
    if config.tokenizer == "linear":
        return {}
    cuts = {
        "subpatch_2d": (config.image_patch, config.image_subpatch),
        "subpatch_3d": (config.volume_patch, config.volume_subpatch),
    }
    return {name: tokenizer.SubPatches(width, *cut, config.subpatch_hidden, dtype) for name, cut in cuts.items()}


def _size(known: Mapping[str, sizes.Size], setting: str, name: str) -> sizes.Size:
    if name not in known:
        raise ValueError(f"{setting} must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def example_batch(model: nn.Module, length: int = 8, texts: tuple[str, ...] = ("text",)) -> dict[str, dict[str, Any]]:
    """One X-ray and one CT of zeros in the batch's format, for `init` and for shapes; `texts`: its token sequences."""

    def part(n: int, patch: tuple[int, ...], dtype: Any) -> dict[str, Any]:
        pixels = jnp.zeros((1, n, math.prod(patch)), dtype)
        text = jnp.zeros((1, length), jnp.int32)
        masks = {f"{name}_mask": jnp.ones((1, length), bool) for name in texts}
        return {"tokens": pixels, **dict.fromkeys(texts, text), **masks}

    views = {"lateral": jnp.zeros(1, bool)} if model.lateral_type else {}
    return {
        "xray": part(math.prod(model.vision.image_grid), model.image_patch, jnp.uint8) | views,
        "ct": part(math.prod(model.volume_grid), model.ct_patch, jnp.int16),
    }


def example(
    batch: Mapping[str, Mapping[str, Any]], rows: Mapping[str, int], where: jax.sharding.Sharding, devices: int = 1
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """A batch of one sample each as shapes for `rows` samples per device; 0 rows leave a modality out."""
    return {
        name: {
            field: jax.ShapeDtypeStruct((rows[name] * devices, *x.shape[1:]), x.dtype, sharding=where)
            for field, x in part.items()
        }
        for name, part in batch.items()
        if rows[name]
    }


def init(model: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Fresh variables of the towers, of UniMedI or of a released model: {"params": ..., "batch_stats": ...}.

    Linear projections have no batch_stats.
    """
    return model.init(key, example_batch(model), method="run_towers")
