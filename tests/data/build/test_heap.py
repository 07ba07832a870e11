"""Freed memory is reused by the process that asks for it; numbers are those of any other process."""

import ctypes
import subprocess
import sys

import pytest

from data.build import heap

FAULTS = """
import resource, sys
import numpy as np
from data.build import heap
if sys.argv[1] == "reuse":
    heap.reuse()
def work():
    total = 0.0
    for _ in range(5):
        arrays = [np.ones(1 << 20) for _ in range(8)]  # 8 MB each
        total += sum(float(array.sum()) for array in arrays)
        del arrays
    return total
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(work(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc alone has these settings")
def test_arrays_of_a_second_row_lie_where_those_of_the_first_lay():
    run = {
        how: subprocess.run(
            [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True
        ).stdout.split()
        for how in ("reuse", "plain")
    }
    assert run["reuse"][0] == run["plain"][0]
    assert int(run["reuse"][1]) < 2048 < int(run["plain"][1])  # pages: one array has as many


def test_nothing_happens_without_glibc(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(heap.ctypes, "CDLL", missing)
    heap.reuse()
