"""Two processes over loopback, as two hosts: they stop at one step, and none waits for a lost one."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

from tests import several
from tests.faults import injuries
from unimedi_jax import hosts, integrity

MEET = """
import sys
from unimedi_jax import hosts
hosts.connect(sys.argv[1], processes=2, process=int(sys.argv[2]), timeout=20)
with hosts.none_lost():
    hosts.barrier("all are here")
    print("met", flush=True)
    while True:
        hosts.barrier("again")
"""


def two(folder: pathlib.Path, workdir: pathlib.Path, number: int) -> list[tuple[int, str]]:
    """Starts both, signals the second alone once it trains; exit code and log of each."""
    flags = [
        f"--config.distributed.coordinator=127.0.0.1:{injuries.free_port()}",
        "--config.distributed.processes=2",
        "--config.distributed.timeout=20",
        "--config.steps=100000",
        "--config.log_every=20",
        "--config.checkpoint.every=1000",
        "--config.evals.every=1000000",
    ]
    processes = [injuries.start(folder, workdir, *flags, f"--config.distributed.process={i}") for i in (0, 1)]
    sent: list[int] = []

    def strike(host: int, line: str) -> None:
        if host == 1 and "of 100000: " in line and not sent:
            sent.append(number)  # once: the second would stop it now
            processes[1].send_signal(number)

    return several.ended(processes, 240, strike)


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, []),  # one process a machine: all of its devices
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x16)"}, None),  # JAX gives each process its own
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        ({}, None),  # a TPU pod
    ],
)
def test_a_process_alone_on_its_machine_has_all_devices(monkeypatch, environment: dict, devices: list | None):
    passed = {}
    monkeypatch.setattr(jax.distributed, "initialize", passed.update)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    hosts.connect("auto", timeout=9)
    assert passed.get("local_device_ids") == devices
    assert "coordinator_address" not in passed
    hosts.connect("host:1", processes=4, process=2)
    assert (passed["coordinator_address"], passed["num_processes"], passed["process_id"]) == ("host:1", 4, 2)


def test_all_stop_at_one_step_and_none_waits_for_a_lost_one(records_dir, tmp_path):
    (code, log), (other, log_other) = two(records_dir, tmp_path / "run", signal.SIGTERM)
    assert (code, other) == (75, 75), log + log_other
    words = [line for line in (log + log_other).splitlines() if line.startswith("stopped after step")]
    assert len(words) == 2
    assert words[0] == words[1]
    (step,) = integrity.steps(tmp_path / "run" / "checkpoints")
    assert f"step {step}," in words[0]

    (code, log), (other, _) = two(records_dir, tmp_path / "run", signal.SIGKILL)
    assert other == -9
    assert f"resuming from step {step}" in log
    assert code == 75, log
    assert "another host was lost, or failed" in log


def test_a_barrier_that_a_lost_host_left_ends_with_75():
    coordinator = f"127.0.0.1:{injuries.free_port()}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": injuries.ROOT}
    processes = [
        subprocess.Popen([sys.executable, "-c", MEET, coordinator, str(host)], env=environment, **together)
        for host in (0, 1)
    ]

    def strike(host: int, line: str) -> None:
        if host == 1 and line == "met\n":
            processes[1].kill()

    (code, log), (other, _) = several.ended(processes, 60, strike)
    assert (code, other) == (75, -9), log
    assert "another host was lost, or failed" in log
