"""A short run of the fuzzer; the long one is `python -m tests.fuzz --cases 10000`."""

import contextlib
import importlib
import random

from tests import fuzz, fuzz_folders


def test_no_mutation_gets_past_the_readers():
    verdicts, failures = fuzz.fuzz(150)
    assert failures == []
    assert sum(verdicts.values()) == 150
    folders = fuzz_folders.mutated(fuzz_folders.seeds())
    assert {name for name, _ in verdicts} == {*fuzz.seeds(), *folders}
    assert {verdict for _, verdict in verdicts} > {"accepted"}


def test_every_seed_is_a_valid_file(tmp_path, monkeypatch):
    files = fuzz.seeds()
    names = tuple(files)
    monkeypatch.setattr(fuzz, "damage", lambda name, data, rng: data)
    for name in ("x.png", "ct.nii"):
        (tmp_path / name).write_bytes(files[name])
    assert {fuzz.run(number, names, files, tmp_path)[1] for number in range(len(names))} == {"accepted"}


def test_every_folder_opens_undamaged(tmp_path):
    files = fuzz_folders.seeds()
    for name in (fuzz_folders.SET + fuzz_folders.SHARD, f"{fuzz_folders.EXPORT}unimedi.json"):
        assert fuzz_folders.open_folder(name, files[name], files, tmp_path) == "accepted"


def test_the_watch_sees_a_file_outside_and_a_module(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.raw").write_text("x")
    trespasses = fuzz_folders.watch(tmp_path / "outside")
    assert trespasses() == []
    (tmp_path / "outside" / "secret.raw").read_text()
    with contextlib.suppress(ImportError):
        importlib.import_module(fuzz_folders.PLANTED)
    assert len(trespasses()) == 2


def test_mutations_are_drawn_by_their_number():
    data = bytes(range(256)) * 4
    assert fuzz.mutate(data, random.Random(1)) == fuzz.mutate(data, random.Random(1))
    assert len({fuzz.mutate(data, random.Random(n)) for n in range(50)}) > 40
