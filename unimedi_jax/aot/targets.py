"""Machines by name: their devices for the compiler, and memory and speed from their data sheets."""

import dataclasses
import importlib.util
import math
import os
import pathlib
from typing import Any

from data.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, in bytes and bytes a second; its dense bf16 FLOP/s come from `flops.peak`."""

    kind: str  # what JAX calls it
    memory: float  # that a program may use
    bandwidth: float  # of that memory
    link: float  # to the other devices, all links together, one way
    beyond: float = 0.0  # to devices of other hosts, where it is another network
    goal: float = 0.0  # the least MFU bound that is wanted of it (aot/compile.py), where one was set


# TPU: the product pages of Cloud TPU, half of the bidirectional link rate; memory as libtpu reports it. NVIDIA: data
# sheets of the SXM boards, NVLink one way; beyond the host one 400 (200) Gb/s adapter a GPU.
CHIPS = {
    "v4": Chip("TPU v4", 30.75 * GIB, 1228e9, 150e9),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 819e9, 200e9, goal=0.4),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2765e9, 300e9, goal=0.4),
    "v6e": Chip("TPU v6 lite", 31.25 * GIB, 1638e9, 400e9, goal=0.3),
    # XLA takes 75 % of a GPU's memory by default (XLA_PYTHON_CLIENT_MEM_FRACTION); users set 90 %.
    "h100": Chip("NVIDIA H100", 0.9 * 79.1 * GIB, 3352e9, 450e9, 50e9, goal=0.4),
    "a100": Chip("NVIDIA A100", 0.9 * 79.1 * GIB, 2039e9, 300e9, 25e9),
}
PER_HOST = 8  # GPUs
# What the compiler has to know about a GPU: its streaming multiprocessors (SM) and their shared memory.
GPUS = {
    "h100": {"sms": 132, "lanes": 128, "shared": 233472, "block": 232448, "l2": 52428800, "ghz": 1.98, "major": 9},
    "a100": {"sms": 108, "lanes": 64, "shared": 167936, "block": 166912, "l2": 41943040, "ghz": 1.41, "major": 8},
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips of one kind as one machine."""

    name: str
    chip: Chip
    family: str
    devices: int

    @property
    def gpu(self) -> bool:
        """Whether NVIDIA's compiler is needed, libtpu otherwise."""
        return self.family in GPUS

    @property
    def link(self) -> float:
        """Bytes a second that a device exchanges; between hosts each GPU carries its part through its adapter."""
        hosts = self.gpu and self.devices > PER_HOST
        return min(self.chip.link, PER_HOST * self.chip.beyond) if hosts else self.chip.link


def parse(name: str) -> Target:
    """A target by its name in the cloud.

    v5e-256 and v6e-16 count chips, v4-32 and v5p-64 cores, of which a chip has two; h100-8 GPUs, eight to a host.

    Raises:
        UserError: no such machine.
    """
    family, _, count = name.partition("-")
    if family not in CHIPS or not count.isdigit() or not int(count):
        raise UserError(
            f"configs/compile.py:{name}: a target is a chip ({', '.join(CHIPS)}) and a number, as v5e-256 or h100-8"
        )
    devices = int(count)
    if family in ("v4", "v5p"):
        if devices % 8:
            raise UserError(f"configs/compile.py:{name}: {family} slices are multiples of 8 cores")
        devices //= 2
    if family in GPUS and devices > PER_HOST and devices % PER_HOST:
        raise UserError(f"configs/compile.py:{name}: more than {PER_HOST} GPUs are whole hosts of {PER_HOST}")
    if family in ("v5e", "v6e") and devices & (devices - 1) | (devices == 2) | (devices > 256):
        raise UserError(f"configs/compile.py:{name}: {family} slices have 1, 4, 8, 16, 32, 64, 128 or 256 chips")
    return Target(name, CHIPS[family], family, devices)


def prepare() -> None:
    """Sets up the compilers, before JAX is imported: they look for no device and log nothing."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # libtpu otherwise complains at length that it finds none
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for tool in pathlib.Path(folder).glob("*/bin/ptxas"):
            os.environ["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"


def devices(target: Target) -> list[Any]:
    """Devices that a mesh can be made of and a step compiled for, but not run on.

    Raises:
        UserError: the compiler is not installed.
    """
    from jax.experimental import topologies

    try:
        if target.gpu:
            hosts = max(target.devices // PER_HOST, 1)
            shape = f"1x{hosts}x{target.devices // hosts}"
            gpu = {"topology": shape, "target_config": _description(target)}
            topology = topologies.get_topology_desc(platform="cuda", topology_name="", **gpu)
        else:
            topology = topologies.get_topology_desc(platform="tpu", topology_name=_slice(target), **_bounds(target))
    except Exception as error:  # each plugin has its own
        line = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"no compiler for {target.name} ({line}): pip install -r requirements-aot.txt, best in an environment of "
            "its own"
        ) from error
    return list(topology.devices)


def _slice(target: Target) -> str:
    """Chips along each axis, as close to a square or a cube as powers of two allow: v5e:16x16, v4:2x2x4."""
    rank = 2 if target.family in ("v5e", "v6e") else 3
    sides = [2] * rank if target.devices >= 2**rank else [1] * rank
    if rank == 3 and target.devices == 4:
        sides = [2, 2, 1]
    while math.prod(sides) < target.devices:
        sides[sides.index(min(sides))] *= 2
    if math.prod(sides) != target.devices:
        raise UserError(f"configs/compile.py:{target.name}: give a power of two")
    return f"{target.family}:{'x'.join(map(str, sorted(sides) if math.prod(sides) > 4 else sides))}"


def _bounds(target: Target) -> dict[str, Any]:
    bounds: dict[str, Any] = {} if target.devices > 1 else {"chips_per_host_bounds": (1, 1, 1)}
    if target.family in ("v4", "v5p"):
        bounds["chip_config_name"] = "megacore"  # both cores of a chip as one device
    return bounds


def _description(target: Target) -> str:
    """XLA's description of a GPU, in protocol buffers' text form."""
    gpu = GPUS[target.family]
    return f"""
        platform_name: "CUDA"
        device_description_str: "{target.chip.kind}"
        runtime_version {{ major: 13 }}
        dnn_version_info {{ major: 9 minor: 8 }}
        gpu_device_info {{
          cuda_compute_capability {{ major: {gpu["major"]} }}
          core_count: {gpu["sms"]} fpus_per_core: {gpu["lanes"]} clock_rate_ghz: {gpu["ghz"]}
          threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          shared_memory_per_block: 49152 shared_memory_per_block_optin: {gpu["block"]}
          shared_memory_per_core: {gpu["shared"]} l2_cache_size: {gpu["l2"]}
          memory_bandwidth: {target.chip.bandwidth:.0f} device_memory_size: {int(target.chip.memory / 0.9)}
        }}
    """
