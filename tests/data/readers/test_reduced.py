import functools

import cv2
import numpy as np
import PIL.Image
import pytest

from data.readers import geometry, pictures, reduced, xrays

LEAST = reduced.TIMES * geometry.XRAY_SIZE


def shades(height: int, width: int) -> np.ndarray:
    """Shades of all sizes under noise, uint8 (y, x)."""
    rng = np.random.default_rng(0)
    coarse = [rng.random((n, n), np.float32) for n in (4, 16, 64)]
    grey = sum(cv2.resize(x, (width, height), interpolation=cv2.INTER_CUBIC) for x in coarse)
    return np.clip(60 * grey + 3 * rng.standard_normal((height, width), np.float32) + 30, 0, 255).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(grey, name="film.jpg", **settings):
        PIL.Image.fromarray(grey).save(tmp_path / name, quality=95, **settings)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    ("size", "scale"),
    [((3056, 2544), 4), ((2544, 3056), 4), ((4096, 512), 8), ((1024, 8), 2), ((1024, 9), 1), ((1020, 1020), 1)],
)
def test_the_scale_divides_both_sides_and_leaves_twice_the_record(size, scale):
    assert reduced.scale(size, LEAST) == scale
    assert reduced.scale(size, 0) == 1


@pytest.mark.parametrize("colours", [False, True])
def test_grey_values_move_by_one(save, colours):
    grey = shades(2048, 1600)
    path = save(np.stack([grey] * 3, -1) if colours else grey)
    exact = xrays.read_xray(path)
    film = reduced.under(xrays.read_film, LEAST, path)
    assert film.pixels.shape == (512, 400)
    assert film.stored == (2048, 1600)
    moved = np.abs(geometry.canonical_xray(film.pixels).astype(int) - exact)
    assert moved.max() <= 1
    assert moved.any()


def test_exact_decoding_is_the_default_and_comes_back(save):
    path = save(shades(2048, 1600))
    judge = np.asarray(PIL.Image.open(path))
    reduced.under(xrays.read_film, LEAST, path)
    assert np.abs(xrays.read_full_xray(path).astype(int) - judge).max() <= 1  # two versions of libjpeg


def test_other_files_are_exact(save):
    for name in ("film.png", "film.webp"):
        path = save(shades(1024, 1024), name)
        np.testing.assert_array_equal(reduced.under(xrays.read_full_xray, LEAST, path), xrays.read_full_xray(path))


@pytest.mark.parametrize("turn", [1, 6, 8])
def test_turned_films_masks_and_points_lie_as_they_did(save, turn):
    grey = shades(2048, 1024)
    exif = PIL.Image.Exif()
    exif[pictures.EXIF_TURN] = turn
    path = save(grey, exif=exif)
    mask = np.zeros(grey.shape if turn == 1 else grey.shape[::-1], np.uint8)
    mask[300:401, 17:222] = 1
    exact, quick = xrays.read_film(path), reduced.under(xrays.read_film, LEAST, path)
    assert quick.stored == exact.stored
    small = [geometry.canonical_xray_mask(film.hang(mask), 1) for film in (exact, quick)]
    np.testing.assert_array_equal(*small)
    points = np.array([[0.0, 0.0], [100.0, 50.0], [1999.0, 1000.0]])
    lying = [geometry.xray_points(film.points(points), film.pixels.shape) for film in (exact, quick)]
    np.testing.assert_allclose(*lying, atol=1e-9)
    moved = geometry.canonical_xray(exact.pixels).astype(int) - geometry.canonical_xray(quick.pixels)
    assert np.abs(moved).max() <= 1


def test_a_set_says_how_it_was_decoded(tmp_path, save):
    from configs import build
    from data import job
    from data.build import contracts

    path = save(shades(1024, 1024))
    lines = ["path,modality,report,patient,split", f"{path.name},xray,No finding.,a,train"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    images = []
    for exact in (True, False):
        config = build.get_config("manifest")
        config.update({"source": f"{tmp_path}/m.csv", "data_dir": f"{tmp_path}/records", "workers": 1})
        config.update({"exact_jpeg": exact, "name": f"exact_{exact}"})
        job.run(config, tmp_path)
        source = job._reduced(job._source(config, tmp_path, tmp_path), config)
        images.append(source.convert(source.rows[0])["image"].astype(int))
        rules = contracts.contract.read(tmp_path / "records" / config.name)["source"]
        assert ("jpeg" in rules) == (not exact)
    moved = np.abs(images[0] - images[1])
    assert 0 < moved.max() <= 1


def test_the_choice_travels_to_other_processes():
    import pickle

    work = pickle.loads(pickle.dumps(functools.partial(reduced.under, _least, 7)))
    assert work(None) == 7
    assert reduced.LEAST.get() == 0


def _least(_: None) -> int:
    return reduced.LEAST.get()
