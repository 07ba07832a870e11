"""The export job: a checkpoint as files that timm, transformers and plain PyTorch load, with proof that they agree."""

import json
import logging
import pathlib
import shutil
from importlib import resources
from typing import Any

import numpy as np
import safetensors.numpy

from data import members
from data.errors import UserError
from unimedi_jax import writers
from unimedi_jax.convert import checksums, names
from unimedi_jax.export import card, parity, push, repository
from unimedi_jax.inference import adapters, pretrained
from unimedi_jax.input import cuts
from unimedi_jax.train import saved_config

LOG = logging.getLogger(__name__)
OWN = ("patch_embed_3d.", "pos_embed_3d", "mask_token", "type_", "depth_of_slice")  # timm has none
# What the architecture takes from config.model as it is.
INPUTS = ("image_size", "image_patch", "volume_size", "volume_patch", "window_hu")
TOKENS = ("tokenizer", "image_subpatch", "volume_subpatch", "subpatch_hidden")
SLICES = ("slices", "slices_per_layer", "slice_size", "slice_source", "frontal_view", "slice_baseline")
EMBEDDINGS = ("type_embedding", "slice_embedding", "registers")
LATERAL = "of each X-ray whether it is a lateral one, as data/views.py of unimedi_jax takes the words; unknown: no"
SCORES = ("cls_key", "score_layers", "scores", "sink_norm")
JOINT_SPACE = ("embedding", "projection", "projection_hidden", "norm_by_modality")


def run(config: Any, _: pathlib.Path | None = None) -> None:
    """Writes `config.out` from `config.checkpoint`, whole or not at all, and uploads it where `config.push` asks.

    Raises:
        UserError: no such checkpoint, a folder that exists, PyTorch's numbers further than `parity.TOLERANCE` from
            JAX's, or what `push.push` refuses.
    """
    if config.push:
        push.check_settings(config.push, config.source)
    out = pathlib.Path(config.out or config.checkpoint).expanduser()
    if not config.checkpoint or not (config.out or (config.push and (out / pretrained.FACTS).is_file())):
        raise UserError(
            "config.checkpoint (a run's workdir or an export) and config.out (a new folder) are needed; of config.push "
            "an export alone, as config.checkpoint"
        )
    if config.out:
        _export(config, out)
    if config.push:
        push.push(out, config.push, source=config.source, public=config.public, dry_run=config.dry_run)


def _export(config: Any, out: pathlib.Path) -> None:
    trained = pretrained.load(config.checkpoint, config.network)
    if trained.files is not None:
        raise UserError(f"{config.checkpoint} is in files of PyTorch's already: there is nothing to export")
    if config.adapters:
        trained = adapters.add(trained, config.adapters)
    options = {"rgb": config.rgb, "onnx": config.onnx, "licence": config.licence}
    agreement = write(trained, out, adapted=bool(config.adapters), **options)
    print(f"exported: {config.out} (start with its README.md)")
    if not agreement["checked"]:
        how_to = parity.how_to(config.out, f"{config.out}-checked")
        print(f"warning: not compared with PyTorch, as {agreement['why']}. To check it: {how_to}")


def write(
    trained: pretrained.Pretrained,
    out: pathlib.Path,
    *,
    rgb: bool = False,
    onnx: bool = False,
    licence: str = "",
    adapted: bool = False,
) -> parity.Agreement:
    """Exports a network into the new folder `out`; `rgb` adds a ViT of three channels, `onnx` the encoders as ONNX.

    The folder can be uploaded to the Hugging Face hub as it is; `licence` is that of the weights, by its name there.
    `adapted`: adapters of a file are merged into the weights, so that the run's results are those of others. Returns
    what `parity.json` holds.
    """
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
        if trained.adapters is not None:
            adapters.write(staging / adapters.FILE, trained.adapters, trained.kernels)
        module = resources.files("unimedi_jax.export") / "pytorch.py"
        (staging / "unimedi_torch.py").write_text(module.read_text(encoding="utf-8"), encoding="utf-8")
        agreement = parity.check(trained, staging, onnx=onnx)
        _json(agreement, staging / "parity.json")
        if agreement["checked"]:
            _log(agreement)
        metrics = [] if adapted else card.own_results(trained, writers.read(trained.path))
        text = repository.header(trained, metrics, licence=licence)
        text += card.markdown(trained, agreement, metrics, repository.write_example(staging), rgb=rgb, onnx=onnx)
        if (known := members.read(trained.path)) is not None:
            members.write(staging, known)
        (staging / "README.md").write_text(text, encoding="utf-8")
        checksums.write(staging)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return agreement


def architecture(trained: pretrained.Pretrained) -> dict[str, Any]:
    """Everything that `pytorch.py` must know to build the network and to cut its inputs."""
    model, config = trained.model, trained.config
    vision, report = model.vision, model.report
    sizes = ("width", "depth", "heads", "mlp_width")
    return {
        "vision": {name: getattr(vision, name) for name in sizes},
        "report": {
            **{name: getattr(report, name) for name in sizes},
            "vocab_size": report.vocab_size,
            "positions": report.max_positions,
            "pooling": report.pooling,
            "padding": trained.tokenizer.pad_token_id,
        },
        "lateral_type": model.lateral_type,
        "image_grid": vision.image_grid,
        "volume_grid": vision.volume_grid,
        "crop": config["input"]["crop"],
        "window": config["input"].get("window", cuts.WHOLE),
        "report_length": trained.report_length,
        "ct_slices": trained.ct_slices,
        **{name: config["model"][name] for name in (*INPUTS, *TOKENS, *SLICES, *EMBEDDINGS, *SCORES, *JOINT_SPACE)},
        "heads": {name: [head.hidden, head.bottleneck, head.prototypes] for name, head in model.head.items()},
    }


def contract(trained: pretrained.Pretrained) -> dict[str, Any]:
    """How a file becomes the network's input: the records' rules, and how a record is cut into tokens."""
    model, crop = trained.model, trained.config["input"]["crop"]
    (low, high), (side, _), size = model.window_hu, trained.size("xray"), trained.size("ct")
    patch, block = ("x".join(map(str, trained.patch(modality))) for modality in ("xray", "ct"))
    slices = (
        f"the centre or all slices of the {model.slices} depth layers with the best mean score, resized to "
        f"{model.slice_size} x {model.slice_size} (linear, anti-aliased)"
    )
    if model.ct_patch != model.volume_patch:
        y, x = trained.config["model"]["slice_source"]
        slices += f", cut from planes of {y} x {x}"
    if model.frontal_view:
        slices += "; before them the mean of 1 + HU / 1000, at least 0, from front to back, stretched to -1..1"
    return {
        "input": {
            "xray": f"the centre {crop} pixels of the record, block mean to {side} x {side} rounded "
            f"to integers, value / 127.5 - 1, patches of {patch} in raster order",
            "ct": f"{_cut(trained)} to {size} rounded to integers, Hounsfield units {low:g}..{high:g} "
            f"clipped to -1..1, patches of {block} in raster order (z, y, x)",
            "slices": slices if trained.ct_slices else "none: a CT is its volume alone, as in training",
            "report": f"the tokenizer in {pretrained.REPORT}/, at most {trained.report_length} tokens",
            **({"lateral": LATERAL} if model.lateral_type else {}),
        },
        "sets": trained.contracts,
    }


def _cut(trained: pretrained.Pretrained) -> str:
    """How a volume of the network's size is made of a record."""
    sampler, shape = trained.sampler("ct"), trained.grid.volume_shape
    if sampler.window != cuts.WHOLE:
        return "the central window of the record, air where it is smaller,"
    if None in shape or not cuts.shrinks(shape, sampler.volume_size):
        return "the whole record, in plane with air around it to the proportions of the result, by the mean of areas"
    return "block mean of the record"


def _weights(trained: pretrained.Pretrained, folder: pathlib.Path, *, rgb: bool) -> None:
    state = names.to_torch(trained.variables, trained.model)
    _save(state, folder / pretrained.WEIGHTS)
    facts = {"format": pretrained.FORMAT, "network": trained.network, "step": trained.step}
    facts |= {"architecture": architecture(trained), "config": saved_config.shareable(trained.config)}
    facts |= {"contracts": trained.contracts, "versions": trained.versions}
    _json(facts, folder / pretrained.FACTS)
    _json(contract(trained), folder / "contract.json")
    if card.fits_timm(trained.model):
        _timm(_part(state, "vision."), folder, rgb=rgb)
        repository.link_weights(folder)
        _json(repository.timm_config(trained), folder / "config.json")
    elif rgb:
        raise UserError(
            "config.rgb writes a ViT for timm, whose tokenizer is linear, and this network's is not "
            "(config.model.tokenizer): export it without"
        )
    place = folder / pretrained.REPORT
    trained.tokenizer.save_pretrained(place)
    _save(_part(state, "report."), place / "model.safetensors")
    _json(_bert(trained), place / "config.json")


def _timm(state: names.State, folder: pathlib.Path, *, rgb: bool) -> None:
    vision = _with_type({name: array for name, array in state.items() if not name.startswith(OWN)}, state)
    _save(vision, folder / repository.VISION)
    if rgb:  # a third for each channel: replicated grey gives what one channel gives
        kernel = np.repeat(vision["patch_embed.proj.weight"] / np.float32(3), 3, axis=1)
        _save(vision | {"patch_embed.proj.weight": kernel}, folder / "vision_2d_rgb.safetensors")


def _with_type(vision: names.State, state: names.State) -> names.State:
    """The type embedding of X-rays in the positions of their patches, where timm has a place: both are sums."""
    if "type_2d" not in state:
        return vision
    prefix, positions = 1 + vision.get("reg_token", vision["pos_embed"][:, :0]).shape[1], vision["pos_embed"].copy()
    positions[:, prefix:] += state["type_2d"]
    return vision | {"pos_embed": positions}


def _part(state: names.State, prefix: str) -> names.State:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _bert(trained: pretrained.Pretrained) -> dict[str, Any]:
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
        "pad_token_id": trained.tokenizer.pad_token_id,
    }


def _log(agreement: parity.Agreement) -> None:
    differences = agreement["max_abs_difference"]
    worst = max(differences, key=differences.get)
    LOG.info("PyTorch agrees with JAX: at most %.1e apart, at %s", differences[worst], worst)


def _save(state: names.State, path: pathlib.Path) -> None:
    # transformers asks for the format; equal content gives equal bytes.
    safetensors.numpy.save_file(dict(sorted(state.items())), path, metadata={"format": "pt"})
    path.chmod(0o644)  # it writes for the owner alone


def _json(content: dict[str, Any], path: pathlib.Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
