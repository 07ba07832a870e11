"""The training step beside its PyTorch twin: samples a second and peak memory, in processes of their own, in turns."""

import importlib.util
import pathlib

import ml_collections

from unimedi_jax.bench import measure
from unimedi_jax.bench.process import Process
from unimedi_jax.bench.settings import plain

GIB = 2**30


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures the step of `config.pretrain`; against the twin where torch, timm and transformers are installed."""
    settings = plain(config)
    samples = sum(config.pretrain.batch.values())
    # Both sides stand on one GPU at the same time: JAX would take three quarters of it at once.
    sides = {"ours": Process("unimedi_jax.bench.ours", settings, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})}
    missing = [name for name in ("torch", "timm", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no PyTorch twin: {', '.join(missing)} not installed (requirements-dev.txt, requirements-judges.txt)")
    else:
        sides["twin"] = Process("unimedi_jax.bench.twin", settings)
        if config.bfloat16 and config.pretrain.model.dtype != "bfloat16":
            sides["twin, bfloat16"] = Process("unimedi_jax.bench.twin", settings | {"bfloat16": True})
    try:
        seconds = measure.interleaved({name: side.step for name, side in sides.items()}, config.rounds)
        peaks = {name: side.peak() for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    said = {name: side.say["parameters"] for name, side in sides.items()}
    model = settings["model"]
    ours = sides["ours"].say
    rows = f"{config.pretrain.batch.xray} X-rays and {config.pretrain.batch.ct} CTs"
    title = (
        f"step on {ours['device']}: {rows}, vision {model['vision_size']}, "
        f"report {model['report_size']}, {model['dtype']}; parameters {said}"
    )
    results = table(seconds, peaks, samples)
    if ours["flops"] and ours["peak_flops"]:
        least = ours["flops"] / ours["peak_flops"]
        shares = {name: tuple(least / s for s in values) for name, values in seconds.items()}
        results += [measure.Result(f"{name}: MFU", "", values) for name, values in shares.items()]
    measure.report(title, results, workdir)


def table(seconds: dict[str, tuple[float, ...]], peaks: dict[str, float], samples: int) -> list[measure.Result]:
    """Rates, peaks, and the ratios of ours to the twin's."""
    results = []
    for name, values in seconds.items():
        results += [
            measure.Result(f"{name}: samples a second", "1/s", tuple(samples / s for s in values)),
            measure.Result(f"{name}: peak memory while stepping", "GiB", (peaks[name] / GIB,)),
        ]
    if "twin" in seconds:
        results += [
            measure.ratio("samples a second over the twin's", seconds["twin"], seconds["ours"], "at least 1.3"),
            measure.ratio("peak memory over the twin's", [peaks["ours"]], [peaks["twin"]], "at most 1"),
        ]
    return results
