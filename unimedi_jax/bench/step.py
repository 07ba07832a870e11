"""The training step beside its PyTorch twin: samples a second and peak memory, each in a process of its own."""

import importlib.util
import pathlib
from typing import Any

import jax
import ml_collections

from unimedi_jax import flops, machine, sharding, trees
from unimedi_jax.bench import measure
from unimedi_jax.bench.process import Process, from_json, random_batch, to_json
from unimedi_jax.config import trainable as rules
from unimedi_jax.train.job import build_train_step

GIB = 2**30


class Ours:
    """The state and step of `config.pretrain` on a random batch, as training runs them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        config = from_json(settings)
        self._mesh = sharding.make_mesh(**vars(config.mesh))
        self._program = build_train_step(config, settings["vocab_size"], self._mesh)
        with jax.set_mesh(self._mesh):
            self._state = self._program.init(jax.random.key(0))
            self._batch = sharding.put_batch(random_batch(settings), self._mesh)
        work = self._program.flops(vars(config.batch), config.input.report_length)
        kind = self._mesh.devices.flat[0].device_kind
        peak = flops.peak(kind)
        self.facts = {
            "parameters": trees.count(self._state.params),
            "trained": trees.count(jax.eval_shape(self._program.partition.split, self._state.params)),
            "moments": trees.count(self._state.opt_state),
            "jax": jax.__version__,
            "device": kind,
            "flops": work,
            "peak_flops": peak and peak * self._mesh.size,
        }

    def step(self) -> None:
        """One step, to its end."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._program.step(self._state, self._batch)
            jax.block_until_ready((self._state.params, metrics))
        self.facts["loss"] = float(metrics["loss"].value)

    def peak(self) -> int | None:
        """The most bytes in use on a device; None on a CPU, which does not count them."""
        statistics = self._mesh.devices.flat[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None


make = Ours  # what `process.serve` calls


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures the step of `config.pretrain`, against the twin where torch and transformers are installed.

    Where `config.pretrain.trainable` trains a part of the parameters, against the step that trains all of them.
    """
    settings = to_json(config)
    # Both sides use one GPU at the same time: JAX would reserve three quarters of it.
    sides = {"ours": Process(__name__, settings, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})}
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    ours_alone = {
        "registers": 0,
        "score_layers": 0,
        "slice_source": [0, 0],
        "frontal_view": False,
        "lateral_type": False,
    }
    ours_alone = [name for name, plain in ours_alone.items() if settings["model"][name] != plain]
    in_part = config.pretrain.trainable != rules.EVERYTHING
    if in_part:
        everything = settings | {"trainable": rules.EVERYTHING}
        sides["all parameters"] = Process(__name__, everything, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})
    elif ours_alone:
        print(f"no PyTorch twin: config.pretrain.model.{ours_alone[0]} has none")
    elif missing:
        print(f"no PyTorch twin: {', '.join(missing)} not installed (requirements-dev.txt)")
    else:
        sides["twin"] = Process("unimedi_jax.bench.twin", settings)
        if config.bfloat16 and config.pretrain.model.dtype != "bfloat16":
            sides["twin, bfloat16"] = Process("unimedi_jax.bench.twin", settings | {"bfloat16": True})
        if config.compiled:
            sides["twin, torch.compile"] = Process("unimedi_jax.bench.twin", settings | {"compiled": True})
    try:
        seconds = measure.interleaved({name: side.step for name, side in sides.items()}, config.rounds)
        peaks = {name: side.peak() for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    parameters = {name: side.facts["parameters"] for name, side in sides.items()}
    ours, model, batch = sides["ours"].facts, settings["model"], config.pretrain.batch
    if in_part:
        parameters |= {"trained": ours["trained"], "of its optimiser": ours["moments"]}
    title = (
        f"step on {ours['device']}: {batch.xray} X-rays and {batch.ct} CTs, vision {model['vision_size']}, "
        f"report {model['report_size']}, {model['dtype']}; parameters {parameters}"
    )
    results = table(seconds, peaks, sum(batch.values()))
    if ours["flops"] and ours["peak_flops"]:
        least = ours["flops"] / ours["peak_flops"]
        shares = {name: tuple(least / s for s in values) for name, values in seconds.items()}
        results += [measure.Result(f"{name}: MFU", "", values) for name, values in shares.items()]
    measure.report(title, results, workdir)


def table(seconds: dict[str, tuple[float, ...]], peaks: dict[str, float], samples: int) -> list[measure.Result]:
    """Rates, peaks, and the ratios of ours to the twin's, or to ours where all parameters train."""
    results = []
    for name, values in seconds.items():
        results += [
            measure.Result(f"{name}: samples a second", "1/s", tuple(samples / s for s in values)),
            measure.Result(f"{name}: peak memory while stepping", "GiB", (peaks[name] / GIB,)),
        ]
    if "twin" in seconds:
        # PyTorch's products use AMX, XLA's hardly do.
        goal = "at least 1" if "amx_tile" in machine.instruction_sets() else "at least 1.3"
        results += [
            measure.ratio("samples a second over the twin's", seconds["twin"], seconds["ours"], goal),
            measure.ratio("peak memory over the twin's", [peaks["ours"]], [peaks["twin"]], "at most 1"),
        ]
    if (whole := "all parameters") in seconds:
        results += [
            measure.ratio("samples a second over those with all parameters", seconds[whole], seconds["ours"]),
            measure.ratio("peak memory over that with all parameters", [peaks["ours"]], [peaks[whole]]),
        ]
    return results
