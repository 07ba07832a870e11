"""Two processes over loopback, as two hosts: they stop at one step, and none waits for a lost one."""

import pathlib
import signal
import threading

import jax
import pytest

from tests.faults import injuries
from unimedi_jax import hosts, integrity


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
    logs: list[list[str]] = [[], []]
    sent: list[int] = []

    def listen(index: int) -> None:
        for line in processes[index].stderr:
            logs[index].append(line)
            if index == 1 and "of 100000: " in line and not sent:
                sent.append(number)  # once: the second would stop it now
                processes[1].send_signal(number)

    threads = [threading.Thread(target=listen, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
        for thread in threads:
            thread.join()
        for process in processes:
            process.stderr.close()
            process.wait()
    return [(code, "".join(log)) for code, log in zip(codes, logs, strict=True)]


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
    assert f"going on from step {step}" in log
    assert code == 75, log
    assert "another host was lost, or failed" in log
