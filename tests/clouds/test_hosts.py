"""Two hosts without a shared disk: with a bucket they train as one does, killed and started again."""

import pathlib
import shutil

from data.buckets import mirror
from tests import buckets, several
from tests.faults import __main__ as campaign
from tests.faults import injuries

STEPS = ["--config.steps=6", "--config.checkpoint.every=2", "--config.evals.every=1000"]
SMALL = ["--config.batch.xray=1", "--config.batch.ct=1", "--config.evals.limit=4", "--config.evals.rows=1"]
DEVICES = 4


def hosts(number: int, records, workdir, folder: pathlib.Path, kill: str = "") -> list[tuple[int, str]]:
    """Starts them, each with its own disk and its share of the devices; kills the second at a line.

    One host joins a run of its own, too: by that its devices add up as those of several do, whose order of summands
    differs from that of a process by itself.
    """
    together = f"--config.distributed.coordinator=127.0.0.1:{injuries.free_port()}"
    flags = [*STEPS, *SMALL, together, f"--config.distributed.processes={number}", "--config.distributed.timeout=20"]
    processes = []
    for host in range(number):
        own = {"UNIMEDI_CACHE": str(folder / f"cache{host}"), "FAULTS_IDS": str(folder / f"ids{host}")}
        settings = own | {"JAX_NUM_CPU_DEVICES": str(DEVICES // number)}
        which = f"--config.distributed.process={host}"
        processes.append(injuries.start(records(host), workdir(host), *flags, which, **settings))

    def strike(host: int, line: str) -> None:
        if kill and host == 1 and kill in line:
            processes[1].kill()

    return several.ended(processes, 300, strike)


def test_separate_folders_are_refused_on_both_hosts(records_dir, tmp_path):
    for code, log in hosts(2, lambda _: records_dir, lambda host: tmp_path / f"run{host}", tmp_path):
        assert code == 2, log
        assert "on host 1 is not that of host 0: name a --workdir on a disk that all hosts see" in log
        assert "Traceback" not in log
        assert len(log.splitlines()) == 1, log


def test_with_a_bucket_killed_once_they_end_bit_equal_to_one_host(records_dir, tmp_path, cache):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    ((code, log),) = hosts(1, lambda _: records_dir, lambda _: one / "run", one)
    assert code == 0, log
    expected = campaign.observe(one / "run", one / "ids0")
    assert sorted(expected.hashes) == ["2", "4", "6"]

    copies = [shutil.copytree(records_dir, two / f"records{host}") for host in range(2)]
    with buckets.s3() as variables, buckets.variables(variables):
        (code, log), (other, log_other) = hosts(
            2, copies.__getitem__, lambda _: "s3://bucket/run", two, kill="step 4 of"
        )
        assert other == -9, log + log_other
        # JAX aborts a host one of whose devices waits for another of its own.
        assert code == 75 or (code == -6 and "JAX distributed service detected fatal errors" in log), log
        for code, log in hosts(2, copies.__getitem__, lambda _: "s3://bucket/run", two):
            assert code == 0, log
            assert "resuming from step" in log
        run = mirror.fetch("s3://bucket/run")
        both = [campaign.observe(run, two / f"ids{host}") for host in range(2)]
    assert both[0].lines == expected.lines
    assert both[0].hashes == expected.hashes
    for step, (batch, *_) in expected.ids.items():
        assert flat(batch) == sorted(name for host in both for name in flat(host.ids[step][-1])), (
            f"records of step {step}"
        )


def flat(ids) -> list[str]:
    """All ids of a batch, whatever they are nested in."""
    if isinstance(ids, str):
        return [ids]
    return sorted(name for part in (ids.values() if isinstance(ids, dict) else ids) for name in flat(part))
