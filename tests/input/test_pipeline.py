"""Batches: their order, their shapes, hosts, mixing, and saving the place."""

import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.config.pretraining import InputConfig
from unimedi_jax.input import pipeline, records


class Set:
    """A record set in memory, of what the pipeline asks a set for."""

    def __init__(self, name: str, xrays: int, cts: int) -> None:
        self.name = name
        self._counts = {"xray": xrays, "ct": cts}

    def size(self, modality, split):
        return self._counts[modality] if split == "train" else 0

    def source(self, modality, split, fields=None):
        count = self._counts[modality]
        return [{"id": f"{self.name}-{modality}-{i}"} for i in range(count)]


class Sampler:
    """Passes the id on, with a number drawn from the sample's own generator."""

    keep = ()

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def __call__(self, record, rng=None):
        drawn = 0.0 if rng is None else rng.random()
        return {"id": record["id"], "drawn": np.float64(drawn)}


SAMPLERS = {modality: Sampler(modality) for modality in pipeline.MODALITIES}


def batches(sets, counts, number, **settings):
    settings = {"seed": 0, **settings}
    iterator = iter(pipeline.train(sets, SAMPLERS, counts, **settings))
    return [next(iterator) for _ in range(number)]


def ids(batch_list, modality):
    return [one for batch in batch_list for one in batch[modality]["id"].tolist()]


def test_fixed_counts_and_whole_epochs():
    batch_list = batches([(Set("a", 10, 6), 1.0)], {"xray": 5, "ct": 2}, 6)
    assert all(len(batch["xray"]["id"]) == 5 and len(batch["ct"]["id"]) == 2 for batch in batch_list)
    names = ids(batch_list, "xray")
    first, second = names[:10], names[10:20]
    assert sorted(first) == sorted(second) == [f"a-xray-{i}" for i in range(10)]
    assert first != second, "every epoch is shuffled anew"


def test_the_seed_decides_everything():
    sets = [(Set("a", 30, 9), 1.0)]
    one, same = (batches(sets, {"xray": 4, "ct": 2}, 5, seed=3) for _ in range(2))
    other = batches(sets, {"xray": 4, "ct": 2}, 5, seed=4)
    assert ids(one, "xray") == ids(same, "xray") != ids(other, "xray")
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a["ct"]["drawn"], b["ct"]["drawn"])
    drawn = np.concatenate([batch["xray"]["drawn"] for batch in one])
    assert len(np.unique(drawn)) == len(drawn), "each sample has a generator of its own"


@pytest.mark.parametrize("processes", [0, 2])
def test_the_place_can_be_saved_and_found_again(processes):
    """By whoever reads on: threads, or processes of their own."""

    def begin(processes: int) -> pipeline.Batches:
        sets, rows = [(Set("a", 30, 9), 1.0)], {"xray": 4, "ct": 2}
        return pipeline.train(sets, SAMPLERS, rows, InputConfig(processes=processes), seed=0)

    before = set(multiprocessing.active_children())  # another test's decoder may still wait for work
    with contextlib.closing(begin(0)) as one, contextlib.closing(begin(processes)) as again:
        for _ in range(3):
            next(one)
        state = one.get_state()
        rest = [next(one) for _ in range(4)]
        again.set_state(state)
        for a, b in zip(rest, again, strict=False):
            assert a["xray"]["id"].tolist() == b["xray"]["id"].tolist()
            np.testing.assert_array_equal(a["ct"]["drawn"], b["ct"]["drawn"])
        assert again.get_state() == one.get_state()
    assert set(multiprocessing.active_children()) <= before


def test_a_reader_that_is_killed_is_one_line():
    sets, rows = [(Set("a", 30, 9), 1.0)], {"xray": 4, "ct": 2}
    before = set(multiprocessing.active_children())
    with contextlib.closing(pipeline.train(sets, SAMPLERS, rows, InputConfig(processes=1), seed=0)) as batches:
        next(batches)
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
        with pytest.raises(UserError, match=r"was killed.*config.input.processes=0"):
            list(itertools.islice(batches, 100))


READS = """
import multiprocessing
import time
from absl import flags
from tests.input import test_pipeline as shared
from unimedi_jax.config.pretraining import InputConfig
from unimedi_jax.input import pipeline

if __name__ == "__main__":
    flags.FLAGS(["reads"])
    sets, rows = [(shared.Set("a", 30, 9), 1.0)], {"xray": 4, "ct": 2}
    batches = pipeline.train(sets, shared.SAMPLERS, rows, InputConfig(processes=2), seed=0)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_readers_end_with_a_run_that_is_killed_and_outlive_its_signals(tmp_path):
    (tmp_path / "reads.py").write_text(READS)
    known = os.environ | {"PYTHONPATH": str(pathlib.Path.cwd())}
    process = subprocess.Popen([sys.executable, tmp_path / "reads.py"], env=known, stdout=subprocess.PIPE, text=True)
    readers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(readers) == 2
    for signum in (signal.SIGINT, signal.SIGTERM):
        for pid in readers:
            os.kill(pid, signum)
    time.sleep(1)
    for pid in readers:
        os.kill(pid, 0)  # still there
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in readers):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_hosts_read_disjoint_shares_that_cover_all():
    sets = [(Set("a", 12, 0), 1.0)]
    shares = [set(ids(batches(sets, {"xray": 3, "ct": 0}, 2, host=host, hosts=2), "xray")) for host in range(2)]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == {f"a-xray-{i}" for i in range(12)}


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_hosts(hosts):
    # Sizes that no number of hosts divides, over several epochs, mixed, with random draws.
    sets = [(Set("a", 11, 5), 2.0), (Set("b", 3, 7), 1.0)]
    whole = batches(sets, {"xray": 8, "ct": 4}, 6)
    shares = [batches(sets, {"xray": 8 // hosts, "ct": 4 // hosts}, 6, host=i, hosts=hosts) for i in range(hosts)]
    for step, alone in enumerate(whole):
        for modality, field in (("xray", "id"), ("xray", "drawn"), ("ct", "id"), ("ct", "drawn")):
            together = np.concatenate([share[step][modality][field] for share in shares])
            np.testing.assert_array_equal(together, alone[modality][field])


def test_sets_mix_by_weight():
    sets = [(Set("a", 50, 5), 3.0), (Set("b", 50, 5), 1.0)]
    names = ids(batches(sets, {"xray": 10, "ct": 1}, 40), "xray")
    share = sum(one.startswith("a") for one in names) / len(names)
    assert share == pytest.approx(0.75, abs=0.02)


def test_a_modality_may_be_absent():
    batch_list = batches([(Set("a", 10, 0), 1.0)], {"xray": 2, "ct": 0}, 1)
    assert set(batch_list[0]) == {"xray"}
    with pytest.raises(UserError, match=r"no training ct records in a: set config.batch.ct=0"):
        batches([(Set("a", 10, 0), 1.0)], {"xray": 2, "ct": 1}, 1)
    with pytest.raises(UserError, match="neither X-rays nor CTs"):
        batches([(Set("a", 10, 0), 1.0)], {"xray": 0, "ct": 0}, 1)


def test_reports_are_cut_to_the_first_length_that_holds_them():
    def part(*lengths):
        mask = np.arange(9)[None] < np.array(lengths)[:, None]
        return {"text": np.where(mask, 7, 0), "text_mask": mask, "id": np.array([str(n) for n in lengths])}

    batch = {"xray": part(2, 4), "ct": part(3)}
    for lengths, expected in (((4, 6, 9), 4), ((3, 6, 9), 6), ((9,), 9)):
        length = pipeline.report_length(batch, lengths)
        assert length == expected
        cut = pipeline.trimmed(batch, length)
        assert [cut[m]["text"].shape for m in ("xray", "ct")] == [(2, expected), (1, expected)]
        assert all(cut[m]["text"].sum() == batch[m]["text"].sum() for m in batch), "no token is lost"
        assert cut["xray"]["id"].tolist() == ["2", "4"]


def test_both_texts_of_a_sample_are_cut_alike():
    masks = {name: np.arange(9)[None] < length for name, length in (("text", 3), ("negated", 5))}
    part = {name: np.where(mask, 7, 0) for name, mask in masks.items()}
    batch = {"ct": part | {f"{name}_mask": mask for name, mask in masks.items()}}
    assert pipeline.report_length(batch, (4, 6, 9)) == 6
    assert {name: x.shape for name, x in pipeline.trimmed(batch, 6)["ct"].items()} == dict.fromkeys(batch["ct"], (1, 6))


def test_small_sets_fill_batches_across_epochs():
    batch_list = batches([(Set("a", 3, 0), 1.0)], {"xray": 8, "ct": 0}, 3)
    names = ids(batch_list, "xray")
    assert {one: names.count(one) for one in set(names)} == {f"a-xray-{i}": 8 for i in range(3)}


def test_evaluation_sees_every_record_once():
    class Held(Set):
        def source(self, modality, split, fields=None):
            return super().source(modality, split)

    batch_list = list(pipeline.evaluation(Held("a", 10, 0), Sampler("xray"), "test", 4))
    assert [batch["mask"].sum() for batch in batch_list] == [4, 4, 2]
    real = [one for batch in batch_list for one in batch["id"][batch["mask"]].tolist()]
    assert real == [f"a-xray-{i}" for i in range(10)]
    assert all(len(batch["id"]) == 4 for batch in batch_list), "the last batch is filled up"
    limited = list(pipeline.evaluation(Held("a", 10, 0), Sampler("xray"), "test", 4, limit=5))
    assert sum(batch["mask"].sum() for batch in limited) == 5


class Damaged(list):
    """Records of which some cannot be read."""

    def __init__(self, count: int, bad: set[int]) -> None:
        super().__init__(range(count))
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise UserError(f"record {index} cannot be read")
        return super().__getitem__(index)


def test_a_few_damaged_records_are_told_and_their_neighbours_stand_in(caplog):
    spared = records.SkipDamaged(Damaged(20, {3, 4}), 0.1)
    assert [spared[i] for i in (2, 3, 4, 5)] == [2, 5, 5, 5]
    assert len(spared) == 20
    assert caplog.text.count("cannot be read") == 2
    assert Damaged(20, {19})[0] == records.SkipDamaged(Damaged(20, {19}), 0.1)[19]


def test_more_damage_than_allowed_is_an_error():
    spared = records.SkipDamaged(Damaged(20, {3, 8, 9}), 0.1)
    assert spared[3] == 4
    with pytest.raises(UserError, match="record 9 cannot be read"):
        spared[8]


@pytest.mark.parametrize(("shares", "expected"), [("weights", 1 / 2), ("sqrt", 10 / 12)])
def test_sets_share_a_batch_by_weights_or_by_the_root_of_their_records(shares, expected):
    sets, rows = [(Set("many", 100, 0), 1.0), (Set("few", 4, 0), 1.0)], {"xray": 12, "ct": 0}
    names = ids(batches(sets, rows, 50, reading=InputConfig(processes=0, set_shares=shares)), "xray")
    assert np.mean([name.startswith("many") for name in names]) == pytest.approx(expected, abs=0.01)
