"""The same training step as one would write it in PyTorch today: timm's ViT, transformers' BERT, SDPA, fused AdamW.

Same shapes, same parameters, same masking and losses; of eq. 1 it too computes the CLS row alone. timm's blocks are
written out, with its names: timm cannot be imported without a torchvision of torch's own build. On an NVIDIA GPU where
there is one. Run in a process of its own (`bench.process`), where no JAX is imported.
"""

import copy
import math
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812 (as everyone calls it)

from unimedi_jax import patches
from unimedi_jax.bench.process import random_batch
from unimedi_jax.models import sizes

Tensor = torch.Tensor
TEACHER = ("vision", "head_cls", "head_patch")


class Block(nn.Module):
    """timm's block: pre-norm attention and MLP."""

    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = (nn.LayerNorm(size.width, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        wide, narrow = nn.Linear(size.width, size.mlp_width), nn.Linear(size.mlp_width, size.width)
        self.mlp = nn.Sequential(wide, nn.GELU(), narrow)

    def forward(self, x: Tensor, scores: bool) -> tuple[Tensor, Tensor | None]:
        """Tokens, and with `scores` what CLS attends to, the mean of the heads."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        row = None
        if scores:
            logits = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            row = logits.softmax(-1)[:, :, 0, 1:].mean(1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), row


class SubPatches(nn.Module):
    """What models/tokenizer.py adds to a linear tokenizer: an MLP on each sub-patch, all of them and their maximum."""

    def __init__(self, width: int, patch: tuple[int, ...], subpatch: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.grid, self.subpatch = patches.grid(patch, subpatch), subpatch
        first, second = nn.Linear(math.prod(subpatch), hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU())
        self.out = nn.Linear((math.prod(self.grid) + 1) * hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Patches (b, n, v) to tokens."""
        axes = len(self.grid)
        sides = [side for pair in zip(self.grid, self.subpatch, strict=True) for side in pair]
        order = [0, 1, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2)]
        cut = x.unflatten(-1, sides).permute(order).flatten(2 + axes).flatten(2, 1 + axes)
        pieces = self.mlp(cut)
        return self.out(torch.cat([pieces.flatten(2), pieces.amax(2)], dim=-1))


class Vision(nn.Module):
    """Both tokenizers and the shared ViT."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        size = sizes.VISION[settings["vision_size"]]
        image = (settings["image_size"] // settings["image_patch"][0]) ** 2
        self.volume_grid = patches.grid(tuple(settings["volume_size"]), tuple(settings["volume_patch"]))
        self.patch_2d = nn.Linear(math.prod(settings["image_patch"]), size.width)
        self.patch_3d = nn.Linear(math.prod(settings["volume_patch"]), size.width)
        self.inside_2d = self.inside_3d = None
        if settings["tokenizer"] == "nonlinear":
            self.inside_2d, self.inside_3d = (
                SubPatches(
                    size.width,
                    tuple(settings[f"{kind}_patch"]),
                    tuple(settings[f"{kind}_subpatch"]),
                    settings["subpatch_hidden"],
                )
                for kind in ("image", "volume")
            )
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, size.width))
        self.position_2d = nn.Parameter(0.02 * torch.randn(1, 1 + image, size.width))
        self.position_3d = nn.Parameter(0.02 * torch.randn(1, math.prod(self.volume_grid), size.width))
        self.mask_token = nn.Parameter(torch.zeros(size.width))  # trained by iBOT's masking only
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)

    def image(self, x: Tensor) -> Tensor:
        """Patches in [-1, 1] to tokens."""
        return _token(self.patch_2d, self.inside_2d, x) + self.position_2d[:, 1:]

    def volume(self, x: Tensor) -> Tensor:
        """Patches in [-1, 1] to tokens."""
        return _token(self.patch_3d, self.inside_3d, x) + self.position_3d

    def forward(self, x: Tensor, scores: bool = False) -> tuple[Tensor, Tensor | None]:
        """Tokens through the ViT; with `scores` also eq. 1."""
        cls = (self.cls_token + self.position_2d[:, :1]).expand(len(x), -1, -1)
        x, rows = torch.cat([cls, x], dim=1), []
        for block in self.blocks:
            x, row = block(x, scores)
            rows.append(row)
        return self.norm(x), torch.stack(rows).mean(0) if scores else None


def projection(width: int, hidden: int, out: int) -> nn.Sequential:
    """MGCA's global embedding."""
    first = nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)
    return nn.Sequential(*first, nn.Linear(hidden, out), nn.BatchNorm1d(out, affine=False))


class Rows(nn.Module):
    """BatchNorm over all rows of (b, n, d), of the batch at hand alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised."""
        return self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Head(nn.Module):
    """DINO's head: MLP, unit length, weight-normalised prototypes."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, norm: bool) -> None:
        super().__init__()
        first, second = ([nn.Linear(size, hidden), *([Rows(hidden)] * norm), nn.GELU()] for size in (width, hidden))
        self.mlp = nn.Sequential(*first, *second, nn.Linear(hidden, bottleneck))
        self.last = nn.Parameter(0.02 * torch.randn(prototypes, bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the prototypes."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.last, dim=-1))


class Twin:
    """Model, optimiser and one step."""

    def __init__(self, settings: dict[str, Any]) -> None:
        torch.manual_seed(0)
        model, goal = settings["model"], settings["objective"]
        width, report = sizes.VISION[model["vision_size"]].width, sizes.REPORT[model["report_size"]]
        self._model, self._goal, self._optim = model, goal, settings["optim"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        size = (width, model["head_hidden"], model["head_bottleneck"])
        bert = transformers.BertConfig(
            vocab_size=settings["vocab_size"],
            hidden_size=report.width,
            num_hidden_layers=report.depth,
            num_attention_heads=report.heads,
            intermediate_size=report.mlp_width,
            max_position_embeddings=model["report_positions"],
            hidden_dropout_prob=model["report_dropout"],
            attention_probs_dropout_prob=model["report_dropout"],
            attn_implementation="sdpa",
        )
        self.student = nn.ModuleDict(
            {
                "vision": Vision(model),
                "report": transformers.BertModel(bert, add_pooling_layer=False),
                "project_image": projection(width, model["projection_hidden"], model["embedding"]),
                "project_report": projection(report.width, model["projection_hidden"], model["embedding"]),
                "head_cls": Head(*size, model["prototypes_cls"], goal["head_norm"]),
                "head_patch": Head(*size, model["prototypes_patch"], goal["head_norm"]),
            }
        ).train()
        self.student.to(self._device)
        self.teacher = nn.ModuleDict({name: copy.deepcopy(self.student[name]) for name in TEACHER})
        self.teacher.requires_grad_(False)
        counts = {name: model[f"prototypes_{name}"] for name in ("cls", "patch")}
        self._centres = {name: torch.zeros(count, device=self._device) for name, count in counts.items()}
        decay = settings["optim"]["weight_decay"]
        self._adamw = torch.optim.AdamW(self.student.parameters(), lr=2e-5, weight_decay=decay, fused=True)
        self._batch = {
            name: {key: torch.from_numpy(array).to(self._device) for key, array in part.items()}
            for name, part in random_batch(settings).items()
        }
        self._bfloat16 = settings.get("bfloat16", False) or model["dtype"] == "bfloat16"
        count = sum(p.numel() for p in self.student.parameters())
        self._loss = torch.compile(self._weighted) if settings.get("compiled") else self._weighted
        self.facts = {"parameters": count, "torch": torch.__version__, "threads": torch.get_num_threads()}

    def step(self) -> None:
        """Loss, gradients, optimiser, moving averages."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            loss = self._loss()
        self._adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self._optim["clip_norm"], foreach=True)
        self._adamw.step()
        student = [p for name in TEACHER for p in self.student[name].parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), student, 0.004)
        self.facts["loss"] = loss.item()  # waits for the device

    def _weighted(self) -> Tensor:
        views = {name: self._views(name, part["tokens"]) for name, part in self._batch.items()}
        return self._contrast(views) + self._distil(views)

    def peak(self) -> int | None:
        """The most bytes of the GPU's memory that tensors took; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def _views(self, name: str, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """CLS of student and teacher, and their tokens at the positions that the student gets."""
        pixels = tokens.float() / 127.5 - 1 if name == "xray" else self._window(tokens)
        with torch.no_grad():
            layers = None if name == "xray" else self._layers(pixels)
            slices = None if name == "xray" or not self._model["slices"] else self._slices(tokens, layers)
            target, scores = self.teacher["vision"](self._embed(self.teacher["vision"], name, pixels, slices), True)
            count = math.ceil(round((1 - self._goal["mask_ratio"]) * scores.shape[1], 6))
            where = scores.topk(count, dim=1).indices.sort(dim=1).values
        embedded = self._embed(self.student["vision"], name, pixels, slices)
        student, _ = self.student["vision"](_gather(embedded, where))
        return student[:, 0], target[:, 0], student[:, 1:], _gather(target[:, 1:], where)

    def _embed(self, vision: Vision, name: str, pixels: Tensor, slices: Tensor | None) -> Tensor:
        if name == "xray":
            return vision.image(pixels)
        volume = vision.volume(pixels)
        if slices is None:
            return volume
        flat = vision.image(slices.flatten(0, 1))
        return torch.cat([flat.unflatten(0, slices.shape[:2]).flatten(1, 2), volume], dim=1)

    def _window(self, x: Tensor) -> Tensor:
        low, high = self._model["window_hu"]
        return (x.float().clamp(low, high) - low) * (2 / (high - low)) - 1

    def _layers(self, pixels: Tensor) -> Tensor:
        """The depth layers that the teacher's attention over the volume chooses (eq. 2)."""
        teacher = self.teacher["vision"]
        _, scores = teacher(teacher.volume(pixels), True)
        by_layer = scores.unflatten(1, (teacher.volume_grid[0], -1)).mean(-1)
        return by_layer.topk(self._model["slices"], dim=1).indices.sort(dim=1).values

    def _slices(self, tokens: Tensor, layers: Tensor) -> Tensor:
        """Patches of the centre slices of the chosen layers, (b, k, n, v)."""
        grid, (z, y, x) = self.teacher["vision"].volume_grid, self._model["volume_patch"]
        chosen = _gather(tokens.unflatten(1, (grid[0], -1)), layers).unflatten(2, grid[1:]).unflatten(-1, (z, y, x))
        plane = self._window(chosen[..., z // 2, :, :]).permute(0, 1, 2, 4, 3, 5)  # b k gy py gx px
        plane = plane.flatten(4, 5).flatten(2, 3)
        plane = F.interpolate(plane, (self._model["slice_size"],) * 2, mode="bilinear")
        patch = self._model["image_patch"][0]
        cut = plane.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).transpose(3, 4)  # b k gy gx py px
        return cut.flatten(4, 5).flatten(2, 3)

    def _contrast(self, views: dict[str, Any]) -> Tensor:
        cls = torch.cat([view[0] for view in views.values()])
        text, mask = (torch.cat([part[key] for part in self._batch.values()]) for key in ("text", "text_mask"))
        tokens = self.student["report"](input_ids=text, attention_mask=mask).last_hidden_state
        pooled = tokens[:, 0] if self._model["report_pooling"] == "cls" else _mean(tokens, mask)
        image = F.normalize(self.student["project_image"](cls).float(), dim=-1)
        report = F.normalize(self.student["project_report"](pooled).float(), dim=-1)
        logits = image @ report.T / self._goal["temperature"]
        target = torch.arange(len(logits), device=self._device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _distil(self, views: dict[str, Any]) -> Tensor:
        total = torch.zeros((), device=self._device)
        pairs = {"cls": lambda v: (v[0][:, None], v[1][:, None]), "patch": lambda v: (v[2], v[3])}
        for name, pick in pairs.items():
            means, parts = [], []
            for view in views.values():
                student, target = pick(view)
                logits = self.student[f"head_{name}"](student).float() / self._goal["student_temperature"]
                with torch.no_grad():
                    scores = self.teacher[f"head_{name}"](target).float()
                    probabilities = ((scores - self._centres[name]) / 0.04).softmax(-1)
                    means.append(scores.mean(1))
                parts.append(-(probabilities * logits.log_softmax(-1)).sum(-1).mean(1))
            self._centres[name].lerp_(torch.cat(means).mean(0), 1 - self._goal["centre_momentum"])
            total = total + torch.cat(parts).mean() * self._goal["weight_icl" if name == "cls" else "weight_pcl"]
        return total


def _token(linear: nn.Linear, inside: SubPatches | None, x: Tensor) -> Tensor:
    return linear(x) if inside is None else linear(x) + inside(x)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.take_along_dim(index.reshape(*index.shape, *(1,) * (x.ndim - 2)), dim=1)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    weight = mask[..., None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)


make = Twin  # what `process.serve` calls
