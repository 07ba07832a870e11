"""The compile job: whether a training step fits an absent machine, how fast it could be, what its devices exchange."""

import dataclasses
import functools
import json
import logging
import math
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from data.errors import UserError
from unimedi_jax import flops, hlo, hlo_schedule, sharding
from unimedi_jax.aot import apart, targets, traffic
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.train.job import TrainStep, build_train_step, check_batch

LOG = logging.getLogger(__name__)
MARGIN = 0.97  # of the memory, for a batch that is extrapolated from others
# Triton's products need tile sizes that only measurements on the device can choose; cuBLAS's do not.
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
GOAL_ROWS = {"xray": 48, "ct": 16}  # of a device, for which the chips' goals hold
SHOWN = 12  # collectives on the screen; the file has all
Rows = dict[str, int]  # X-rays and CTs per device


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One compilation: the bytes that a device needs, and the program (None where a TPU's compiler found no room)."""

    rows: Rows
    memory: dict[str, float]
    compiled: jax.stages.Compiled | None

    @property
    def total(self) -> float:
        """Bytes a device."""
        return self.memory["total"]

    def fits(self, available: float) -> bool:
        """Whether a device with `available` bytes can run it."""
        return self.compiled is not None and self.total <= available


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Compiles the step of `config.pretrain` for `config.target`; prints what it needs, and writes compile.json.

    Raises:
        UserError: it does not fit (the message names a batch that does), there is no such target or compiler, or the
            compiler crashes.
    """
    target = targets.parse(config.target)
    doing, log = f"{target.name}: compiling", workdir / "compiler.log"
    apart.call(_run, target, config.copy_and_resolve_references(), workdir, log=log, doing=doing)


def _run(target: targets.Target, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    settings = typed(PretrainConfig, config.pretrain, "config.pretrain")
    mesh = sharding.make_mesh(**vars(settings.mesh), devices=targets.devices(target))
    program = build_train_step(settings, config.vocab_size, mesh)
    length, rows = settings.input.report_length, settings.batch.rows(mesh.size)
    if not any(rows.values()):
        raise UserError("config.pretrain.batch asks for neither X-rays nor CTs")
    check_batch(settings, rows, mesh.size, "config.pretrain")
    rows = {name: count // mesh.size for name, count in rows.items()}

    def attempt(rows: Rows) -> Attempt:
        return _compile(program, rows, length, GPU_OPTIONS if target.gpu else {})

    started = time.perf_counter()
    done = attempt(rows)
    seconds = time.perf_counter() - started
    if not done.fits(target.chip.memory):
        needs, has = done.total / targets.GIB, target.chip.memory / targets.GIB
        LOG.info("%.1f GiB do not fit %.1f GiB; compiling smaller batches to find one that does", needs, has)
        allowed = functools.partial(_divides, settings, mesh.size)
        raise UserError(_too_much(target, done, largest(done, attempt, target.chip.memory, allowed)))
    text = done.compiled.as_text()
    facts = {
        "target": target.name,
        "devices": target.devices,
        "jax": jax.__version__,
        "mesh": dict(mesh.shape),
        "rows": rows,
        "global_batch": {name: count * mesh.size for name, count in rows.items()},
        "compile_seconds": round(seconds, 1),
        "memory": {**done.memory, "available": target.chip.memory},
        **roofline(text, target, program.flops(rows, length)),
    }
    (workdir / "compile.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if config.keep_text:
        (workdir / "program.txt").write_text(text, encoding="utf-8")
    print(table(facts, sum(rows.values()) * mesh.size))
    print(f"all collectives: {workdir / 'compile.json'}")


def roofline(text: str, target: targets.Target, analytic: float | None) -> dict[str, Any]:
    """What a compiled program demands of one device, and the least time that a device of the kind needs for it.

    `analytic`: floating-point operations that the method needs of one device; MFU counts these, or the compiled ones
    where there is no such count.
    """
    program = hlo.parse(text)
    exchanged = hlo.exchanged(program)
    work = {
        "flops": hlo.flops(program),
        "bytes": hlo.bytes_moved(program),
        "wire_bytes": sum(row.wire for row in exchanged),
    }
    peak = flops.peak(target.chip.kind)
    seconds = {
        "compute": work["flops"] / peak,
        "memory": work["bytes"] / target.chip.bandwidth,
        "network": work["wire_bytes"] / target.link,
    }
    least, analytic = max(seconds.values()), analytic or work["flops"]
    in_order = hlo_schedule.simulate(
        program,
        lambda operations, moved: max(operations / peak, moved / target.chip.bandwidth),
        lambda sent: sent / target.link,
    )
    return {
        **work,
        "bytes_by_part": traffic.by_part(program),
        "in_order": in_order._asdict(),
        "analytic_flops": analytic,
        "flops_ratio": work["flops"] / analytic,
        "seconds": seconds,
        "bound_by": max(seconds, key=seconds.__getitem__),
        "roofline_seconds": least,
        "mfu_bound": analytic / (peak * least),
        "collectives": [{**dataclasses.asdict(row), "wire_bytes": row.wire} for row in exchanged],
        "kernels": dict(hlo.called_targets(program).most_common()),
    }


def largest(
    failed: Attempt,
    attempt: Callable[[Rows], Attempt],
    available: float,
    allowed: Callable[[Rows], bool] = lambda rows: True,
) -> Attempt | None:
    """The largest batch of the same mixture that fits, to about a twentieth; None where not even the smallest does.

    Halves until one fits, then extrapolates linearly from the memory of the last two. `allowed` says which batches
    config.accumulate and config.objective.contrastive_chunk divide.
    """
    above, below = failed, None
    while below is None:
        rows = _scaled(above.rows, 0.5, allowed)
        if rows == above.rows:
            return None
        tried = attempt(rows)
        if tried.fits(available):
            below = tried
        else:
            above = tried
    slope = (above.total - below.total) / (sum(above.rows.values()) - sum(below.rows.values()))
    room = MARGIN * available - below.total
    factor = 1 + max(room, 0.0) / (slope * sum(below.rows.values())) if slope > 0 else 1
    rows = _scaled(below.rows, factor, allowed)
    if rows == below.rows:
        return below
    tried = attempt(rows)
    return tried if tried.fits(available) else below


def _divides(config: PretrainConfig, devices: int, rows: Rows) -> bool:
    """Whether a run could have so many rows a device: its parts and chunks divide them."""
    try:
        check_batch(config, {name: count * devices for name, count in rows.items()}, devices)
    except UserError:
        return False
    return True


def _scaled(rows: Rows, factor: float, allowed: Callable[[Rows], bool]) -> Rows:
    """`factor` times the rows, or the next fewer that are allowed; `rows` themselves where there are none."""
    most = max(rows.values())
    for count in range(math.floor(most * factor), 0, -1):
        scaled = {name: max(each * count // most, min(each, 1)) for name, each in rows.items()}
        if allowed(scaled):
            return scaled
    return rows


def _compile(program: TrainStep, rows: Rows, length: int, options: dict[str, Any]) -> Attempt:
    LOG.info("compiling for %d devices, %s a device", program.mesh.size, _words(rows))
    try:
        lowered = program.lower(rows, length)
    except NotImplementedError as error:  # cuDNN's attention takes some lengths and dtypes only
        raise UserError(f"config.pretrain.model.attention: {str(error).splitlines()[0]}") from error
    with jax.set_mesh(program.mesh):
        try:
            compiled = lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            if (used := _used(str(error))) is None:
                raise
            return Attempt(rows, {"total": used}, None)
    sizes = compiled.memory_analysis()
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporary": sizes.temp_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    return Attempt(rows, {**memory, "total": sum(memory.values())}, compiled)


def _used(message: str) -> float | None:
    """Bytes that a program would need, from the error message of a TPU's compiler; None for any other error."""
    # Where the temporaries alone exceed the memory, it reports them before it has placed the rest.
    pattern = r"(?:Used |required for HLO temporaries \()([\d.]+)([KMGT])(?: of .* hbm|\) exceeds available HBM)"
    match = re.search(pattern, message)
    return float(match[1]) * 1024 ** (1 + "KMGT".index(match[2])) if match else None


def _words(rows: Rows) -> str:
    return f"{rows['xray']} X-rays and {rows['ct']} CTs"


def _too_much(target: targets.Target, tried: Attempt, fits: Attempt | None) -> str:
    needs = f"{tried.total / targets.GIB:.1f} GiB for {_words(tried.rows)} a device"
    has = f"{target.chip.memory / targets.GIB:.1f} GiB of a {target.chip.kind}"
    if fits is None:
        return (
            f"{target.name}: the step does not fit at any batch that the settings allow, {needs} exceed the {has}: "
            "split the state (config.pretrain.mesh.fsdp) or recompute (config.pretrain.model.remat=full)"
        )
    return (
        f"{target.name}: the step does not fit, {needs} exceed the {has}; {_words(fits.rows)} fit in "
        f"{fits.total / targets.GIB:.1f} GiB: --config.pretrain.batch.xray={fits.rows['xray']} "
        f"--config.pretrain.batch.ct={fits.rows['ct']}, or recompute (config.pretrain.model.remat=full)"
    )


def _goal(facts: dict[str, Any]) -> str:
    """The least MFU bound that is wanted of a kind of chip, at the batch that it is wanted at."""
    least = targets.parse(facts["target"]).chip.goal
    return f" (goal: at least {least:.0%})" if least and facts["rows"] == GOAL_ROWS else ""


def table(facts: dict[str, Any], samples: int) -> str:
    """What `run` prints; `samples` counts those of all devices in one step."""
    memory, seconds, in_order, gib = facts["memory"], facts["seconds"], facts["in_order"], targets.GIB
    parts = ", ".join(f"{name} {memory[name] / gib:.2f}" for name in ("arguments", "outputs", "temporary", "code"))
    lines = [
        f"{facts['target']}: {facts['devices']} devices, mesh {facts['mesh']}, {_words(facts['rows'])} a device, "
        f"compiled in {facts['compile_seconds']:.0f} s",
        f"  memory      {memory['total'] / gib:.2f} of {memory['available'] / gib:.2f} GiB a device ({parts})",
        f"  arithmetic  {facts['flops'] / 1e12:.3f} TFLOP a device, {facts['flops_ratio']:.3f} x the analytic count"
        f"{'':6}{1e3 * seconds['compute']:8.2f} ms",
        f"  traffic     {facts['bytes'] / 1e9:.2f} GB a device{'':32}{1e3 * seconds['memory']:8.2f} ms",
        *(f"    {moved / 1e9:8.2f} GB  {part}" for part, moved in facts["bytes_by_part"].items()),
        f"  network     {facts['wire_bytes'] / 1e9:.3f} GB a device{'':31}{1e3 * seconds['network']:8.2f} ms",
        f"  roofline    {1e3 * facts['roofline_seconds']:.2f} ms a step, bound by {facts['bound_by']}: at most "
        f"{samples / facts['roofline_seconds']:.0f} samples/s, MFU at most {facts['mfu_bound']:.0%}{_goal(facts)}",
        f"  in order    {1e3 * in_order['whole']:.2f} ms, one operation after the other, each at its own roofline; in "
        f"{1e3 * in_order['waiting']:.2f} ms of them the device waits for the network",
        f"  collectives {sum(row['times'] for row in facts['collectives'])} a step, {len(facts['collectives'])} kinds",
    ]
    rows = (
        f"    {row['kind']:18} {row['bytes'] / 1e6:10.3f} MB x {row['times']:<3} among {row['group']:<4} "
        f"{row['source'][-60:]}"
        for row in facts["collectives"][:SHOWN]
    )
    attention = {name: n for name, n in facts["kernels"].items() if "fmha" in name or name == "tpu_custom_call"}
    return "\n".join([*lines, *rows, *([f"  fused attention: {attention}"] if attention else [])])
