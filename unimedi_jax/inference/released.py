"""Released encoders by an address: `timm:FILE` or `hf:FOLDER_OR_ID`, with what their files do not say behind colons.

    timm:mgca_vit_base.ckpt:tokenizer=emilyalsentzer/Bio_ClinicalBERT
    timm:mrm.pth:size=224:mean=0.4785:deviation=0.2834
    hf:microsoft/rad-dino
    hf:facebook/dinov2-base@main:size=518

They read X-rays; reports too where a report tower and projections of both were released with them.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from data import json_files
from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import trees
from unimedi_jax.config import objectives
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.convert import hub, names, pairs, released, weights
from unimedi_jax.convert.released_names import position_pixels
from unimedi_jax.models import towers
from unimedi_jax.models.released import Released
from unimedi_jax.models.released_vit import Architecture, ReleasedVit
from unimedi_jax.typing import PyTree

LOG = logging.getLogger(__name__)
SCHEMES = ("timm", "hf")
OPTIONS = ("size", "mean", "deviation", "heads", "pool", "crop", "tokenizer")
PREPROCESSING = "preprocessor_config.json"
RECORD, MGCA_SIZE = 256, 224  # pixels; at MGCA's size the centre is read, as MGCA does, at others the whole X-ray


class Address(NamedTuple):
    """What a user wrote: where the files are, and options."""

    scheme: str
    place: str
    options: Mapping[str, str]


class Opened(NamedTuple):
    """A released encoder: everything that `pretrained.Pretrained` needs of a run."""

    model: Released
    variables: PyTree
    tokenizer: Any  # None without a report tower
    config: dict[str, Any]
    folder: pathlib.Path
    changed: tuple[str, ...]
    skipped: tuple[str, ...]


def is_address(text: str) -> bool:
    """Whether a checkpoint names a released encoder and no run or export."""
    return text.partition(":")[0] in SCHEMES and ":" in text


def parse(text: str) -> Address:
    """The parts of an address.

    Raises:
        UserError: an option that there is not, or one twice.
    """
    scheme, _, rest = text.partition(":")
    parts = rest.split(":")
    options: dict[str, str] = {}
    while len(parts) > 1 and "=" in parts[-1]:
        name, _, value = parts.pop().partition("=")
        if name not in OPTIONS or name in options or not value:
            known = ", ".join(f"{option}=" for option in OPTIONS)
            raise UserError(f"config.checkpoint {text}: after colons come {known}, each at most once")
        options[name] = value
    if not (place := ":".join(parts)):
        raise UserError(f"config.checkpoint {text} names no file: timm:FILE or hf:FOLDER_OR_ID")
    return Address(scheme, place, options)


def read(text: str) -> Opened:
    """The encoder of an address, in float32.

    Raises:
        UserError: no such file or model, none that is known here, options that do not fit it.
    """
    address = parse(text)
    path = _file(address)
    state = weights.read(path)
    try:
        return _opened(text, address, path, state)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:  # files are strangers' data
        raise UserError(
            f"{text}: settings or arrays in {path.parent} are not of their published form ({type(error).__name__})"
        ) from error


def _opened(text: str, address: Address, path: pathlib.Path, state: names.State) -> Opened:
    stated = _stated(path.parent)
    reading = _reading(address, stated, state)
    vit = released.read(state, reading, text)
    words, pair = _report_tower(address, path.parent, state)
    parts = () if pair is None else (pair.report, pair.project_image, pair.project_report)
    model = Released(ReleasedVit(vit.shape), *parts)
    variables = _variables(model, vit.params, {} if pair is None else pair.state, text)
    used = () if pair is None else pair.used
    skipped = tuple(key for key in vit.skipped if not key.startswith(used))
    config = _config(vit.shape, reading, address, pair)
    return Opened(model, variables, words, config, path.parent, vit.changed, skipped)


def _file(address: Address) -> pathlib.Path:
    """The file of weights; a model of the hub is fetched."""
    path = pathlib.Path(address.place).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return weights.find(path)
    if address.scheme == "timm" or not hub.is_id(address.place):
        raise UserError(f"config.checkpoint: there is no file or folder {path}")
    try:
        return weights.find(weights.fetch(address.place))
    except hub.HubError as error:
        raise UserError(f"config.checkpoint {address.place}: no such folder, and {error}") from error


def _stated(folder: pathlib.Path) -> dict[str, Any]:
    """What the JSON files beside the weights say: settings of the network, `mean`, `deviation` and `size`."""
    settings, preprocessing, clip = (
        _json(folder / name) for name in ("config.json", PREPROCESSING, "open_clip_config.json")
    )
    timm, clip = settings.get("pretrained_cfg", {}), clip.get("preprocess_cfg", {})
    kind = settings.get("model_type", "")  # timm's config.json has none
    settings = {"model_type": kind} | settings.get("vision_config", settings) if kind else {}
    crop = preprocessing.get("crop_size") or preprocessing.get("size") or {}
    sizes = (
        crop.get("height") or crop.get("shortest_edge") if isinstance(crop, Mapping) else crop,
        (timm.get("input_size") or [0])[-1],
        settings.get("image_size"),
    )
    return {
        "settings": settings,
        "size": next((size for size in sizes if isinstance(size, int) and size), 0),
        "mean": preprocessing.get("image_mean") or timm.get("mean") or clip.get("mean"),
        "deviation": preprocessing.get("image_std") or timm.get("std") or clip.get("std"),
    }


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json_files.read_object(path, "fetch it again") if path.is_file() else {}


def _reading(address: Address, stated: Mapping[str, Any], state: names.State) -> released.Reading:
    options = address.options
    grey = {}
    for name in ("mean", "deviation"):
        own = _floats(options[name], name) if name in options else tuple(stated[name] or (0.5,))
        if len(own) not in (1, 3) or (name == "deviation" and min(own) <= 0):
            raise UserError(f"{name} of {address.place} is one number or three with slashes, above 0 for a deviation")
        grey[name] = own
    size = _whole(options, "size") or stated["size"] or position_pixels(state) or MGCA_SIZE
    rest = {"heads": _whole(options, "heads"), "pool": options.get("pool", ""), "settings": stated["settings"]}
    return released.Reading(size, **grey, **rest)


def _floats(text: str, name: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split("/"))
    except ValueError as error:
        raise UserError(f"{name}={text} is neither a number nor three with slashes between them") from error


def _whole(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, "0")
    if not text.isdecimal():
        raise UserError(f"{name}={text} is not a whole number")
    return int(text)


def _report_tower(address: Address, folder: pathlib.Path, state: names.State) -> tuple[Any, pairs.Pair | None]:
    """The tokenizer and the tower, where both are there: of `tokenizer=` or beside the weights."""
    pair, named = pairs.find(state), address.options.get("tokenizer", "")
    if named and pair is None:
        raise UserError(f"tokenizer={named}: {address.place} has no report tower with projections of its own")
    beside = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    if pair is None or not (named or beside):
        if pair is not None:
            LOG.info("%s has a report tower, which is left out: name its tokenizer with tokenizer=", address.place)
        return None, None
    words = tokenizer.load(named or folder)
    if len(words) != pair.report.vocab_size:
        raise UserError(f"{address.place} has {pair.report.vocab_size} words, the tokenizer {len(words)}: name its own")
    return words, pair


def _variables(model: Released, vit: PyTree, state: names.State, where: str) -> PyTree:
    """{"params", "batch_stats"}: the ViT's, and those of the report tower and the projections from `state`."""
    shapes = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    params = dict(shapes["params"])
    own = params.pop("vision")
    _check(own, vit, where)
    rest, missing = names.from_torch(state, {"params": params, "batch_stats": shapes.get("batch_stats", {})})
    if missing:
        raise UserError(f"{where} lacks {missing[0]} and {len(missing) - 1} more arrays of its report tower")
    return {"params": {"vision": vit, **rest["params"]}, "batch_stats": rest["batch_stats"]}


def _check(own: PyTree, arrays: PyTree, where: str) -> None:
    shapes, theirs = ({name: shape for name, (shape, _) in trees.shapes(tree).items()} for tree in (own, arrays))
    if wrong := sorted(name for name in shapes.keys() | theirs.keys() if shapes.get(name) != theirs.get(name)):
        name = wrong[0]
        raise UserError(f"{where}: {name} has the shape {theirs.get(name)}, and should have {shapes.get(name)}")


def _config(
    shape: Architecture, reading: released.Reading, address: Address, pair: pairs.Pair | None
) -> dict[str, Any]:
    """Settings as a run's `config.json` has them, of what evaluations read there."""
    config = dataclasses.asdict(PretrainConfig())
    objective = objectives.SimMIM() if pair is None else objectives.Contrast()  # one with a joint space, or without
    embedding = shape.width if pair is None else pair.embedding
    crop = _whole(address.options, "crop") or (MGCA_SIZE if reading.size == MGCA_SIZE else RECORD)
    if not 0 < crop <= RECORD:
        raise UserError(f"crop={crop} is the side in pixels of an X-ray's centre that is read, at most {RECORD}")
    sizes = {"image_size": reading.size, "image_patch": (shape.patch,) * 2}
    config["model"] |= {**sizes, "embedding": embedding, "slices": 0}
    config |= {"objective": dataclasses.asdict(objective), "batch": {"xray": 1, "ct": 0}, "steps": 0}
    config["input"] |= {"crop": crop, "crop_shift": (RECORD - crop) // 2}
    return json.loads(json.dumps(config))


def summary(opened: Opened) -> str:
    """One line: what was opened and what was done to it."""
    shape, skipped, size = opened.model.vision.shape, opened.skipped, opened.config["model"]["image_size"]
    parts = [f"ViT of width {shape.width}, depth {shape.depth}, {shape.heads} heads, patches of {shape.patch} pixels"]
    parts += [f"X-rays of {size} x {size} pixels", *opened.changed]
    parts += ["with its report tower"] if opened.tokenizer is not None else []
    if skipped:
        parts.append(f"skipped: {', '.join(skipped[:6])}" + (", ..." if len(skipped) > 6 else ""))
    return "; ".join(parts)
