"""The model card of an export: what it is, its training data, its results, how to load it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from data import members
from unimedi_jax.convert import checksums
from unimedi_jax.export.repository import RESULTS
from unimedi_jax.inference import pretrained
from unimedi_jax.input.places import SINGULAR
from unimedi_jax.models import towers
from unimedi_jax.report import tables
from unimedi_jax.report.tables import Line
from unimedi_jax.train.saved_config import shareable

FURTHER = ("test/xray:", "test/ct:")  # keys of further sets (input/places.py)
ROUTES = """
## Loading it

unimedi_jax, from inside this folder (or with `org/name` of the hub):

    model = unimedi_jax.load(".")
    embedded = model.embed("example.png")                          # embedded.z: unit vectors (n, {embedding})
    embedded.z @ model.embed_reports(["Pneumothorax."]).T          # cosines

`--config.init.checkpoint=` takes the same names, to train on from here. `example.png` is a patient of the phantom; the
report:

{report}

Plain PyTorch, from inside this folder (`unimedi_torch.py` needs torch, numpy, safetensors and tokenizers):

    import unimedi_torch
    model = unimedi_torch.load(".")
    model.reports(["Cardiomegaly."])     # unit vectors (b, {embedding})
    model.xrays(films).z                 # films: uint8 tensor (b, {film}, {film})
    model.cts(volumes).z                 # volumes: int16 tensor (b, {volume})

{timm}

transformers (the report tower; its pooler is not part of UniMedI):

    AutoModel.from_pretrained(".", subfolder="report", add_pooling_layer=False)      # or org/name instead of the folder
    AutoTokenizer.from_pretrained("report")                                          # or "org/name", subfolder="report"
"""
TIMM = """timm (X-rays and slices: float (b, 1, {image}, {image}) in -1..1):

    vit = timm.create_model("local-dir:.", pretrained=True)        # or "hf-hub:org/name"
    vit(pixels)                                                    # CLS (b, {width})"""
NO_TIMM = """timm: no file. This network's tokenizer is non-linear (`config.model.tokenizer`).
A ViT of timm has room for a linear one alone and would compute something else."""


def _routes(trained: pretrained.Pretrained, *, timm: str, report: str) -> str:
    """Ways to use it, with the sizes of its records."""
    volume = ", ".join("n" if n is None else str(n) for n in trained.grid.volume_shape)
    sizes = {"film": trained.grid.film_size, "volume": volume, "embedding": trained.config["model"]["embedding"]}
    return ROUTES.format(**sizes, timm=timm, report=report)


def markdown(
    trained: pretrained.Pretrained,
    parity: Mapping[str, Any],
    metrics: Sequence[Line],
    report: str,
    *,
    rgb: bool,
    onnx: bool,
) -> str:
    """The card's text; `report` is that of the example."""
    model, config = trained.model, trained.config
    tower = model.vision
    timm = TIMM.format(image=config["model"]["image_size"], width=tower.width) if fits_timm(model) else NO_TIMM
    quoted = "\n".join(f"> {line}".rstrip() for line in report.splitlines())
    lines = [
        "# UniMedI: chest X-rays, CTs and reports in one space",
        "",
        f"The {trained.network} of a unimedi_jax run after {trained.step} of {config['steps']} steps; vision tower "
        f"{tower.width} wide, {tower.depth} layers, report tower {model.report.width} wide, {model.report.depth} "
        f"layers, joint space of {config['model']['embedding']} dimensions. Not for clinical use.",
        "",
        "## Data",
        "",
        *(_set(name, contract) for name, contract in trained.contracts.items()),
        "",
        "`contract.json` says what was done to every pixel and word.",
        "",
        "## Results on held-out test patients",
        "",
        *_results(metrics),
        *_routes(trained, timm=timm, report=quoted).splitlines(),
        "",
        "## Files",
        "",
        "- `unimedi.safetensors`, `unimedi.json`: everything, training heads included; `unimedi_torch.py` reads them",
    ]
    if fits_timm(model):
        lines.append("- `vision_2d.safetensors`: T_2D and the ViT in timm's names; inputs lie in -1..1")
        lines.append("- `model.safetensors`, `config.json`: the same by the name that timm looks for, and its sizes")
    if rgb:
        lines.append("- `vision_2d_rgb.safetensors`: the same for grey X-rays in three equal channels")
    lines.append("- `report/`: the report tower and its tokenizer, as transformers keeps a BERT")
    if onnx:
        lines.append("- `onnx/`: the encoders; inputs are records' X-rays and volumes, and token ids with their mask")
    if (trained.path / members.FILE).is_file():
        lines.append(f"- `{members.FILE}`: salted hashes of the patients and pictures it was trained on, to find leaks")
    lines += [
        "- `example.png`: an X-ray of the phantom, of a seed of its own",
        f"- `{checksums.FILE}`: `sha256sum -c` of all of it",
        f"- `parity.json`: {_agreement(parity)}",
        "",
        "## Configuration",
        "",
        "```json",
    ]
    return "\n".join([*lines, *json.dumps(shareable(config), indent=2).splitlines(), "```", ""])


def own_results(trained: pretrained.Pretrained, metrics: Sequence[Line]) -> Sequence[Line]:
    """The lines of the run's `metrics.jsonl`, if its results on test patients are those of these weights; else none."""
    final = tables.final(metrics)
    measured = None if final is None else (final["step"], trained.config["evals"]["network"])
    return metrics if measured == (trained.step, trained.network) else []


def fits_timm(model: towers.UniMedI) -> bool:
    """Whether a ViT of timm computes this network's CLS of an X-ray: its tokenizer is linear."""
    return model.vision.subpatch_2d is None


def _set(name: str, contract: Mapping[str, Any]) -> str:
    splits = contract.get("splits", {})
    counts = "; ".join(f"{m}: " + ", ".join(f"{n} {s}" for s, n in c.items()) for m, c in splits.items())
    digest = contract.get("content_sha256", "unknown")
    return f"- `{name}`: {counts or 'sizes unknown'} (sha256 of the content {digest[:16]})"


def _results(metrics: Sequence[Line]) -> list[str]:
    final = tables.final(metrics)
    if final is None:
        return ["These weights had not been evaluated on test patients when they were exported."]
    measured = dict.fromkeys(["xray", "ct", *(key.split("/")[1] for key in final if key.startswith(FURTHER))])
    parts = (name.partition(":") for name in measured)
    heads = (", ".join(filter(None, (SINGULAR[modality], name))) for modality, _, name in parts)
    rows = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(measured)) + "|"]
    for key, (_, _, title) in RESULTS.items():
        values = [final.get(f"test/{place}/{key}") for place in measured]
        if any(value is not None for value in values):
            cells = ("-" if value is None or math.isnan(value) else f"{value:.3f}" for value in values)
            rows.append(f"| {title} | {' | '.join(cells)} |")
    return rows


def _agreement(parity: Mapping[str, Any]) -> str:
    if not parity["checked"]:
        return f"not compared with PyTorch ({parity['why']}). To check it: {parity['how']}"
    worst = max(parity["max_abs_difference"].values())
    return f"PyTorch against JAX layer by layer, at most {worst:.1e} apart"
