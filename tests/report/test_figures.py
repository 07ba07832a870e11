"""Pictures decode, have the right size, and show what they should where it can be checked."""

import cv2
import numpy as np
import pytest

from unimedi_jax.report import content, figures


def _decoded(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[..., ::-1]


def test_greyscale_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    np.testing.assert_array_equal(_decoded(figures.greyscale(image)), np.repeat(image[..., None], 3, 2))


def test_outline_runs_around_the_lesion_and_hides_none_of_it() -> None:
    image, lesion = np.full((40, 40), 90, np.uint8), np.zeros((40, 40), bool)
    lesion[10:20, 12:25] = True
    picture = _decoded(figures.greyscale(image, lesion))
    line = (picture == figures.LESION_RGB).all(axis=-1)
    assert not (line & lesion).any()
    rows, columns = np.nonzero(line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 21, 10, 26)


def test_attention_lights_up_its_patch_and_leaves_the_rest() -> None:
    image = np.full((224, 224), 100, np.uint8)
    scores = np.zeros((14, 14))
    scores[3, 9] = 0.02
    changed = (_decoded(figures.attention(image, scores)) != 100).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert rows.mean() == pytest.approx(3.5 * 16, abs=1)
    assert columns.mean() == pytest.approx(9.5 * 16, abs=1)
    assert np.ptp(rows) <= 32
    assert np.ptp(columns) <= 32


def test_even_attention_changes_nothing() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    even = figures.attention(image, np.full((2, 2), 0.25))
    np.testing.assert_array_equal(_decoded(even), np.repeat(image[..., None], 3, 2))


def test_lung_window() -> None:
    slice_hu = np.array([[-3000, -1350, -600, 150, 3000]], np.int16)
    assert figures.lung_window(slice_hu).tolist() == [[0, 0, 128, 255, 255]]


def test_axial_slice_keeps_its_sides() -> None:
    """Row 0 (front) stays at the top, column 0 (the patient's right) at the left."""
    slice_hu = np.full((8, 8), -1350, np.int16)
    slice_hu[:2, :2] = 150
    picture = _decoded(figures.axial_slice(slice_hu))
    assert picture.shape == (16, 16, 3)
    assert picture[:3, :3].min() == 255
    assert picture[6:].max() == picture[:, 6:].max() == 0


@pytest.mark.parametrize("marked", [True, False])
def test_slice_scores_mark_the_chosen_layers(marked: bool) -> None:
    lesion = np.zeros((8, 4, 4), bool)
    lesion[5] = True
    example = content.SliceExample(
        volume=np.zeros((8, 4, 4), np.int16),
        scores=np.array([1.0, 1.0, 1.0, 1.0]),
        chosen_layers=np.array([3]),
        chosen_slices=np.array([7]),
        findings=[],
        lesion=lesion if marked else None,
    )
    picture = _decoded(figures.slice_scores(example)).astype(int)
    blue = np.abs(picture - [0x00, 0x72, 0xB2]).sum(axis=-1) < 12
    orange = np.abs(picture - [0xD5, 0x5E, 0x00]).sum(axis=-1) < 12
    width = picture.shape[1]
    assert np.nonzero(blue)[1].mean() > 0.75 * width  # the last of four bars
    assert blue.sum() > 5000
    # The strip holds slice 5 of 8; some more orange pixels are the word beside it.
    assert (orange[:, width // 2 :].sum() > 1000) == marked


def test_tsne_separates_clusters_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(60) % 2
    z = np.eye(8)[group] + 0.05 * rng.normal(size=(60, 8))
    points = figures.tsne(z, seed=1)
    assert points.shape == (60, 2)
    a, b = points[group == 0], points[group == 1]
    gap = np.linalg.norm(a.mean(0) - b.mean(0))
    assert gap > 2 * max(a.std(0).max(), b.std(0).max())
    np.testing.assert_array_equal(points, figures.tsne(z, seed=1))
    with pytest.raises(ValueError, match="5 points"):
        figures.tsne(z[:4])


def test_tsne_rows() -> None:
    assert figures.tsne_rows(5, limit=5).tolist() == [0, 1, 2, 3, 4]
    rows = figures.tsne_rows(100, limit=10)
    assert len(set(rows)) == 10
    assert sorted(rows) == rows.tolist() == figures.tsne_rows(100, limit=10).tolist()


def test_curves_with_gaps_and_many_keys() -> None:
    lines = [{"step": s, **{f"k{i}": s * i for i in range(9)}} for s in range(30)]
    lines[4]["k1"], lines[5]["k1"] = None, float("nan")
    keys = [f"k{i}" for i in range(9)]
    assert _decoded(figures.curves(lines, {key: key for key in keys}, title="many")).std() > 0
    assert _decoded(figures.curves(lines, {"k1": "one"}, title="one", unit="nats", chance=0.5)).std() > 0


def test_embedding_map_gives_every_name_its_colour() -> None:
    points = np.array([[0, 0], [1, 1], [2, 0], [3, 1.0]])
    picture = _decoded(figures.embedding_map(points, list("abab"), list("xxyy"), "map")).astype(int)
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):
        near = np.abs(picture - colour).sum(axis=-1) < 12
        assert near.sum() > 50
