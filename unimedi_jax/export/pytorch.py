"""UniMedI in PyTorch: loads an export and embeds X-rays, CTs and reports. It needs no JAX; copy it if you like.

    model = load("export")
    model.xrays(films).z    # X-rays uint8 (b, y, x), dense = bright             -> unit vectors (b, e)
                            # of a model with "lateral_type": model.xrays(films, lateral), boolean (b,)
    model.cts(volumes).z    # volumes int16 Hounsfield units (b, z, y, x)        -> unit vectors (b, e)
    model.reports(texts)    # list of b strings                                -> unit vectors (b, e)

The export's contract.json says how a file becomes such an X-ray or volume, and of what size. Parameters have the names
of timm's ViT and transformers' BERT.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

AIR_HU = -1024.0  # beside a volume


class Features(NamedTuple):
    """What a batch of X-rays or CTs gives."""

    cls: torch.Tensor  # (b, d) for probes and decoders
    z: torch.Tensor  # (b, e) unit vectors, comparable with reports
    scores: torch.Tensor  # (b, n) CLS attention, mean over layers and heads (eq. 1)
    slice_scores: torch.Tensor | None  # (b, depth layers), CTs (eq. 2)
    layers: torch.Tensor | None  # (b, k) chosen depth layers, CTs


class Attention(nn.Module):
    """Self-attention; also returns the layer's part of the scores of eq. 1.

    That is the attention of CLS to the patches and which patches count; for attention rollout all of the attention.
    """

    def __init__(self, a: dict[str, Any]) -> None:
        super().__init__()
        width, self.heads = a["vision"]["width"], a["vision"]["heads"]
        self.prefix, self.cls_key, self.sink_norm = 1 + a["registers"], a["cls_key"], a["sink_norm"]
        self.rollout = a["scores"] == "rollout"
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, stream: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        batch, n, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, width)
        if self.rollout:
            return self.proj(out), ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1),)
        logits = (q[:, :, :1] @ k.transpose(-1, -2))[:, :, 0] * q.shape[-1] ** -0.5
        counted = ~self._sinks(stream[:, self.prefix :])
        patches = logits[..., self.prefix :].masked_fill(~counted[:, None], -torch.inf)
        logits = torch.cat([logits[..., : self.prefix], patches], -1)
        row = logits.softmax(-1)[..., self.prefix :] if self.cls_key else patches.softmax(-1)
        return self.proj(out), (row.mean(1), counted)

    def _sinks(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens of outlier norm, by the modified z-score."""
        if not self.sink_norm:
            return torch.zeros_like(x[..., 0], dtype=torch.bool)
        norms = x.norm(dim=-1)
        above = norms - _median(norms)
        return 0.6745 * above > self.sink_norm * _median(above.abs())


class Block(nn.Module):
    """Pre-norm layer of the ViT."""

    def __init__(self, a: dict[str, Any]) -> None:
        super().__init__()
        width, mlp_width = a["vision"]["width"], a["vision"]["mlp_width"]
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(a)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp_width), "fc2": nn.Linear(mlp_width, width)})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        attended, scores = self.attn(self.norm1(x), x)
        x = x + attended
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))), scores


class SubPatches(nn.Module):
    """The same MLP on each sub-patch of a patch; all of them and their maximum to the width."""

    def __init__(self, width: int, hidden: int, patch: Sequence[int], subpatch: Sequence[int]) -> None:
        super().__init__()
        self.subpatch = tuple(subpatch)
        self.cells = tuple(whole // part for whole, part in zip(patch, subpatch, strict=True))
        count = int(np.prod(self.cells))
        self.fc1, self.fc2 = nn.Linear(int(np.prod(self.subpatch)), hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear((count + 1) * hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, *space) to what is added to its tokens (b, n, d)."""
        rank = len(self.cells)
        cuts = zip(x.shape[1:], self.cells, self.subpatch, strict=True)
        x = x.reshape(x.shape[0], *(n for side, cells, part in cuts for n in (side // (cells * part), cells, part)))
        grid, cells, part = (range(first, x.ndim, 3) for first in (1, 2, 3))
        x = x.permute(0, *grid, *cells, *part).flatten(1 + 2 * rank)
        x = F.gelu(self.fc2(F.gelu(self.fc1(x)))).flatten(1 + rank, 2 * rank).flatten(1, rank)  # (b, n, s, c)
        return self.out(torch.cat([x.flatten(2), x.amax(2)], -1))


class VisionTower(nn.Module):
    """T_2D, T_3D and the ViT they share."""

    def __init__(self, a: dict[str, Any]) -> None:
        super().__init__()
        size = a["vision"]
        width = size["width"]
        self.image_grid, self.volume_grid = tuple(a["image_grid"]), tuple(a["volume_grid"])
        self.patch_embed = nn.ModuleDict({"proj": _patches(nn.Conv2d, width, a["image_patch"])})
        self.patch_embed_3d = nn.ModuleDict({"proj": _patches(nn.Conv3d, width, a["volume_patch"])})
        pieces = a["tokenizer"] == "nonlinear"
        self.subpatch_embed, self.subpatch_embed_3d = (
            SubPatches(width, a["subpatch_hidden"], a[f"{name}_patch"], a[f"{name}_subpatch"]) if pieces else None
            for name in ("image", "volume")
        )
        self.cls_token = _vector(width)
        self.mask_token = _vector(width)  # of training; inference hides nothing
        self.reg_token = nn.Parameter(torch.zeros(1, a["registers"], width)) if a["registers"] else None
        self.prefix, self.score_layers, self.scores = 1 + a["registers"], a["score_layers"], a["scores"]
        self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix + int(np.prod(self.image_grid)), width))
        self.pos_embed_3d = nn.Parameter(torch.zeros(1, int(np.prod(self.volume_grid)), width))
        self.type_2d, self.type_3d = (_vector(width) if a["type_embedding"] else None for _ in range(2))
        self.type_lateral = _vector(width) if a["lateral_type"] else None
        depth = self.volume_grid[0]
        self.depth_of_slice = nn.Parameter(torch.zeros(depth, width)) if a["slice_embedding"] else None
        self.blocks = nn.ModuleList(Block(a) for _ in range(size["depth"]))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def embed_image(self, pixels: torch.Tensor, lateral: torch.Tensor | None = None) -> torch.Tensor:
        """(b, y, x) in [-1, 1] to tokens with positions; `lateral` (b,) says which are X-rays from the side."""
        x = self.patch_embed["proj"](pixels[:, None])
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2) + self._positions(grid)
        x = x if self.subpatch_embed is None else x + self.subpatch_embed(pixels)
        x = x if self.type_2d is None else x + self.type_2d
        return x if lateral is None else x + torch.where(lateral[:, None, None], self.type_lateral, 0.0)

    def embed_volume(self, voxels: torch.Tensor) -> torch.Tensor:
        """(b, z, y, x) in [-1, 1] to tokens with positions."""
        x = self.patch_embed_3d["proj"](voxels[:, None]).flatten(2).transpose(1, 2) + self.pos_embed_3d
        x = x if self.subpatch_embed_3d is None else x + self.subpatch_embed_3d(voxels)
        return x if self.type_3d is None else x + self.type_3d

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens to CLS (b, d) and the scores of eq. 1 (b, n)."""
        prefix = self.cls_token if self.reg_token is None else torch.cat([self.cls_token, self.reg_token], 1)
        prefix = (prefix + self.pos_embed[:, : self.prefix]).expand(x.shape[0], -1, -1)
        x, parts = torch.cat([prefix, x], 1), []
        for block in self.blocks:
            x, part = block(x)
            parts.append(part)
        return self.norm(x)[:, 0], self._combine(parts[-self.score_layers :])

    def _combine(self, parts: Sequence[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """The scores (b, n) from the parts of the layers that count."""
        if self.scores == "mean":
            rows, counted = (torch.stack(part) for part in zip(*parts, strict=True))
            return rows.sum(0) / counted.sum(0).clamp_min(1)
        last = parts[-1][0]
        row = torch.eye(last.shape[-1], device=last.device, dtype=last.dtype)[:1].expand(last.shape[0], -1)
        for (weights,) in reversed(parts):
            row = (row + (row[:, None] @ weights)[:, 0]) / 2
        return row[:, self.prefix :]

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        table = self.pos_embed[0, self.prefix :]
        if grid == self.image_grid:
            return table[None]
        y, x = (resize_matrix(old, new, "cubic") for old, new in zip(self.image_grid, grid, strict=True))
        table = table.reshape(*self.image_grid, -1)
        return torch.einsum("ay,bx,yxd->abd", y.to(table), x.to(table), table).reshape(1, -1, table.shape[-1])


class ReportLayer(nn.Module):
    """Post-norm layer of BERT."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": own, "output": _dense_and_norm(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, mlp_width)})
        self.output = _dense_and_norm(mlp_width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, n, width = x.shape
        own, out = self.attention["self"], self.attention["output"]
        q, k, v = (own[m](x).reshape(batch, n, self.heads, -1).transpose(1, 2) for m in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = out["LayerNorm"](x + out["dense"](attended.transpose(1, 2).reshape(batch, n, width)))
        hidden = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](hidden))


class ReportTower(nn.Module):
    """BERT without its pooler."""

    def __init__(self, a: dict[str, Any]) -> None:
        super().__init__()
        size = a["report"]
        width = size["width"]
        self.pooling = size["pooling"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(size["vocab_size"], width),
                "position_embeddings": nn.Embedding(size["positions"], width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        layers = (ReportLayer(width, size["heads"], size["mlp_width"]) for _ in range(size["depth"]))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token ids (b, l) and mask, True = token, to one vector a report (b, d)."""
        e = self.embeddings
        place = e["position_embeddings"].weight[: ids.shape[1]] + e["token_type_embeddings"].weight[:1]
        x = e["LayerNorm"](e["word_embeddings"](ids) + place)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        if self.pooling == "cls":
            return x[:, 0]
        weight = mask.to(x)[..., None]
        return (x * weight).sum(1) / weight.sum(1)


class Projection(nn.Module):
    """CLS to a unit vector of the joint space."""

    def __init__(self, width: int, a: dict[str, Any], modalities: Sequence[str] = ()) -> None:
        super().__init__()
        self.own = bool(modalities)
        if a["projection"] == "linear":
            self.fc = nn.Linear(width, a["embedding"], bias=False)
            return
        self.fc1 = nn.Linear(width, a["projection_hidden"])
        self.fc2 = nn.Linear(a["projection_hidden"], a["embedding"])
        for end in [f"_{modality}" for modality in modalities] or [""]:
            self.add_module(f"norm1{end}", nn.BatchNorm1d(a["projection_hidden"], eps=1e-5))
            self.add_module(f"norm2{end}", nn.BatchNorm1d(a["embedding"], eps=1e-5, affine=False))

    def forward(self, x: torch.Tensor, modality: str = "") -> torch.Tensor:
        if hasattr(self, "fc"):
            return _unit(self.fc(x))
        end = f"_{modality}" if self.own else ""
        norm1, norm2 = getattr(self, f"norm1{end}"), getattr(self, f"norm2{end}")
        return _unit(norm2(self.fc2(F.relu(norm1(self.fc1(x))))))


class Prototypes(nn.Module):
    """DINO's head, of training: vectors to logits of prototypes."""

    def __init__(self, width: int, hidden: int, narrow: int, prototypes: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, narrow)
        self.last_layer = nn.Linear(narrow, prototypes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _unit(self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x))))))
        return x @ F.normalize(self.last_layer.weight, dim=1).T


class UniMedI(nn.Module):
    """The whole model. `a` is the export's "architecture"; `tokenize` turns texts into ids and mask."""

    def __init__(
        self, a: dict[str, Any], tokenize: Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__()
        self.a, self.tokenize = a, tokenize
        wide = a["vision"]["width"]
        self.vision, self.report = VisionTower(a), ReportTower(a)
        self.project_image = Projection(wide, a, ("xray", "ct") if a["norm_by_modality"] else ())
        self.project_report = Projection(a["report"]["width"], a)
        if a["slice_baseline"]:
            self.slice_baseline = nn.Module()
            self.slice_baseline.register_buffer("mean", torch.zeros(self.vision.volume_grid[0]))
        for name, sizes in a["heads"].items():
            self.add_module(f"head_{name}", Prototypes(wide, *sizes))

    def xrays(self, films: torch.Tensor, lateral: torch.Tensor | None = None) -> Features:
        """X-rays, uint8 (b, y, x) of the training records' size, bright = dense.

        `lateral`, boolean (b,), says which are lateral; without it all are frontal. A model that does not distinguish
        them takes none.
        """
        if lateral is not None and self.vision.type_lateral is None:
            raise ValueError("this model was trained without config.model.lateral_type: leave `lateral` out")
        crop = self.a["crop"]
        start = [(side - crop) // 2 for side in films.shape[1:]]
        films = films[:, start[0] : start[0] + crop, start[1] : start[1] + crop]
        pixels = _shrink(films, (self.a["image_size"],) * 2) / 127.5 - 1
        cls, scores = self.vision.encode(self.vision.embed_image(pixels, lateral))
        return Features(cls, self.project_image(cls, "xray"), scores, None, None)

    def cts(self, volumes: torch.Tensor) -> Features:
        """CTs, int16 Hounsfield units (b, z, y, x), axes growing to Superior, Posterior, Left."""
        low, high = self.a["window_hu"]
        size, source = self.a["volume_size"], self.a["slice_source"]
        fine = self._cut(volumes, [size[0], *source] if any(source) else size)
        x, planes = ((v.clamp(low, high) - low) * (2 / (high - low)) - 1 for v in (_shrink(fine, size), fine))
        volume = self.vision.embed_volume(x)
        cls, scores = self.vision.encode(volume)
        by_layer = scores.reshape(x.shape[0], self.vision.volume_grid[0], -1).mean(-1)
        if self.a["slice_baseline"]:
            by_layer = by_layer - self.slice_baseline.mean
        layers = by_layer.topk(self.a["slices"]).indices.sort().values
        if self.a["ct_slices"]:
            view = [self._frontal(fine)] if self.a["frontal_view"] else []
            cls, scores = self.vision.encode(torch.cat([*view, self._slices(planes, layers), volume], 1))
        return Features(cls, self.project_image(cls, "ct"), scores, by_layer, layers)

    def _cut(self, volumes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Records (b, z, y, x) as volumes of `size`: their central windows, or the whole of them."""
        if self.a.get("window", "whole") != "whole":
            return _central(volumes, size)
        if any(old % new for old, new in zip(volumes.shape[1:], size, strict=True)):
            return _resample(volumes, size)
        return _shrink(volumes, size)

    def reports(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (b, e) of report texts."""
        return self.tokens(*self.tokenize(texts))

    def tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The same from token ids (b, l) and their mask."""
        return self.project_report(self.report(ids, mask))

    def _slices(self, x: torch.Tensor, layers: torch.Tensor) -> torch.Tensor:
        """Tokens of the chosen layers' slices, resized to the scale of the X-rays, one after the other."""
        depth, per_layer = self.a["volume_patch"][0], self.a["slices_per_layer"]
        offsets = torch.arange(depth, device=x.device) if per_layer > 1 else torch.tensor([depth // 2], device=x.device)
        where = (layers[..., None] * depth + offsets).flatten(1)  # (b, s)
        planes = x.gather(1, where[:, :, None, None].expand(-1, -1, *x.shape[2:])).flatten(0, 1)
        tokens = self.vision.embed_image(self._resize(planes))
        tokens = tokens.reshape(x.shape[0], where.shape[1], -1, tokens.shape[-1])
        if self.vision.depth_of_slice is not None:
            tokens = tokens + self.vision.depth_of_slice[layers.repeat_interleave(per_layer, 1)][:, :, None]
        return tokens.flatten(1, 2)

    def _frontal(self, hu: torch.Tensor) -> torch.Tensor:
        """Tokens of the mean attenuation from front to back, head up, stretched to its own range."""
        view = (1 + hu / 1000).clamp_min(0).mean(2).flip(1)
        low, high = view.amin((1, 2), keepdim=True), view.amax((1, 2), keepdim=True)
        view = (view - low) * (2 / (high - low).clamp_min(1e-6)) - 1
        return self.vision.embed_image(self._resize(view))

    def _resize(self, planes: torch.Tensor) -> torch.Tensor:
        size = self.a["slice_size"]
        if planes.shape[1:] == (size, size):
            return planes
        y, x = (resize_matrix(old, size, "linear").to(planes) for old in planes.shape[1:])
        return y @ planes @ x.T


class Encoder(nn.Module):
    """One of a model's methods ("xray", "ct", "report") as a module of its own: what an exporter takes."""

    def __init__(self, model: UniMedI, name: str) -> None:
        super().__init__()
        self.model = model
        self.method = {"xray": model.xrays, "ct": model.cts, "report": model.tokens}[name]

    def forward(self, *x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.method(*x)
        return (output,) if torch.is_tensor(output) else tuple(value for value in output if value is not None)


def load(folder: str | pathlib.Path) -> UniMedI:
    """The model of an exported folder, in evaluation mode, float32, on the CPU."""
    folder = pathlib.Path(folder)
    a = json.loads((folder / "unimedi.json").read_text(encoding="utf-8"))["architecture"]
    model = UniMedI(a, tokenizer(folder / "report" / "tokenizer.json", a["report_length"], a["report"]["padding"]))
    model.load_state_dict(load_file(folder / "unimedi.safetensors"))
    return model.eval()


def tokenizer(path: pathlib.Path, length: int, padding: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Texts to ids int64 (b, length) and mask bool, True = token."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(path))
    words.enable_truncation(length)
    words.enable_padding(length=length, pad_id=padding)

    def encode(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        encodings = words.encode_batch(list(texts))
        ids, mask = (torch.tensor([getattr(one, name) for one in encodings]) for name in ("ids", "attention_mask"))
        return ids, mask.bool()

    return encode


def resize_matrix(old: int, new: int, kernel: str) -> torch.Tensor:
    """(new, old) float32: one axis resized with half-cell centres, "linear" anti-aliased, "cubic" (Keys, -0.5) not."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    far = np.abs(place[:, None] - np.arange(old))
    if kernel == "linear":
        weights = np.clip(1 - far / max(old / new, 1), 0, None)
    else:
        near, mid = ((1.5 * far - 2.5) * far) * far + 1, ((-0.5 * far + 2.5) * far - 4) * far + 2
        weights = np.where(far < 1, near, np.where(far < 2, mid, 0))
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def _shrink(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Block mean of integers (b, ...) to `size`, rounded; float32."""
    steps = [old // new for old, new in zip(x.shape[1:], size, strict=True)]
    cells = [n for pair in zip(size, steps, strict=True) for n in pair]
    total = x.int().reshape(x.shape[0], *cells).sum(tuple(range(2, 2 * len(steps) + 1, 2)))
    return torch.round(total.float() / float(np.prod(steps)))


def _central(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle (b, *size) of integers (b, z, y, x), air where these are fewer; float32."""
    for axis, wide in enumerate(size, start=1):
        n = x.shape[axis]
        x = x.narrow(axis, max(n - wide, 0) // 2, min(n, wide))
    beside = [((wide - n) // 2, wide - n - (wide - n) // 2) for n, wide in zip(x.shape[1:], size, strict=True)]
    return F.pad(x.float(), [n for pair in beside[::-1] for n in pair], value=AIR_HU)


def _resample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Whole volumes (b, z, y, x) at `size`, air around them in plane to its proportions, rounded; float32."""
    depth, height, width = x.shape[1:]
    field = depth, max(height, width * size[1] / size[2]), max(width, height * size[2] / size[1])
    axes = [axis_matrix(*axis).to(x.device) for axis in zip(x.shape[1:], size, field, strict=True)]
    inside = torch.einsum("i,j,k->ijk", *(axis.sum(1) for axis in axes))
    hu = torch.einsum("zi,yj,xk,bijk->bzyx", *axes, x.double())
    return torch.round(hu + AIR_HU * (1 - inside)).float()


def axis_matrix(old: int, new: int, field: float) -> torch.Tensor:
    """(new, old) float64: one axis onto a field of `field` cells with the same centre, by the share of each covered.

    Shrinking it is the mean of what a new cell covers, growing it is linear between the middles of the old ones.
    """
    wide = field / new
    edges = np.arange(new + 1) * wide - (field - old) / 2
    if wide > 1:
        low, high = (np.arange(old) + one for one in (0, 1))
        weights = (np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)).clip(0) / wide
    else:
        place = (edges[:-1] + edges[1:])[:, None] / 2 - 0.5
        inside = (place >= -0.5 - 1e-9) & (place <= old - 0.5 + 1e-9)
        weights = (1 - np.abs(place.clip(0, old - 1) - np.arange(old))).clip(0) * inside
    return torch.from_numpy(weights)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True).clamp_min(1e-16))


def _median(x: torch.Tensor) -> torch.Tensor:
    """Over the last axis, the mean of the middle two of an even number."""
    ordered, n = x.sort(-1).values, x.shape[-1]
    return (ordered[..., (n - 1) // 2, None] + ordered[..., n // 2, None]) / 2


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, 1, width))


def _patches(conv: type[nn.Module], width: int, patch: Sequence[int]) -> nn.Module:
    return conv(1, width, tuple(patch), stride=tuple(patch))


def _dense_and_norm(inside: int, outside: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inside, outside), "LayerNorm": nn.LayerNorm(outside, eps=1e-12)})
