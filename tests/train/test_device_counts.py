"""A run that goes on with another number of devices: the same records in the same order, losses within tolerance.

A number that the global batch does not divide by is refused.
"""

import random
import signal

import numpy as np

from tests.faults import __main__ as campaign
from tests.faults import injuries


def test_four_devices_then_two_are_one_and_never_three(records_dir, tmp_path):
    def go(
        name: str, devices: int, *flags: str, moment: str = "training", numbers: tuple[int, ...] = ()
    ) -> tuple[int, str]:
        environment = {"JAX_NUM_CPU_DEVICES": str(devices), "FAULTS_IDS": str(tmp_path / f"{name}.ids")}
        process = injuries.start(records_dir, tmp_path / name, "--config.evals.every=10", *flags, **environment)
        return injuries.watch(process, moment, list(numbers), random.Random(1))

    # The batch is one device's: four times that of the others' is theirs.
    assert go("alone", 1, "--config.batch.xray=8", "--config.batch.ct=8")[0] == 0
    expected = campaign.observe(tmp_path / "alone", tmp_path / "alone.ids")

    assert go("moved", 4, moment="evaluation", numbers=(signal.SIGKILL,))[0] == -9
    code, log = go("moved", 3)
    assert code == 2
    assert "does not divide over 3 devices" in log
    code, log = go("moved", 2)
    assert code == 0, log
    assert "resuming from step" in log, "by step 10 at least one is saved"
    moved = campaign.observe(tmp_path / "moved", tmp_path / "moved.ids")

    assert moved.ids.keys() == expected.ids.keys()
    assert all(one == expected.ids[step][0] for step, batches in moved.ids.items() for one in batches)
    assert [line["step"] for line in moved.lines] == [line["step"] for line in expected.lines]
    losses = [[line["loss"] for line in run.lines if "loss" in line] for run in (expected, moved)]
    assert len(losses[0]) == 14
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0] != losses[1], "sums in another order: equal to the last bit would mean the same devices"
