"""An index on the disk: whole or not at all, a stranger's refused, a patient's bytes gone."""

import hashlib
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from data.errors import UserError
from unimedi_jax.search import cases, store
from unimedi_jax.search.cases import Case

N, E = 6, 3


def write(folder: pathlib.Path, rows: int = N, total: int = N) -> store.Index:
    """An index of `rows` cases, made of room for `total`; the reports name their patients."""
    facts = {"rows": total, "width": E, "labels": ["nodule"], "picture_size": 4, "part": "0" * 16}
    facts |= {"identity": "x", "network": "", "has_reports": True}
    arrays = store.allocate(folder / facts["part"], facts)
    rng = np.random.default_rng(0)
    for name, array in arrays.items():
        array[:] = rng.integers(0, 99, array.shape) if name == "pictures" else rng.standard_normal(array.shape)
    lines = [
        cases.line(
            Case(f"case-{i}", f"patient-{i // 2}", "xray", "test", f"About patient-{i // 2}, ü.\n"), keep_report=True
        )
        for i in range(rows)
    ]
    (folder / facts["part"] / store.CASES).write_text("".join(lines), encoding="utf-8")
    facts["rows"] = rows
    store.shorten(folder / facts["part"], facts)
    store.publish(folder, facts)
    return store.read(folder)


def test_what_was_written_is_read_and_stays_on_the_disk(tmp_path):
    index = write(tmp_path, rows=4, total=300_000)  # most of the room was not needed
    assert len(index) == 4
    assert index.z.shape == index.z_report.shape == (4, E)
    assert index.pictures.shape == (4, 4, 4)
    assert isinstance(index.z.base, np.memmap)
    assert index.columns["patient"].tolist() == ["patient-0", "patient-0", "patient-1", "patient-1"]
    assert [index.report(row) for row in range(4)] == [f"About patient-{i // 2}, ü.\n" for i in range(4)]
    assert (index.part / "z.npy").stat().st_size < 1000


def test_a_patient_that_is_removed_leaves_no_bytes(tmp_path):
    index = write(tmp_path)
    gone = index.columns["patient"] == "patient-1"
    traces = [b"patient-1", b"case-2", *(np.array(x[2]).tobytes() for x in (index.z, index.z_report, index.pictures))]
    before, kept_rows = index.facts["files"], {name: np.array(getattr(index, name)[~gone]) for name in store.ARRAYS}
    stamp = store.stamp(tmp_path)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert all(trace in everything for trace in traces)
    store.rewrite(index, ~gone)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(trace in everything for trace in traces)
    after = store.read(tmp_path)
    assert len(after) == 4
    for name, values in kept_rows.items():
        np.testing.assert_array_equal(getattr(after, name), values)
    assert after.report(2) == "About patient-2, ü.\n"
    assert store.stamp(tmp_path) != stamp
    for name, digest in after.facts["files"].items():
        assert digest == hashlib.sha256((after.part / name).read_bytes()).hexdigest()
        assert digest != before[name]
    store.rewrite(after, np.zeros(4, bool))
    assert len(store.read(tmp_path)) == 0


def test_what_an_interrupted_change_left_is_removed(tmp_path, monkeypatch):
    index = write(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.rewrite(index, np.arange(N) > 1)
    assert len(list(tmp_path.iterdir())) == 3
    assert len(store.read(tmp_path)) == N, "the old one is still whole"
    store.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def rehash(index: store.Index) -> None:
    """As a stranger would, who may write whatever he likes and state the hash of it."""
    facts = json.loads((index.folder / store.FACTS).read_text())
    facts["files"] = {name: hashlib.sha256((index.part / name).read_bytes()).hexdigest() for name in facts["files"]}
    (index.folder / store.FACTS).write_text(json.dumps(facts))


def change_facts(**changes):
    def change(index):
        facts = json.loads((index.folder / store.FACTS).read_text()) | changes
        (index.folder / store.FACTS).write_text(json.dumps(facts))

    return change


def replace(name, content):
    def change(index):
        if isinstance(content, np.ndarray):
            np.save(index.part / name, content)
        else:
            (index.part / name).write_bytes(content)
        rehash(index)

    return change


class Bomb:
    def __reduce__(self):
        return (os.system, ("exit 1",))


def objects() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (6, 3), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps([Bomb()])


LINE = {"id": "a", "patient": "p", "modality": "ct", "split": "", "report": ""}
HOSTILE = {
    "a part elsewhere": change_facts(part="../../../../etc"),
    "a file elsewhere": change_facts(files={"../../x": "0"}),
    "rows that are not there": change_facts(rows=10**12),
    "a width of another kind": change_facts(width="3"),
    "a boolean for a number": change_facts(rows=True),
    "labels that are none": change_facts(labels=[1]),
    "another format": change_facts(format=2),
    "a huge picture": change_facts(picture_size=10**6),
    "a negative number": change_facts(rows=-1),
    "one bit": lambda index: (index.part / "z.npy").write_bytes((index.part / "z.npy").read_bytes()[:-1] + b"\0"),
    "another shape": replace("z.npy", np.zeros((N, E + 1), np.float32)),
    "another dtype": replace("z.npy", np.zeros((N, E), np.float64)),
    "objects": replace("labels.npy", objects()),
    "an array cut short": replace("z.npy", b"\x93NUMPY\x01\x00"),
    "no array": replace("pictures.npy", b"PK\x03\x04"),
    "a line that is none": replace(store.CASES, b"[]\n" * N),
    "a line with more": replace(store.CASES, (json.dumps(LINE | {"path": "/"}) + "\n").encode() * N),
    "a case of numbers": replace(store.CASES, (json.dumps(LINE | {"id": 7}) + "\n").encode() * N),
    "an endless id": replace(store.CASES, (json.dumps(LINE | {"id": "a" * 10**4}) + "\n").encode() * N),
    "an endless line": replace(store.CASES, b'"' + b"a" * (3 << 20)),
    "depth": replace(store.CASES, b"[" * 10**5 + b"\n"),
    "a case too few": replace(store.CASES, (json.dumps(LINE) + "\n").encode() * (N - 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strangers_index_is_refused_in_one_line(tmp_path, name):
    index = write(tmp_path)
    HOSTILE[name](index)
    with pytest.raises(UserError) as error:
        store.read(tmp_path)
    assert "\n" not in str(error.value)
    assert store.ADVICE in str(error.value)


@pytest.mark.parametrize("name", ["z.npy", store.CASES, "part"])
def test_nothing_is_opened_through_a_link(tmp_path, name):
    index = write(tmp_path / "index")
    place = index.part if name == "part" else index.part / name
    shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        store.read(tmp_path / "index")


def test_a_loop_of_links_is_one_line(tmp_path):
    place = write(tmp_path / "index").part / "z.npy"
    place.unlink()
    place.symlink_to(place)
    with pytest.raises(UserError, match="cannot be read"):
        store.read(tmp_path / "index")


def test_no_index_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no index in .*: build one, with config.data or config.source"):
        store.read(tmp_path)
