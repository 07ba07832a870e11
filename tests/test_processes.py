"""One run on 1, 2 and 4 processes over loopback, as so many hosts: the same losses and the same embeddings.

The mesh is 2 x 2 and every leaf that can be is split; two processes find each other as Slurm tells them, four as Open
MPI does.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from data import phantom, records
from tests.faults.injuries import ROOT

DEVICES = 4


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("records")
    records.build(phantom.source(xrays=12, cts=10, seed=7), data_dir=folder, name="phantom", workers=2)
    return folder


def free_job() -> int:
    """A job number whose port is free: for both launchers JAX takes one of 4096 ports, by the number."""
    for job in range(os.getpid() % 1000, 4096):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", 65535 - 2**12 + 1 + job)):
                return job
    raise AssertionError("no free port")


def slurm(job: int, process: int, processes: int) -> dict[str, str]:
    rank = {"PROCID": process, "LOCALID": process, "NTASKS": processes, "STEP_TASKS_PER_NODE": processes}
    return {f"SLURM_{k}": str(v) for k, v in rank.items()} | {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1",
    }  # fmt: skip


def open_mpi(job: int, process: int, processes: int) -> dict[str, str]:
    rank = {"RANK": process, "SIZE": processes, "LOCAL_RANK": process, "LOCAL_SIZE": processes}
    return {f"OMPI_COMM_WORLD_{k}": str(v) for k, v in rank.items()} | {
        "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1",
    }  # fmt: skip


LAUNCHERS = {1: lambda *_: {}, 2: slurm, 4: open_mpi}


def run(folder: pathlib.Path, workdir: pathlib.Path, processes: int) -> list[dict]:
    """What each of `processes` processes tells, with `DEVICES` devices in all."""
    job = free_job()
    command = [sys.executable, "-m", "tests.faults.host", str(folder), str(workdir), "auto" if processes > 1 else ""]
    settings = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    settings["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    logs = [workdir.parent / f"{i}.log" for i in range(processes)]
    started = []
    for i, log in enumerate(logs):
        environment = {**os.environ, **settings, **LAUNCHERS[processes](job, i, processes)}
        with log.open("w") as file:
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))
    try:
        codes = [process.wait(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    words = [log.read_text() for log in logs]
    assert codes == [0] * processes, "\n".join(words)
    return [json.loads(next(line for line in log.splitlines() if line.startswith("{"))) for log in words]


@pytest.fixture(scope="module")
def alone(records_dir, tmp_path_factory) -> dict:
    (told,) = run(records_dir, tmp_path_factory.mktemp("alone") / "run", 1)
    return told


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_what_one_gives(records_dir, tmp_path, alone, processes: int) -> None:
    assert alone["split"] > 20
    assert alone["processes"] == 1
    for told in run(records_dir, tmp_path / "run", processes):
        assert told["processes"] == processes
        assert told["largest"] == 10 + processes - 1
        assert told["split"] == alone["split"]
        for step, (ours, expected) in enumerate(zip(told["steps"], alone["steps"], strict=True)):
            assert {"loss", "loss/vl", "xray/pcl", "norm/grads"} <= ours.keys()
            # Adam divides by the size of a gradient: what rounding made of a small one, the next steps see in full.
            allowed = 1e-5 if step == 0 else 1e-4
            assert ours == pytest.approx(expected, rel=allowed, abs=allowed), f"step {step + 1}"
        assert [len(row) for row in told["z"]] == [128] * 32
        for ours, expected in zip(told["z"], alone["z"], strict=True):
            assert ours == pytest.approx(expected, abs=1e-4)
