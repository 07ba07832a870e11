"""The command with a toy model, hurt in every way there is, against the same command left alone."""

import random
import shutil

import pytest

from tests.faults import __main__ as campaign
from tests.faults import injuries


@pytest.fixture(scope="module")
def alone(records_dir, tmp_path_factory):
    """An undisturbed run as the campaign sees it."""
    folder = tmp_path_factory.mktemp("faults")
    process = injuries.start(
        records_dir, folder / "alone", "--config.checkpoint.keep_every=1", FAULTS_IDS=str(folder / "ids")
    )
    log = process.communicate()[1]
    assert process.returncode == 0, log
    observed = campaign.observe(folder / "alone", folder / "ids")
    assert len(observed.ids) == 14
    return observed


def test_a_run_that_is_hurt_again_and_again_ends_as_if_nothing_had_happened(alone, records_dir, tmp_path):
    workdir, rng = tmp_path / "run", random.Random(0)
    environment = {"FAULTS_IDS": str(tmp_path / "ids"), "FAULTS_CLOCK": "1"}

    def go(moment: str = "training", signals: str = "", readers: int = 0, **more: str) -> tuple[int, str]:
        process = injuries.start(records_dir, workdir, f"--config.input.processes={readers}", **environment, **more)
        code, log = injuries.watch(process, moment, injuries.SIGNALS.get(signals, []), rng)
        assert "Traceback" not in log
        observed = campaign.observe(workdir, tmp_path / "ids")
        assert campaign.differences(alone, observed, whole=code == 0) == []
        return code, log

    code, log = go(FAULTS_FULL_AT="3")
    assert code == 2
    assert "No space left on device" in log

    code, _ = go("compilation", "SIGTERM")
    assert code in (75, -15)

    injuries.injure_checkpoint(workdir, "flip a file", rng)
    injuries.injure_checkpoint(workdir, "an empty step folder", rng)
    code, log = go("evaluation", "SIGKILL", readers=2)
    assert code == -9
    assert "is skipped: it has no manifest.json" in log

    code, log = go("a save", "SIGKILL", FAULTS_SAVE_SECONDS="2")
    assert code == -9
    assert "writing a checkpoint" in log

    broken = shutil.copytree(records_dir, tmp_path / "records")
    for path in broken.rglob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = injuries.start(broken, workdir, "--config.input.processes=2", **environment)
    code, log = injuries.watch(process, "training", [], rng)
    assert code == 2
    assert "cannot be read" in log
    assert "Traceback" not in log

    code, log = go()
    assert code == 0, log


def test_the_campaign_sees_what_differs(alone):
    """A check that cannot fail would prove nothing."""
    assert campaign.differences(alone, alone, whole=True) == []
    gap = alone._replace(lines=alone.lines[:3] + alone.lines[4:])
    twice = alone._replace(lines=[*alone.lines[:4], *alone.lines[3:]])
    other = alone._replace(ids=alone.ids | {3: [*alone.ids[3], alone.ids[4][0]]})
    short = alone._replace(ids={k: v for k, v in alone.ids.items() if k != 2})
    array = next(iter(alone.hashes["6"]))
    arrays = alone._replace(hashes=alone.hashes | {"6": alone.hashes["6"] | {array: "0"}})
    for observed in (gap, twice, other, short, arrays):
        assert campaign.differences(alone, observed, whole=True)
