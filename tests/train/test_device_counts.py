"""A run that goes on with another number of devices: the same records in the same order, losses within tolerance.

A number that the global batch does not divide by is refused.
"""

import random
import signal

import numpy as np

from tests.faults import __main__ as campaign
from tests.faults import injuries


def test_four_devices_then_two_then_one_and_never_three(records_dir, tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def go(name: str, devices: int, moment: str = "training", numbers: tuple[int, ...] = ()) -> tuple[int, str]:
        environment = cache | {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "FAULTS_IDS": str(tmp_path / f"{name}.ids"),
        }
        process = injuries.start(records_dir, tmp_path / name, **environment)
        return injuries.watch(process, moment, list(numbers), random.Random(1))

    assert go("alone", 4)[0] == 0
    wanted = campaign.observe(tmp_path / "alone", tmp_path / "alone.ids")

    assert go("moved", 4, "the first evaluation", (signal.SIGKILL,))[0] == -9
    code, log = go("moved", 3)
    assert code == 2
    assert "does not divide over 3 devices" in log
    code, log = go("moved", 2, "evaluation", (signal.SIGTERM,))
    assert code == 75, log
    code, log = go("moved", 1)
    assert code == 0, log
    assert "going on from step 1" in log  # 10, or one of the steps behind it
    found = campaign.observe(tmp_path / "moved", tmp_path / "moved.ids")

    assert found.ids.keys() == wanted.ids.keys()
    assert all(one == wanted.ids[step][0] for step, seen in found.ids.items() for one in seen)
    assert [line["step"] for line in found.lines] == [line["step"] for line in wanted.lines]
    losses = [[line["loss"] for line in seen.lines if "loss" in line] for seen in (wanted, found)]
    assert len(losses[0]) == 14
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0] != losses[1], "sums in another order: equal to the last bit would mean the same devices"
