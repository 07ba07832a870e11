"""What labels say of a case: unknown is never nothing, and sets are joined by name."""

import numpy as np
import pytest

from unimedi_jax.metrics import findings

NAN = float("nan")
NAMES = ("nodule", "pleural_effusion", "mass")


@pytest.mark.parametrize(
    ("row", "card", "legend"),
    [
        ((0, 0, 0), "no finding", "no finding"),
        ((0, 1, 0), "pleural effusion", "pleural effusion"),
        ((1, 1, 0), "nodule, pleural effusion", "several findings"),
        ((1, NAN, 1), "nodule, mass; other labels unknown", "several findings"),
        ((1, NAN, NAN), "nodule; other labels unknown", "nodule"),
        ((0, NAN, 0), "none of the known labels; others unknown", "findings unknown"),
        ((NAN, NAN, NAN), "findings unknown", "findings unknown"),
    ],
)
def test_a_row_in_words(row, card, legend) -> None:
    assert findings.described(np.array(row), NAMES) == card
    assert findings.kind(np.array(row), NAMES) == legend


def test_a_set_without_labels_says_nothing_of_its_cases() -> None:
    assert findings.described(np.zeros(0), ()) == findings.kind(np.zeros(0), ()) == "findings unknown"


@pytest.mark.parametrize(
    ("row", "other", "same"),
    [
        ((0, 0, 0), (0, 0, 0), True),  # two normal cases
        ((0, 1, 0), (0, 1, 0), True),
        ((0, 1, 0), (0, 0, 0), False),
        ((0, NAN, 0), (0, 0, 0), None),
        ((NAN, NAN, NAN), (0, 0, 0), None),
        ((NAN, 1, 0), (NAN, 0, 0), False),  # one known difference is enough
    ],
)
def test_the_same_findings(row, other, same) -> None:
    assert findings.same(np.array(row), np.array(other)) is same
    assert findings.same(np.array(other), np.array(row)) is same


def test_cases_without_labels_may_be_the_same_or_not() -> None:
    assert findings.same(np.zeros(0), np.zeros(0)) is None


def test_findings_of_several_sets_are_joined_by_name() -> None:
    """Row by row, against a slow reading of the rule."""
    rng = np.random.default_rng(0)
    names = [("nodule", "mass", "edema"), ("edema", "nodule"), ()]
    tables = [rng.choice([0.0, 1.0, NAN], (60, len(own)), p=(0.6, 0.3, 0.1)) for own in names]
    common = ["nodule", "edema"]

    def slow(row, own) -> int:
        if not len(own) or np.isnan(row).any() or row.sum() > 1:
            return -1
        if not row.sum():
            return len(common)
        name = own[int(np.flatnonzero(row)[0])]
        return common.index(name) if name in common else -1

    joined = findings.joined(tables, names)
    for table, own, ours in zip(tables, names, joined, strict=True):
        assert ours.tolist() == [slow(row, own) for row in table]
    assert set(joined[0]) == {-1, 0, 1, 2}


def test_one_set_is_joined_with_itself_as_it_is() -> None:
    labels = np.random.default_rng(1).choice([0.0, 1.0, NAN], (80, 3))
    (ours,) = findings.joined([labels], [NAMES])
    np.testing.assert_array_equal(ours, findings.single(labels))
