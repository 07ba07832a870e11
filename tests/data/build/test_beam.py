import functools
import importlib.util
import os

import pytest

from configs import build as build_config
from data import job
from data.build import dataset, executors, pool
from data.errors import UserError
from data.phantom import source as phantom
from data.source import Rejected, Row, Source


@pytest.fixture
def beam():
    return pytest.importorskip("apache_beam", reason="Apache Beam is not installed: requirements-beam.txt")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CRASHED = "reader_crashed: reading the file ended the process that read it"


def draw(row, dies=True):
    """A phantom's row, but for those that are refused, and one that ends its process as a fault in a decoder does."""
    if row.number % 9 == 4:
        return Rejected(row.number, row.path, "bad_luck: refused")
    if row.number == 7 and dies:
        os._exit(11)
    return phantom.convert(row) | {"notes": ("colour",)} if row.number != 7 else Rejected(7, row.path, CRASHED)


def source(convert=draw):
    whole = phantom.source(xrays=12, cts=6)
    return Source(whole.labels, whole.prompts, whole.rows, convert, whole.annotations, whole.contract)


def test_a_pipeline_builds_the_bytes_of_the_pool(beam, tmp_path):
    calm = functools.partial(draw, dies=False)
    pooled = dataset.build(source(calm), data_dir=tmp_path / "pool", name="set", workers=1)
    piped = dataset.build(source(), data_dir=tmp_path / "beam", name="set", workers=2, beam="")
    assert files(tmp_path / "beam" / "set") == files(tmp_path / "pool" / "set")
    assert (piped.counts, piped.rejected, piped.notes) == (pooled.counts, pooled.rejected, pooled.notes)
    assert {one.reason for one in piped.rejected} == {"bad_luck: refused", CRASHED}
    assert sorted(path.name for path in (tmp_path / "beam").iterdir()) == ["set", "set.rejected.jsonl"]


def test_what_an_interrupted_pipeline_has_left_is_not_converted_again(beam, tmp_path, monkeypatch):
    from data.build import beam as pipeline

    rows = [Row(f"r{n}", "xray", "train", n) for n in range(1, 41)]
    mine = Source((), {}, rows, convert=lambda row: {"id": row.key})
    batches = []

    def run(missing, convert, *_):
        batches.append([row.number for _, rows in missing for row in rows])
        for path, rows in missing[: 1 if len(batches) == 1 else None]:
            pipeline._write(path, ((row, convert(row)) for row in rows))
        if len(batches) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_run", run)
    with pytest.raises(KeyboardInterrupt), pipeline.converter(mine, 1, "", tmp_path / "parts"):
        pass
    with pipeline.converter(mine, 1, "", tmp_path / "parts") as convert:
        assert [(row.number, result) for row, result in convert(rows)] == [(n, {"id": f"r{n}"}) for n in range(1, 41)]
    assert batches == [list(range(1, 41)), list(range(16, 41))]
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner=NoSuchRunner", "NoSuchRunner"),
        ("--runner='", r"config\.beam"),
        ("--direct_num_workers=a", "'a'"),
        ("--runer=Flink", "runer"),
    ],
)
def test_a_pipeline_that_cannot_run_is_one_line(beam, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        dataset.build(source(), data_dir=tmp_path, name="set", beam=options)
    assert "\n" not in str(caught.value)


def test_the_doctor_takes_the_pipeline_too(beam, tmp_path, capsys):
    assert executors.options("beam", "") == ""
    config = build_config.get_config("phantom")
    config.dry_run, config.runner, config.xrays, config.cts, config.workers = True, "beam", 10, 0, 1
    job.run(config, tmp_path)
    assert "no set was written" in capsys.readouterr().out
    assert not (tmp_path / "beam").exists()


def test_without_apache_beam_one_line_says_so(tmp_path, monkeypatch):
    usual = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apache_beam" else usual(name))
    config = build_config.get_config("phantom")
    config.runner, config.data_dir = "beam", str(tmp_path / "records")
    with pytest.raises(UserError, match=r"pip install -r requirements-beam\.txt"):
        job.run(config, tmp_path)
    assert not (tmp_path / "records").exists()


def test_runners_are_named(tmp_path):
    assert executors.options("pool", "") is None
    with pytest.raises(UserError, match=r"config\.beam is set, but config\.runner is 'pool': add --config.runner=beam"):
        executors.options("pool", "--anything")
    with pytest.raises(UserError, match="pool or beam"):
        executors.options("spark", "")
    with executors.converter(source(), 1, None, tmp_path / "unused") as convert:
        assert next(convert(source().rows))[1]["id"] == source().rows[0].key
    assert not (tmp_path / "unused").exists()


def test_the_pool_s_workers_outlive_their_iterators():
    rows = [Row(f"r{n}", "xray", "train", n) for n in range(3)]
    with pool.converter(Source((), {}, rows, convert=process), 2) as convert:
        first, second = (({result["id"] for _, result in convert(rows)}) for _ in range(2))
    assert first & second
    assert os.getpid() not in first | second


def process(row):
    return {"id": os.getpid()}
