"""One run on 1 and 4 processes over loopback, as so many hosts: the same losses and the same embeddings.

The mesh is 2 x 2 and every leaf that can be is split. Processes find each other as Slurm or Open MPI tells them.
"""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests import several
from tests.faults.injuries import ROOT

DEVICES = 4
TRAIN = ("-m", "tests.faults.host")
MEET = (
    "-c",
    "import jax\n"
    "from unimedi_jax import hosts\n"
    "hosts.connect('auto', timeout=60)\n"
    "print([jax.process_index(), jax.process_count(), jax.device_count(), jax.local_device_count()])\n",
)


def free_job() -> int:
    """A job number whose port is free: for both launchers JAX takes one of 4096 ports, by the number."""
    for job in range(os.getpid() % 1000, 4096):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 65535 - 2**12 + 1 + job)):
                return job
    raise AssertionError("no free port")


def slurm(job: int, process: int, processes: int) -> dict[str, str]:
    rank = {"PROCID": process, "LOCALID": process, "NTASKS": processes, "STEP_TASKS_PER_NODE": processes}
    return {f"SLURM_{k}": str(v) for k, v in rank.items()} | {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
    }


def open_mpi(job: int, process: int, processes: int) -> dict[str, str]:
    rank = {"RANK": process, "SIZE": processes, "LOCAL_RANK": process, "LOCAL_SIZE": processes}
    return {f"OMPI_COMM_WORLD_{k}": str(v) for k, v in rank.items()} | {
        "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1"
    }


def start(command: list[str], processes: int, launcher=lambda *_: {}) -> list[Any]:
    """What each of `processes` processes tells in a line of JSON, with `DEVICES` devices in all."""
    job = free_job()
    settings = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    settings["JAX_NUM_CPU_DEVICES"] = str(DEVICES // processes)
    started = []
    for i in range(processes):
        environment = {**os.environ, **settings, **launcher(job, i, processes)}
        together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, **together))
    codes, logs = zip(*several.ended(started, 900), strict=True)
    assert codes == (0,) * processes, "\n".join(logs)
    lines = [[line for line in log.splitlines() if line.startswith(("{", "["))] for log in logs]
    return [json.loads(answers[-1]) for answers in lines]


@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_processes_meet_as_their_launcher_tells_them(launcher) -> None:
    assert start([*MEET], 2, launcher) == [[0, 2, DEVICES, 2], [1, 2, DEVICES, 2]]


def test_four_processes_give_what_one_gives(records_dir, tmp_path) -> None:
    (alone,) = start([*TRAIN, str(records_dir), str(tmp_path / "alone"), ""], 1)
    assert alone["split"] > 20
    assert alone["processes"] == 1
    for answer in start([*TRAIN, str(records_dir), str(tmp_path / "run"), "auto"], 4, open_mpi):
        assert answer["processes"] == 4
        assert answer["largest"] == 10 + 4 - 1
        assert answer["split"] == alone["split"]
        for step, (ours, expected) in enumerate(zip(answer["steps"], alone["steps"], strict=True)):
            assert {"loss", "loss/vl", "xray/pcl", "norm/grads"} <= ours.keys()
            # Processes add in another order. A BatchNorm over few samples and the temperature enlarge that rounding in
            # the contrast a hundred times and more, and Adam, which divides by a gradient's size, in the next steps.
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-4), f"step {step + 1}"
        assert [len(row) for row in answer["z"]] == [128] * 32
        for ours, expected in zip(answer["z"], alone["z"], strict=True):
            assert ours == pytest.approx(expected, abs=1e-4)
