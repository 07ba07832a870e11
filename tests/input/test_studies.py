"""Studies of two views: what an epoch takes of each, that their pictures find each other, and no split parts them."""

import collections
import pickle
import time

import numpy as np
import pytest

from data.build import dataset
from data.phantom import source as phantoms
from data.phantom.options import Options
from data.views import kind
from tests.conftest import once
from unimedi_jax.config.pretraining import InputConfig
from unimedi_jax.input import pipeline, records, studies, transforms

FIELDS = ("id", "patient", "report", "study", "view")


def open_views() -> records.RecordSet:
    """A small phantom whose X-rays have two views."""
    source = phantoms.source(xrays=30, cts=10, seed=3, options=Options(views=2))
    folder = once("views", lambda folder: dataset.build(source, data_dir=folder, name="views", workers=2))
    return records.open_set(folder, "views")


@pytest.fixture(scope="module")
def views() -> records.RecordSet:
    return open_views()


class Names:
    """Stands for a sampler: which picture it was given, and a draw."""

    modality, keep = "xray", ()

    def __call__(self, record, rng):
        return {"id": np.array(records.text(record["id"])), "draw": rng.random()}


def order(views, count: int, start: int = 0, **settings) -> list[str]:
    reading = InputConfig(processes=0, **settings)
    sets, rows = [(views, 1.0)], {"xray": 1, "ct": 0}
    batches = pipeline.train(sets, {"xray": Names()}, rows, reading, seed=5)
    batches.set_state({"next_index": start})
    names = [str(next(batches)["xray"]["id"][0]) for _ in range(count)]
    batches.close()
    return names


def study_of(name: str) -> str:
    return name.removesuffix("-lateral")


def test_records_tell_study_and_view_in_this_set_alone(views, phantom_set) -> None:
    assert views.contract["source"]["columns"] == ["study", "view"]
    everywhere = collections.defaultdict(set)
    for split in ("train", "val", "test"):
        for record in views.source("xray", split, FIELDS):
            everywhere[records.text(record["study"])].add(split)
            assert records.text(record["study"]) == records.text(record["patient"])
        pairs = collections.Counter(records.text(one["study"]) for one in views.source("xray", split, FIELDS))
        assert set(pairs.values()) == {2}
    assert all(len(splits) == 1 for splits in everywhere.values()), "no study straddles splits"
    one, other = (views.source("xray", "train")[row] for row in (0, 1))
    assert [kind(records.text(x["view"])) for x in (one, other)] == ["frontal", "lateral"]
    assert one["report"] == other["report"]
    assert not np.array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["labels"], other["labels"])
    plain = phantom_set.source("xray", "train")[0]
    assert not {"study", "view"} & plain.keys()
    # The frontal film is the one that the set without laterals has.
    same = phantoms.convert(phantoms.source(xrays=30, cts=0, seed=3).rows[0])
    np.testing.assert_array_equal(one["image"], same["image"])


@pytest.fixture(scope="module")
def phantom_set(records_dir) -> records.RecordSet:
    return records.open_set(records_dir, "phantom")


def test_all_pictures_of_a_study_follow_one_another(views) -> None:
    names = order(views, 96, per_study="all")
    for epoch in (names[:48], names[48:]):
        assert len(set(epoch)) == 48
        assert [study_of(x) for x in epoch[::2]] == [study_of(x) for x in epoch[1::2]]
    assert names[:48] != names[48:], "shuffled anew"
    assert order(views, 20, start=31, per_study="all") == names[31:51]
    at_most_one = order(views, 48, per_study="all", most_of_study=1)
    assert len({study_of(x) for x in at_most_one[:24]}) == 24
    assert len({x.endswith("lateral") for x in at_most_one}) == 2, "which one is drawn"


def test_a_place_in_the_order_takes_no_longer_with_more_studies() -> None:
    number, seed = 200_000, 7
    together = studies.Together([], [(2 * study, 2 * study + 1) for study in range(number)], None, 2, seed)
    together.row(0)
    start = time.process_time()
    rows = [together.row(place) for place in range(2000)]
    assert time.process_time() - start < 1, "40 s where the sizes of all studies were looked at for each"
    expected = np.random.default_rng([seed, 0]).permutation(number)[:1000]
    assert rows == [row for study in expected for row in (2 * study + 1, 2 * study)]
    later = [together.row(2 * number * epoch) // 2 for epoch in (6, 1, 5, 0, 3, 6)]
    assert later == [np.random.default_rng([seed, epoch]).permutation(number)[0] for epoch in (6, 1, 5, 0, 3, 6)]
    again = pickle.loads(pickle.dumps(together))
    assert [again.row(place) for place in range(8)] == rows[:8]


def test_one_of_each_study_is_drawn_anew(views) -> None:
    names = order(views, 96, per_study="one")
    epochs = [names[start : start + 24] for start in range(0, 96, 24)]
    assert all(len({study_of(x) for x in epoch}) == 24 for epoch in epochs)
    assert 20 < sum(x.endswith("lateral") for x in names) < 76
    assert order(views, 10, start=30, per_study="one") == names[30:40]


def test_frontal_first(views) -> None:
    names = order(views, 24, per_study="frontal")
    assert len(set(names)) == 24
    assert not any(x.endswith("lateral") for x in names)
    asked = studies.Studies(((3, 4), (5, 6, 7)), frozenset({4}))
    source = [{"id": f"{row}".encode()} for row in range(8)]
    samples = studies.samples(source, asked, Names(), InputConfig(per_study="frontal"), 0)
    assert {str(samples[at]["id"]) for at in range(2)} == {"4", "5"}


def test_numbers_are_shared_within_a_study_alone() -> None:
    record = {
        "id": b"a",
        "patient": b"p",
        "report": b"Normal.",
        "study": b"s1",
        "image": np.zeros((256, 256), np.uint8),
    }
    sizes = dict(image_size=32, image_patch=(16, 16), volume_size=(8, 32, 32), volume_patch=(4, 16, 16))
    sampler = transforms.ToSample("xray", None, 8, 224, **sizes, grouped=True)
    first = sampler(record)["study"]
    assert sampler(record | {"id": b"b", "report": b"Addendum."})["study"] == first
    assert sampler(record | {"study": b"s2"})["study"] != first
    assert sampler(record | {"patient": b"q"})["study"] != first
    blank = record | {"study": b""}
    assert sampler(blank)["study"] == transforms.study("p", "Normal.")
    assert records.study_key(record) == ("p", "s1")
    assert records.study_key(blank) == ("p", "Normal.")
