"""The export job: a checkpoint as files that timm, transformers and plain PyTorch load, with proof that they agree."""

import json
import logging
import pathlib
import shutil
from importlib import resources
from typing import Any

import numpy as np
import safetensors.numpy

from data.errors import UserError
from unimedi_jax import writers
from unimedi_jax.convert import names
from unimedi_jax.export import card, parity
from unimedi_jax.inference import pretrained

LOG = logging.getLogger(__name__)
OWN = ("patch_embed_3d.", "pos_embed_3d", "mask_token", "type_2d", "type_3d", "depth_of_slice")  # timm has none
MODULE = "unimedi_torch.py"


def run(config: Any) -> None:
    """Writes `config.out` from `config.checkpoint`, whole or not at all.

    Raises:
        UserError: no such checkpoint, a folder that exists, or PyTorch's numbers further than `parity.TOLERANCE` from
            JAX's.
    """
    if not config.checkpoint or not config.out:
        raise UserError("config.checkpoint (a run's workdir or an export) and config.out (a new folder) are needed")
    trained = pretrained.read(config.checkpoint, config.network)
    write(trained, pathlib.Path(config.out).expanduser(), rgb=config.rgb, onnx=config.onnx)
    print(f"exported: {config.out} (start with its README.md)")


def write(trained: pretrained.Trained, out: pathlib.Path, *, rgb: bool = False, onnx: bool = False) -> None:
    """The export of a network as the new folder `out`; `rgb` adds a ViT of three channels, `onnx` the encoders so."""
    if out.exists():
        raise UserError(f"config.out {out} exists: choose another folder, or remove it")
    staging = out.parent / f".{out.name}.exporting"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"config.out {out} cannot be made: {error.strerror}") from error
    try:
        _weights(trained, staging, rgb=rgb)
        module = resources.files("unimedi_jax.export") / "pytorch.py"
        (staging / MODULE).write_text(module.read_text(encoding="utf-8"), encoding="utf-8")
        found = parity.check(trained, staging, onnx=onnx)
        _json(found, staging / "parity.json")
        _say(found)
        text = card.markdown(trained, found, writers.read(trained.path), rgb=rgb, onnx=onnx)
        (staging / "README.md").write_text(text, encoding="utf-8")
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def architecture(trained: pretrained.Trained) -> dict[str, Any]:
    """Everything that `pytorch.py` must know to build the network and to cut its inputs."""
    model, given = trained.model, trained.config
    sight, read = model.vision, model.report
    kept = (
        "image_size",
        "image_patch",
        "volume_size",
        "volume_patch",
        "window_hu",
        "slices",
        "slices_per_layer",
        "slice_size",
        "type_embedding",
        "slice_embedding",
        "cls_key",
        "embedding",
        "projection",
        "projection_hidden",
        "norm_by_modality",
    )
    return {
        "vision": {"width": sight.width, "depth": sight.depth, "heads": sight.heads, "mlp_width": sight.mlp_width},
        "report": {
            "width": read.width,
            "depth": read.depth,
            "heads": read.heads,
            "mlp_width": read.mlp_width,
            "vocab_size": read.vocab_size,
            "positions": read.max_positions,
            "pooling": read.pooling,
            "padding": trained.reports.pad_token_id,
        },
        "image_grid": sight.image_grid,
        "volume_grid": sight.volume_grid,
        "crop": given["input"]["crop"],
        "report_length": given["input"]["report_length"],
        **{name: given["model"][name] for name in kept},
        "heads": {name: [head.hidden, head.bottleneck, head.prototypes] for name, head in model.head.items()},
    }


def contract(trained: pretrained.Trained) -> dict[str, Any]:
    """How a file becomes the network's input: the records' rules and what follows on them."""
    model, given = trained.model, trained.config
    low, high = model.window_hu
    side, patch = given["model"]["image_size"], "x".join(map(str, model.image_patch))
    size, block = given["model"]["volume_size"], "x".join(map(str, model.volume_patch))
    return {
        "input": {
            "xray": f"the centre {given['input']['crop']} pixels of the record, block mean to {side} x {side} rounded "
            f"to integers, value / 127.5 - 1, patches of {patch} in raster order",
            "ct": f"block mean of the record to {tuple(size)} rounded to integers, Hounsfield units {low:g}..{high:g} "
            f"clipped to -1..1, patches of {block} in raster order (z, y, x)",
            "slices": f"the centre or all slices of the {model.slices} depth layers with the best mean score, resized "
            f"to {model.slice_size} x {model.slice_size} (linear, anti-aliased)",
            "report": f"the tokenizer in {pretrained.REPORT}/, at most {given['input']['report_length']} tokens",
        },
        "sets": trained.contracts,
    }


def _weights(trained: pretrained.Trained, folder: pathlib.Path, *, rgb: bool) -> None:
    state = names.to_torch(trained.variables, trained.model)
    _save(state, folder / pretrained.WEIGHTS)
    facts = {
        "format": pretrained.FORMAT,
        "network": trained.network,
        "step": trained.step,
        "architecture": architecture(trained),
        "config": card.shareable(trained.config),
        "contracts": trained.contracts,
        "versions": trained.versions,
    }
    _json(facts, folder / pretrained.FACTS)
    _json(contract(trained), folder / "contract.json")
    seen = {k.removeprefix("vision."): v for k, v in state.items() if k.startswith("vision.")}
    seen = {k: v for k, v in seen.items() if not k.startswith(OWN)}
    _save(seen, folder / "vision_2d.safetensors")
    if rgb:  # a third for each channel: replicated grey gives what one channel gives
        kernel = np.repeat(seen["patch_embed.proj.weight"] / np.float32(3), 3, axis=1)
        _save(seen | {"patch_embed.proj.weight": kernel}, folder / "vision_2d_rgb.safetensors")
    place = folder / pretrained.REPORT
    trained.reports.save_pretrained(place)
    read = {k.removeprefix("report."): v for k, v in state.items() if k.startswith("report.")}
    _save(read, place / "model.safetensors")
    _json(_bert(trained), place / "config.json")


def _bert(trained: pretrained.Trained) -> dict[str, Any]:
    tower = trained.model.report
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": tower.vocab_size,
        "hidden_size": tower.width,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp_width,
        "max_position_embeddings": tower.max_positions,
        "hidden_dropout_prob": tower.dropout,
        "attention_probs_dropout_prob": tower.dropout,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "pad_token_id": trained.reports.pad_token_id,
    }


def _say(found: dict[str, Any]) -> None:
    if not found["checked"]:
        LOG.warning("not compared with PyTorch (%s): parity.json says so", found["why"])
        return
    worst = max(found["max_abs_difference"], key=found["max_abs_difference"].get)
    value = found["max_abs_difference"][worst]
    LOG.info("PyTorch agrees with JAX: at most %.1e apart, at %s", value, worst)


def _save(state: names.State, path: pathlib.Path) -> None:
    # transformers asks for the format; equal content gives equal bytes.
    safetensors.numpy.save_file(dict(sorted(state.items())), path, metadata={"format": "pt"})
    path.chmod(0o644)  # it writes for the owner alone


def _json(content: dict[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
