import os
import time

from data.build import pool
from data.source import Rejected, Row, Source


def read(row):
    """Even rows are read; every seventh ends its process as a fault in a decoder does."""
    if row.number % 7 == 3:
        time.sleep(0.05)
        os._exit(11)
    return {"id": row.key}


def test_a_row_that_kills_its_worker_is_a_reject_and_stops_nobody():
    rows = [Row(f"r{n}", "xray", "train", n, path=f"{n}.png") for n in range(12)]
    source = Source(labels=(), prompts={}, rows=rows, convert=read)
    with pool.converter(source, 2) as convert:
        results = list(convert(rows))
    assert [row.number for row, _ in results] == list(range(12))
    for row, result in results:
        if row.number in (3, 10):
            assert result == Rejected(
                row.number, row.path, "reader_crashed: reading the file ended the process that read it"
            )
        else:
            assert result == {"id": row.key}
