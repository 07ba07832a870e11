"""The modality gap of clouds whose gap is known."""

import numpy as np
import pytest

from unimedi_jax.metrics import gap


def test_merged_clouds() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 16)), rng.normal(size=(150, 16))
    between = gap.modality_gap(a, b)
    assert between.distance < 0.15
    assert between.accuracy == pytest.approx(0.5, abs=0.08)


def test_two_cones() -> None:
    rng = np.random.default_rng(0)
    a = 9 * np.eye(16)[0] + 0.1 * rng.normal(size=(40, 16))
    b = np.eye(16)[1] + 1e-3 * rng.normal(size=(5, 16))
    between = gap.modality_gap(a, b)
    assert between.distance == pytest.approx(2**0.5, abs=0.01)
    assert between.accuracy == 1.0
    assert gap.modality_gap(b, a).distance == pytest.approx(between.distance)
    assert between._asdict() == {"distance": between.distance, "accuracy": 1.0}


def test_empty_and_single() -> None:
    assert np.isnan(gap.modality_gap(np.zeros((0, 4)), np.ones((3, 4)))).all()
    single = gap.modality_gap(np.ones((1, 4)), -np.ones((3, 4)))
    assert single.distance == pytest.approx(2.0)
    assert np.isnan(single.accuracy)


def test_class_separation() -> None:
    rng = np.random.default_rng(0)
    finding = np.arange(90) % 3
    apart = np.eye(8)[finding] + 0.05 * rng.normal(size=(90, 8))
    assert gap.class_separation(apart, finding) > 0.8
    assert abs(gap.class_separation(rng.normal(size=(90, 8)), finding)) < 0.05
    left_out = np.where(finding == 2, -1, finding)
    assert gap.class_separation(apart, left_out) == pytest.approx(
        gap.class_separation(apart[finding < 2], finding[finding < 2])
    )


@pytest.mark.parametrize("finding", [[], [1], [1, 1, 1], [0, 1, 2], [-1, -1, 0]])
def test_nothing_to_separate(finding: list[int]) -> None:
    assert np.isnan(gap.class_separation(np.ones((len(finding), 2)), np.array(finding, int)))


def test_large_clouds_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap, "SILHOUETTE_ROWS", 50)
    rng = np.random.default_rng(0)
    finding = np.arange(400) % 2
    z = np.eye(4)[finding] + 0.1 * rng.normal(size=(400, 4))
    assert gap.class_separation(z, finding) == gap.class_separation(z, finding) > 0.7
