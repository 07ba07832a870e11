"""MGCA's protocol: its draws, its augmentation and its linear layer against its own arithmetic in torch and pandas."""

import csv
import dataclasses
import functools
import types

import jax
import numpy as np
import optax
import pytest

from configs import probe as configs
from data.errors import UserError
from unimedi_jax.config.jobs import CandidatesTask, DetectConfig, EvaluateConfig, FitConfig, ProbeConfig, SegmentConfig
from unimedi_jax.config.recipes import CropsConfig, VolumesConfig
from unimedi_jax.evaluation import candidate_tuning, detect, draws, fine_tuning, mgca_probe, probe, segment, trials
from unimedi_jax.input import mgca_augmentation

torch = pytest.importorskip("torch")


def test_shares_are_drawn_as_pandas_draws_them():
    """The example of pandas' own documentation: of falcon, dog, spider, fish, `sample(n=3, random_state=1)`."""
    drawn = draws.published(np.zeros((4, 2)), 0.75, seed=1, rounded=True)
    assert [("falcon", "dog", "spider", "fish")[row] for row in drawn] == ["fish", "spider", "falcon"]
    assert len(draws.published(np.zeros((1860, 1)), 0.001, seed=42, rounded=True)) == 2, "pandas rounds"


def test_shares_are_drawn_as_the_pandas_here_draws_them():
    pandas = pytest.importorskip("pandas")
    for share in (0.01, 0.1, 0.5):
        frame = pandas.DataFrame({"row": np.arange(1003)}).sample(frac=share, random_state=42)
        drawn = draws.published(np.zeros((1003, 2)), share, seed=42, rounded=True)
        np.testing.assert_array_equal(drawn, frame["row"])


def test_shares_of_pictures_are_drawn_as_numpy_draws_them():
    labels = np.zeros((1007, 1))
    np.random.seed(42)
    for _ in range(2):  # `num_training_steps` makes the training set once before `fit` does
        theirs = np.random.choice(1007, int(0.1 * 1007), replace=False)
    np.testing.assert_array_equal(draws.published(labels, 0.1, seed=42, rounded=False), theirs)
    assert len(draws.published(labels, 0.001, seed=42, rounded=False)) == 1
    np.testing.assert_array_equal(draws.published(labels, 1, seed=42, rounded=False), np.arange(1007))


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_siim_is_balanced_and_drawn_as_by_mgca_s_training_set(share):
    """`SIIMImageDataset.__init__` in lists of names: its second time, after `num_training_steps`."""
    rng = np.random.default_rng(0)
    labels = (rng.random((1200, 1)) < 0.2).astype(float)
    names = np.array([f"image {row}" for row in range(1200)], dtype=object)
    np.random.seed(42)
    for _ in range(2):
        positive, negative = names[labels[:, 0] == 1], names[labels[:, 0] == 0]
        selected = np.random.choice(negative, size=len(positive), replace=False)
        ids = [*positive, *(name for name in negative if name in set(selected))]
        if share != 1:
            ids = list(np.random.choice(np.array(ids, dtype=object), size=int(len(ids) * share), replace=False))
    drawn = draws.of_protocol("mgca", "siim")(labels, share, seed=42)
    assert sorted(names[drawn]) == sorted(ids)
    if share == 1:
        assert labels[drawn].mean() == 0.5


def test_siim_s_decoder_learns_from_balanced_films_in_batches_of_eight(trained, phantom):
    contract = {**phantom.contract, "source": {"kind": "siim"}}
    siim = dataclasses.replace(phantom, contract=contract)
    rows = list(range(phantom.size("xray", "train")))
    task = segment.Task(trained, siim, "xray", "frozen", {"train": rows}, SegmentConfig(protocol="mgca"))
    assert task.recipe.batch == 8
    labels = np.stack([record["labels"] for record in phantom.source("xray", "train", ("labels",))])
    np.testing.assert_array_equal(task.strata, labels)
    assert segment.Task(trained, phantom, "xray", "frozen", {"train": rows}, SegmentConfig()).strata.shape[1] == 0


def test_augmentation_jitters_blurs_and_mirrors_half_of_the_films():
    rng = np.random.default_rng(0)
    film = (np.arange(64)[None] + rng.integers(0, 100, (64, 64))).astype(np.uint8)  # noise, darker on the left
    made = [mgca_augmentation.moco(film, rng) for _ in range(200)]
    mirrored = np.mean([one[:, :32].mean() > one[:, 32:].mean() for one in made])
    assert 0.4 < mirrored < 0.6
    assert np.mean([np.array_equal(one, film) or np.array_equal(one, film[:, ::-1]) for one in made]) < 0.2
    means = np.array([one.mean() for one in made])
    assert (means > 0.55 * film.mean()).all()
    assert (means < 1.45 * film.mean()).all()


def test_a_crop_is_anywhere_in_training_and_central_in_evaluation():
    record = {"image": np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8), "labels": np.ones(1)}
    sampler = mgca_augmentation.ToLabelled((224, 224), (16, 16), jittered=False)
    centre = sampler(record)["tokens"]
    np.testing.assert_array_equal(centre[0], record["image"][16:32, 16:32].ravel())
    rng = np.random.default_rng(1)
    corners = {tuple(sampler(record, rng)["tokens"][0]) for _ in range(40)}
    assert len(corners) > 30
    np.testing.assert_array_equal(sampler(record)["labels"], record["labels"])


def test_the_layer_is_trained_as_torch_trains_it():
    """The optimiser of `fit.fit` and the loss of many labels beside AdamW and BCE of torch, step by step."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 8)).astype(np.float32), rng.integers(0, 2, (6, 3)).astype(np.float32)
    layer = torch.nn.Linear(8, 3)
    recipe = ProbeConfig().mgca
    assert recipe == FitConfig(batch=48, epochs=50, patience=10, lr=5e-4, weight_decay=1e-6)
    params = {"weights": layer.weight.detach().numpy().T.copy(), "bias": layer.bias.detach().numpy().copy()}
    theirs = torch.optim.AdamW(layer.parameters(), lr=recipe.lr, betas=(0.9, 0.999), weight_decay=recipe.weight_decay)
    tx = optax.adamw(recipe.lr, weight_decay=recipe.weight_decay)
    state = tx.init(params)
    grad = jax.jit(jax.grad(lambda p: fine_tuning.losses(x @ p["weights"] + p["bias"][None], y, False).mean()))
    for _ in range(20):
        updates, state = tx.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
        theirs.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(layer(torch.tensor(x)), torch.tensor(y)).backward()
        theirs.step()
    np.testing.assert_allclose(params["weights"], layer.weight.detach().numpy().T, atol=1e-6)
    np.testing.assert_allclose(params["bias"], layer.bias.detach().numpy(), atol=1e-6)


def test_rows_of_two_protocols_are_never_mixed(records_dir, checkpoint_dir, tmp_path, monkeypatch):
    config = configs.get_config()
    config.checkpoint, config.data_dir, config.protocol = str(checkpoint_dir), str(records_dir), "mgca"
    config.shares, config.untrained, config.resamples = (0.5, 1.0), False, 5
    config.mgca.update(batch=4, epochs=1)
    monkeypatch.setattr(trials, "FEWEST", 1)
    probe.run(config, tmp_path)
    with (tmp_path / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["task"] for row in rows} == {"linear probe, MGCA's protocol with other settings"}
    assert {(row["modality"], row["share"], row["seed"]) for row in rows} == {
        ("xray", "0.5", "42"),
        ("xray", "1.0", "42"),
    }
    config.tune = "full"
    with pytest.raises(UserError, match=r"config\.protocol=mgca is that of a linear classifier"):
        probe.run(config, tmp_path / "other")


def test_the_encoder_stands_still_and_the_layer_starts_as_in_torch(trained, phantom):
    task = mgca_probe.Linear(trained, phantom, "xray", ProbeConfig(protocol="mgca"))
    network = task.start(trials.Trial("trained", seed=42))
    assert set(network.params) == {"decoder"}
    weights, limit = np.asarray(network.params["decoder"]["weights"]), trained.model.vision.width**-0.5
    assert np.abs(weights).max() <= limit
    assert weights.std() == pytest.approx(limit / 3**0.5, rel=0.1)
    assert not task.sampler.jittered
    chexpert = dataclasses.replace(phantom, contract={**phantom.contract, "source": {"kind": "chexpert"}})
    assert mgca_probe.Linear(trained, chexpert, "xray", ProbeConfig()).sampler.jittered


def test_detection_and_segmentation_run_by_it(trained, phantom):
    recipe, shared = FitConfig(2, epochs=1), dict(protocol="mgca", tune="frozen", untrained=False, resamples=0, limit=6)
    config = DetectConfig(widths=(4, 4, 4), recipe=recipe, **shared)
    rows = detect.evaluate(trained, phantom, config)
    assert {(row.task, row.seed) for row in rows} == {
        ("detection, frozen encoder, MGCA's protocol with other settings", 42)
    }
    assert {"map_mgca", "map"} <= {row.metric for row in rows}
    config = SegmentConfig(target="lesions", setr_channels=(4, 4, 4), mgca=recipe, **shared)
    rows = segment.evaluate(trained, phantom, config)
    places = {(row.task, row.modality, row.seed) for row in rows}
    assert places == {("segmentation of lesions, frozen encoder, MGCA's protocol with other settings", "xray", 42)}
    with pytest.raises(UserError, match="segments one structure"):
        segment.evaluate(trained, phantom, dataclasses.replace(config, target="organs"))


def test_masks_are_measured_on_the_networks_grid_by_it(trained, phantom):
    cases = {
        split: segment.annotated(phantom, "xray", split, SegmentConfig(target="lesions")) for split in ("val", "test")
    }
    shapes = {}
    for protocol in ("ours", "mgca"):
        config = SegmentConfig(target="lesions", setr_channels=(4, 4, 4), protocol=protocol)
        task = segment.Task(trained, phantom, "xray", "frozen", cases, config)
        network = task.start(trials.Trial("trained"))
        (truth, mask, _), *_ = task.masks("test", network)
        assert truth.shape == mask.shape
        shapes[protocol] = mask.shape
        if protocol == "mgca":
            assert task.score(network) < 0, "minus the loss of the validation cases"
    assert shapes == {"ours": (256, 256), "mgca": trained.size("xray")}


@pytest.mark.parametrize(
    ("name", "config", "changes"),
    [
        (probe.task_name, ProbeConfig(protocol="mgca"), [{"mgca": FitConfig(epochs=1)}]),
        *(
            (probe.task_name, ProbeConfig(protocol=protocol, tune="full"), [{protocol: VolumesConfig(batch=1)}])
            for protocol in ("unimiss", "hkbu", "voco")
        ),
        (
            functools.partial(segment.task_name, "boxes", "frozen"),
            SegmentConfig(protocol="mgca"),
            [{"mgca": FitConfig(epochs=1)}, {"siim_batch": 2}, {"limit": 40}, {"setr_channels": (8, 8, 8, 8)}],
        ),
        *(
            (
                functools.partial(segment.task_name, "organs", "full"),
                SegmentConfig(protocol=protocol),
                [{protocol: CropsConfig(crops=3)}, {"steps": 7}, {"limit": 3}, {"unetr_features": 2}],
            )
            for protocol in ("unetr", "voco")
        ),
        (
            functools.partial(detect.task_name, "frozen"),
            DetectConfig(protocol="mgca"),
            [
                *({"recipe": FitConfig(epochs=1)}, {"limit": 40}, {"most": 3}, {"widths": (8, 8, 8)}),
                *({"lowest": 0.1}, {"confidence": 0.3}, {"overlap": 0.3}),
            ],
        ),
        (
            candidate_tuning.task_name,
            EvaluateConfig(protocol="genesis"),
            [
                {"candidates": CandidatesTask(**change)}
                for change in ({"crop": (8, 8, 8)}, {"negatives": 3}, {"genesis": FitConfig()})
            ],
        ),
    ],
    ids=["probe-mgca", "unimiss", "hkbu", "probe-voco", "segment-mgca", "unetr", "voco", "detect-mgca", "genesis"],
)
def test_a_protocol_with_other_settings_has_another_name(name, config, changes):
    plain = name(config)
    assert plain.endswith(trials.PUBLISHED[config.protocol])
    for change in changes:
        assert name(dataclasses.replace(config, **change)) == f"{plain} with other settings"
    beside = {"resamples": 5, "untrained": False, "shares": (0.01, 0.1, 1.0)}  # what changes no number
    assert name(dataclasses.replace(config, **beside)) == plain


def test_validation_batches_are_taken_one_at_a_time_and_whole_ones_count(monkeypatch):
    """As a list they would hold all validation X-rays and masks at once."""
    task = types.SimpleNamespace(
        cases={"val": range(7)}, recipe=FitConfig(batch=3), sampler=None, source=lambda _: None
    )
    task.pretrained, events = types.SimpleNamespace(mesh=None), []

    def batches(*_):
        for number, real in enumerate((3, 3, 1)):
            events.append(f"read {number}")
            yield np.float32(number), real

    task._loss_of_batch = lambda _, part: events.append(f"used {part:g}") or part
    monkeypatch.setattr(segment.supervised, "evaluation", batches)
    monkeypatch.setattr(segment.sharding, "put_batch", lambda part, _: part)
    assert segment.Task._loss_of_val(task, None) == 0.5
    assert events == [f"{what} {number}" for number in range(3) for what in ("read", "used")]


def test_a_protocol_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="protocol must be one of ours, mgca"):
        ProbeConfig(protocol="theirs")
