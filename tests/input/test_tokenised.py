import dataclasses
import pickle

import numpy as np
import pytest

from data.reports import tokenizer
from unimedi_jax.input import tokenised, transforms

REPORTS = ["No pleural effusion.", "Small nodule in the left upper lobe. Heart normal.", "Heart enlarged."]


class Counting:
    """A trained tokenizer that counts its calls."""

    def __init__(self, folder):
        self._inner, self.calls = tokenizer.load(folder), 0

    def __call__(self, texts, **settings):
        self.calls += 1
        return self._inner(texts, **settings)


@pytest.fixture
def reports(tmp_path):
    tokenizer.save(tokenizer.train(REPORTS * 2), tmp_path)
    return Counting(tmp_path)


def sampler(reports, **changes):
    sizes = {"crop": 32, "image_size": 32, "image_patch": (16, 16)}
    return transforms.ToSample("xray", reports, 12, **sizes, volume_size=(4, 4, 4), volume_patch=(4, 4, 4), **changes)


def records():
    image = np.zeros((32, 32), np.uint8)
    return [{"id": b"", "report": report.encode(), "image": image} for report in REPORTS]


def test_a_second_epoch_calls_no_tokenizer_and_has_its_ids(reports):
    sample = sampler(reports)
    epochs = [[sample(record, np.random.default_rng(0)) for record in records()] for _ in range(2)]
    assert reports.calls == len(REPORTS)
    ids, masks = tokenizer.encode(reports, REPORTS, 12)
    for epoch in epochs:
        np.testing.assert_array_equal([one["text"] for one in epoch], ids)
        np.testing.assert_array_equal([one["text_mask"] for one in epoch], masks)


def test_sentences_that_are_drawn_anew_are_not_kept(reports):
    sample = sampler(reports, shuffle=True)
    for epoch in range(2):
        for record in records():
            sample(record, np.random.default_rng(epoch))
    assert reports.calls == 2 * len(REPORTS)


def test_another_length_or_another_process_starts_anew(reports):
    sample = sampler(reports)
    sample(records()[0])
    longer = dataclasses.replace(sample, length=20)
    assert longer(records()[0])["text"].shape == (20,)
    known = tokenised.Tokenised()
    known.get("a", lambda text: (np.zeros(2, np.int32), np.ones(2, bool)))
    assert len(known) == 1
    assert len(pickle.loads(pickle.dumps(known))) == 0


def test_memory_is_bounded_and_nothing_is_lost_by_it():
    known = tokenised.Tokenised(3 * tokenised.KEY_BYTES)
    for _ in range(2):
        for number in range(9):
            ids, mask = known.get(f"{number}", lambda text: (np.array([int(text)], np.int32), np.ones(1, bool)))
            assert (ids[0], mask[0]) == (number, True)
            with pytest.raises(ValueError, match="read-only"):
                ids[0] = 1
    assert len(known) == 2
