"""The proof of an export: JAX and PyTorch on the same inputs, layer by layer."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import numpy as jnp

from data import next_step, record_grid
from data.errors import UserError
from data.readers import geometry, placement
from data.record_grid import RecordGrid
from unimedi_jax.inference import preprocess, pretrained
from unimedi_jax.models import text, vision
from unimedi_jax.typing import Array, PyTree

Agreement = dict[str, Any]  # what parity.json holds
TOLERANCE = 1e-4  # float32, largest absolute difference
REPORTS = (
    "No focal consolidation, pleural effusion or pneumothorax.",
    "There is a nodule in the right upper lobe.",
    "Cardiomegaly.",
)
DRAWN = (57, 110, 145)  # voxels of a record whose set gives none: no multiples of a network's
Arrays = dict[str, np.ndarray]


def how_to(export: str = "THIS_FOLDER", checked: str = "NEW_FOLDER") -> str:
    """How the export in a folder is compared later, being a checkpoint too."""
    settings = {"config.checkpoint": export, "config.out": checked}
    return f"pip install torch, then {next_step.command('export', **settings)}"


def check(trained: pretrained.Pretrained, folder: pathlib.Path, *, onnx: bool = False) -> dict[str, Any]:
    """What goes into `parity.json`; `folder` holds the export's weights, and gets `onnx/` where that is asked for.

    Raises:
        UserError: a difference above TOLERANCE, or `onnx` without the packages it takes.
    """
    if importlib.util.find_spec("torch") is None:
        if onnx:
            raise UserError("config.onnx=True needs torch, onnxscript and onnxruntime: pip install them")
        return {"checked": False, "why": "torch is not installed", "how": how_to(), "tolerance": TOLERANCE}
    films, volumes = fixed_inputs(trained.grid)
    ours = jax_outputs(trained, films, volumes, REPORTS)
    theirs = torch_outputs(folder, films, volumes, REPORTS)
    differences, values = compare(ours, theirs), {k: float(np.abs(v).max(initial=0)) for k, v in ours.items()}
    if onnx:
        from unimedi_jax.export import to_onnx

        pictures = films, laterals(films), volumes
        files = to_onnx.write(folder, *pictures, REPORTS)
        exported = to_onnx.outputs(files, folder, *pictures, REPORTS)
        differences |= {f"onnx/{k}": v for k, v in compare({k: ours[k] for k in exported}, exported).items()}
        values |= {f"onnx/{k}": values[k] for k in exported}
    # Rounding grows with the numbers: the residual stream inside a deep tower reaches hundreds.
    scale = {name: max(1.0, values.get(name, 1.0)) if "layer " in name else 1.0 for name in differences}
    worst = max(differences, key=lambda name: differences[name] / scale[name])
    if not differences[worst] <= TOLERANCE * scale[worst]:
        raise UserError(
            f"PyTorch's numbers are not JAX's: {differences[worst]:.2g} apart at {worst}, "
            f"{TOLERANCE * scale[worst]:.2g} is allowed; nothing was exported"
        )
    packages = ("jax", "torch") + (("onnxruntime",) if onnx else ())
    return {
        "checked": True,
        "tolerance": TOLERANCE,
        "rule": "no difference above the tolerance; inside the towers above it times the layer's largest value",
        "inputs": "2 drawn X-rays and 2 volumes with noise (numpy, seed 0), 3 fixed reports",
        "versions": {name: metadata.version(name) for name in packages},
        "max_abs_difference": differences,
        "max_abs_value": values,
    }


def fixed_inputs(grid: RecordGrid = record_grid.DEFAULT) -> tuple[np.ndarray, np.ndarray]:
    """Two X-rays and two volumes of records on a grid: a body with lungs that narrow toward the top, and noise.

    Where records differ in their shapes it is DRAWN.
    """
    films, volumes = _drawn()
    films = np.stack([geometry.canonical_xray(film, grid.film_size) for film in films])
    shape = DRAWN if grid.spacing_mm else grid.volume
    if shape != record_grid.DEFAULT.volume:
        whole = tuple(slice(0, n) for n in volumes.shape[1:])
        placed = placement.place((1.0, 1.0, 1.0), RecordGrid(volume=shape), whole)
        volumes = np.stack([placement.volume_on(volume, placed) for volume in volumes])
    return films, volumes


def laterals(films: np.ndarray) -> np.ndarray:
    """Which X-rays are passed for lateral ones to a network that distinguishes them: every other, from the first."""
    return np.arange(len(films)) % 2 == 0


def _drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (32, 128, 128)), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.6) ** 2 < 1
    size = 0.3 * np.sqrt(1.3 - z)
    lungs = ((np.abs(x) - 0.4) / size) ** 2 + (y / 0.4) ** 2 < 1
    hu = np.where(lungs, -850, np.where(body, 40, -1000))
    volumes = np.stack([hu, hu[::-1, :, ::-1]]) + rng.normal(0, 20, (2, *hu.shape))
    films = volumes.mean(axis=2)[:, ::-1]  # from the front, head up
    films = (films - films.min()) / np.ptp(films) * 255
    return films.repeat(8, axis=1).repeat(2, axis=2).astype(np.uint8), volumes.astype(np.int16)


def jax_outputs(
    trained: pretrained.Pretrained, films: np.ndarray, volumes: np.ndarray, texts: tuple[str, ...]
) -> Arrays:
    """Every layer of every path, by name, from records' pixels and texts."""
    model, variables = trained.model, jax.device_get(trained.variables)  # one device computes
    params = variables["params"]
    batch = jax.device_put(preprocess.tokens(trained, films, volumes, texts))

    def apply(method: str, *x: Any, **more: Any) -> Any:
        run = jax.jit(lambda variables, *x, **more: model.apply(variables, *x, **more, method=method))
        return run(variables, *x, **more)

    out: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        views = {"lateral": jax.device_put(laterals(films))} if model.lateral_type else {}
        film, volume = apply("embed_xray", batch["xray"], **views), apply("embed_volume", batch["ct"])
        xray = apply("xray_features", batch["xray"], **views)
        ct = trained.embedder(rows=len(volumes)).ct(variables, batch["ct"])
        paths = {"xray": film, "ct_volume": volume}
        if trained.ct_slices:
            paths["ct"] = apply("embed_ct", batch["ct"], ct.layers)
        for name, x in paths.items():
            out |= {f"{name}/{k}": v for k, v in _vision_layers(trained, params["vision"], x)}
        out |= {f"report/{k}": v for k, v in _report_layers(trained, params["report"], *batch["report"])}
        out["report/z"] = apply("embed_report", *batch["report"])
    for name, features in (("xray", xray), ("ct", ct)):
        out |= {f"{name}/{field}": getattr(features, field) for field in ("cls", "z", "scores")}
    out |= {"ct/slice_scores": ct.slice_scores, "ct/layers": ct.layers}
    return {name: np.asarray(value, np.float32) for name, value in out.items()}


def torch_outputs(folder: pathlib.Path, films: np.ndarray, volumes: np.ndarray, texts: tuple[str, ...]) -> Arrays:
    """The same of the exported folder, by `pytorch.py`."""
    import torch

    from unimedi_jax.export import pytorch

    model = pytorch.load(folder)
    out: dict[str, Any] = {}
    with torch.inference_mode():
        with _recorded(model.vision.blocks, lambda x: x[0]) as blocks:
            views = (torch.from_numpy(laterals(films)),) if model.a["lateral_type"] else ()
            images = {"xray": model.xrays(torch.from_numpy(films), *views), "ct": model.cts(torch.from_numpy(volumes))}
        with _recorded(model.report.encoder["layer"], lambda x: x) as layers:
            z = model.reports(texts)
    depth = len(model.vision.blocks)
    for start, name in zip(range(0, len(blocks), depth), ("xray", "ct_volume", "ct"), strict=False):
        out |= {f"{name}/layer {i}": x for i, x in enumerate(blocks[start : start + depth])}
    out |= {f"report/layer {i}": x for i, x in enumerate(layers)} | {"report/z": z}
    for name, features in images.items():
        out |= {f"{name}/{k}": v for k, v in features._asdict().items() if v is not None}
    return {name: value.float().numpy() for name, value in out.items()}


def compare(ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Largest absolute difference of each output; infinite where the two do not have the same outputs."""
    result = {}
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        same = a is not None and b is not None and a.shape == b.shape
        result[name] = float(np.abs(a - b).max(initial=0)) if same else float("inf")
    return result


def _vision_layers(trained: pretrained.Pretrained, params: PyTree, x: Array) -> Iterator[tuple[str, Array]]:
    tower = trained.model.vision
    block = vision.Block(tower.heads, tower.mlp_width, jnp.float32, None, tower.attention)
    prefix = [(params["cls"] + params["position_cls"])[None], *([params["registers"]] if tower.registers else [])]
    prefix = jnp.broadcast_to(jnp.concatenate(prefix), (len(x), tower.prefix, tower.width))
    x, step = jnp.concatenate([prefix, x], axis=1), jax.jit(lambda p, x: block.apply({"params": p}, x, None)[0])
    for i in range(tower.depth):
        x = step(jax.tree.map(lambda leaf, i=i: leaf[i], params["trunk"]["blocks"]), x)
        yield f"layer {i}", x


def _report_layers(
    trained: pretrained.Pretrained, params: PyTree, ids: Array, mask: Array
) -> Iterator[tuple[str, Array]]:
    tower = trained.model.report
    layer = text.Layer(tower.heads, tower.mlp_width, jnp.float32, 0.0, False)
    place = params["positions"]["embedding"][: ids.shape[1]] + params["segments"][:1]
    x = params["words"]["embedding"][np.asarray(ids)] + place[None]
    x = jax.jit(nn.LayerNorm(epsilon=text.EPSILON).apply)({"params": params["norm"]}, x)
    step = jax.jit(lambda p, x: layer.apply({"params": p}, x, mask)[0])
    for i in range(tower.depth):
        x = step(jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]), x)
        yield f"layer {i}", x


@contextlib.contextmanager
def _recorded(layers: Any, pick: Any) -> Iterator[list[Any]]:
    """The outputs of PyTorch layers, in the order they are called."""
    outputs: list[Any] = []
    hooks = [layer.register_forward_hook(lambda _, __, out: outputs.append(pick(out))) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
