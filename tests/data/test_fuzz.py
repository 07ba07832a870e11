"""A short run of the fuzzer; the long one is `python -m tests.fuzz --cases 10000`."""

import random

from tests import fuzz


def test_no_mutation_gets_past_the_readers():
    verdicts, failures = fuzz.fuzz(150)
    assert failures == []
    assert sum(verdicts.values()) == 150
    assert {name for name, _ in verdicts} == set(fuzz.seeds())
    assert {verdict for _, verdict in verdicts} > {"accepted"}


def test_every_seed_is_a_valid_file(tmp_path, monkeypatch):
    files = fuzz.seeds()
    names = tuple(files)
    monkeypatch.setattr(fuzz, "damage", lambda name, data, rng: data)
    for name in ("x.png", "ct.nii"):
        (tmp_path / name).write_bytes(files[name])
    assert {fuzz.run(number, names, files, tmp_path)[1] for number in range(len(names))} == {"accepted"}


def test_mutations_are_drawn_by_their_number():
    data = bytes(range(256)) * 4
    assert fuzz.mutate(data, random.Random(1)) == fuzz.mutate(data, random.Random(1))
    assert len({fuzz.mutate(data, random.Random(n)) for n in range(50)}) > 40
