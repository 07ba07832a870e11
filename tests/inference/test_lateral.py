"""The view of a film reaches a network that distinguishes lateral ones: from records, manifests and DICOM headers."""

import csv
import dataclasses
import functools

import cv2
import jax
import numpy as np
import pytest

from tests import dicoms
from tests.input.test_studies import open_views
from unimedi_jax import trees
from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation.fine_tuning import FineTuning
from unimedi_jax.evaluation.network import Network
from unimedi_jax.inference import embed, features, preprocess, sources
from unimedi_jax.input import records
from unimedi_jax.search import build, entries, query


@pytest.fixture(scope="module")
def trained(make_trained):
    """A network whose two kinds of films lie far apart."""
    trained = make_trained(lateral_type=True, slices=0)
    variables = trees.map_with_name(lambda name, x: 20 * x if "type_lateral" in name else x, trained.variables)
    return dataclasses.replace(trained, variables=variables)


@pytest.fixture(scope="module")
def model(trained) -> embed.Model:
    return embed.Model(trained, trained.embedder(rows=2))


@pytest.fixture(scope="module")
def views() -> records.RecordSet:
    return open_views()


@pytest.fixture(scope="module")
def expected(trained, model):
    """CLS of films, of which some are lateral, by the network alone."""

    def of(films, lateral) -> np.ndarray:
        apply = jax.jit(functools.partial(trained.model.apply, method="xray_features"))
        return np.asarray(apply(trained.variables, preprocess.film_tokens(trained, films), np.array(lateral)).cls)

    return of


def test_records_say_it_in_evaluation_and_to_a_probe(trained, model, views, expected) -> None:
    test = views.source("xray", "test")
    films = [test[row]["image"] for row in range(len(test))]
    lateral = [records.text(test[row]["id"]).endswith("-lateral") for row in range(len(test))]
    assert sum(lateral) == len(films) / 2
    sampler = trained.sampler("xray", keep=("report", "labels"))
    split = features.embed(model.embedder, trained.variables, views, sampler, "test", images_alone=True)
    by_network = expected(films, lateral)
    np.testing.assert_allclose(split.cls, by_network, atol=1e-5)
    assert np.abs(by_network - expected(films, [False] * len(films)))[lateral].max(axis=1).min() > 1e-3

    task = FineTuning(trained, views, "xray", ProbeConfig(tune="full"))
    sample = [task.sampler(test[row]) for row in range(len(test))]
    batch = {name: np.stack([one[name] for one in sample]) for name in ("tokens", "lateral")}
    width = by_network.shape[1]
    head = {"weights": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
    network = Network({"decoder": head, "encoder": trained.variables["params"]}, {})
    np.testing.assert_allclose(jax.jit(task.logits)(network, batch), by_network, atol=1e-5)


def test_files_say_it_by_manifest_or_header(model, expected, tmp_path) -> None:
    film = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    for name in ("frontal", "lateral", "unknown"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), film)
    with (tmp_path / "films.csv").open("w", newline="") as stream:
        rows = [("frontal.png", "xray", "PA"), ("lateral.png", "xray", "LATERAL"), ("unknown.png", "xray", "")]
        csv.writer(stream).writerows([("path", "modality", "view"), *rows])
    got = model.embed(tmp_path / "films.csv").cls
    pixels = [sources.find(tmp_path / "frontal.png")[0][0].read()] * 2
    by_network = expected(pixels, [False, True])
    np.testing.assert_allclose(got, by_network[[0, 1, 0]], atol=1e-5)
    folder = tmp_path / "dicom"
    folder.mkdir()
    for position in ("LL", "AP"):
        one = dicoms.dataset(film, Modality="DX", ViewPosition=position)
        one.save_as(folder / f"{position}.dcm", enforce_file_format=True)
    items, _ = sources.find(folder)
    assert [(item.id, item.view) for item in items] == [("AP.dcm", "AP"), ("LL.dcm", "LL")]
    assert preprocess.laterals([item.view for item in items]).tolist() == [False, True]


def test_an_index_and_its_queries_agree_on_it(trained, model, views) -> None:
    entry = next(one for one in entries._records(views, "xray", "test") if one.view == "lateral")
    facts = {"width": 128, "picture_size": 0, "labels": ()}
    stored = build._embedded(model, [entry], facts)["z"][0]
    np.testing.assert_allclose(query.embedded(model, "xray", entry.pixels, view="LL"), stored, atol=1e-5)
    frontal = query.embedded(model, "xray", entry.pixels)
    assert np.abs(frontal - stored).max() > 1e-4
