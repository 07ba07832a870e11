"""Two hosts without a shared disk: with a bucket they train as one does, killed and started again."""

import pathlib
import shutil
import threading

import numpy as np

from data.buckets import mirror
from tests import buckets
from tests.faults import __main__ as campaign
from tests.faults import injuries

STEPS = ["--config.steps=6", "--config.checkpoint.every=2", "--config.evals.every=1000"]
SMALL = ["--config.batch.xray=1", "--config.batch.ct=1", "--config.evals.limit=4", "--config.evals.rows=1"]


def two(records, workdir, folder: pathlib.Path, kill: str = "", **environment: str) -> list[tuple[int, str]]:
    """Starts both, each with its own disk and two devices; kills the second at a line. Exit codes and logs."""
    together = f"--config.distributed.coordinator=127.0.0.1:{injuries.free_port()}"
    flags = [*STEPS, *SMALL, together, "--config.distributed.processes=2", "--config.distributed.timeout=20"]
    processes = []
    for host in range(2):
        own = {"UNIMEDI_CACHE": str(folder / f"cache{host}"), "FAULTS_IDS": str(folder / f"ids{host}")}
        place = workdir(host) if callable(workdir) else workdir
        number = f"--config.distributed.process={host}"
        settings = environment | own | {"JAX_NUM_CPU_DEVICES": "2"}
        processes.append(injuries.start(records(host), place, *flags, number, **settings))
    logs: list[list[str]] = [[], []]

    def listen(host: int) -> None:
        for line in processes[host].stderr:
            logs[host].append(line)
            if kill and host == 1 and kill in line:
                processes[1].kill()

    threads = [threading.Thread(target=listen, args=(host,)) for host in range(2)]
    for thread in threads:
        thread.start()
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for thread in threads:
            thread.join()
        for process in processes:
            process.stderr.close()
    return [(code, "".join(log)) for code, log in zip(codes, logs, strict=True)]


def test_separate_folders_are_refused_on_both_hosts(records_dir, tmp_path):
    for code, log in two(lambda _: records_dir, lambda host: tmp_path / f"run{host}", tmp_path):
        assert code == 2, log
        assert "on host 1 is not that of host 0: name a --workdir on a disk that all hosts see" in log
        assert "Traceback" not in log
        assert len(log.splitlines()) == 1, log


def test_with_a_bucket_they_end_as_one_host_does(records_dir, tmp_path, cache):
    alone = tmp_path / "alone"
    ids = {"FAULTS_IDS": str(tmp_path / "alone.ids")}
    process = injuries.start(records_dir, alone, *STEPS, *SMALL, JAX_NUM_CPU_DEVICES="4", **ids)
    log = process.communicate()[1]
    assert process.returncode == 0, log
    expected = campaign.observe(alone, tmp_path / "alone.ids")

    copies = [shutil.copytree(records_dir, tmp_path / f"records{host}") for host in range(2)]
    with buckets.s3() as variables, buckets.variables(variables):
        (code, log), (other, _) = two(copies.__getitem__, "s3://bucket/run", tmp_path, kill="step 4 of")
        assert other == -9
        assert code in (75, -6), log  # JAX may end the other one before it has noticed by itself
        for code, log in two(copies.__getitem__, "s3://bucket/run", tmp_path):
            assert code == 0, log
            assert "going on from step" in log
        run = mirror.fetch("s3://bucket/run")
        both = [campaign.observe(run, tmp_path / f"ids{host}") for host in range(2)]
    ours = both[0]
    assert ours.hashes.keys() == expected.hashes.keys()
    assert [line["step"] for line in ours.lines] == [line["step"] for line in expected.lines]
    losses = [[line["loss"] for line in run.lines if "loss" in line] for run in (expected, ours)]
    np.testing.assert_allclose(*losses, rtol=1e-4)  # hosts add up in another order
    for step, (batch, *_) in expected.ids.items():
        assert flat(batch) == sorted(name for host in both for name in flat(host.ids[step][-1])), (
            f"records of step {step}"
        )


def flat(ids) -> list[str]:
    """All ids of a batch, whatever they are nested in."""
    if isinstance(ids, str):
        return [ids]
    return sorted(name for part in (ids.values() if isinstance(ids, dict) else ids) for name in flat(part))
