"""Released encoders in the jobs: one command each, X-rays alone, reports where a tower was released with them."""

import csv
import json
import shutil

import numpy as np
import pytest

from configs import embed as embed_configs
from configs import probe as probe_configs
from configs import retrieve as retrieve_configs
from configs import segment as segment_configs
from data.errors import UserError
from tests.inference.test_released_vits import hugging_face
from unimedi_jax.evaluation import heads, probe, results, retrieve, segment, trials
from unimedi_jax.inference import embed, pretrained, released

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def rad_dino(tmp_path_factory):
    """A folder as RAD-DINO's: DINOv2 of 56 pixels, and what its input is like."""
    folder = tmp_path_factory.mktemp("hub") / "rad-dino"
    hugging_face("Dinov2").save_pretrained(folder)
    facts = {"crop_size": {"height": 56, "width": 56}, "image_mean": [0.53] * 3, "image_std": [0.26] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def with_registers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "dinov2-with-registers"
    hugging_face("Dinov2WithRegisters", num_register_tokens=3).save_pretrained(folder)
    return folder


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def set_up(config, records_dir, checkpoint: str):
    config.checkpoint, config.data_dir, config.resamples, config.untrained = checkpoint, str(records_dir), 5, False
    return config


@pytest.mark.parametrize("which", ["rad_dino", "with_registers"])
def test_it_is_probed_and_segmented_in_one_command_each(which, request, records_dir, tmp_path, monkeypatch):
    folder = request.getfixturevalue(which)
    config = set_up(probe_configs.get_config(), records_dir, f"hf:{folder}")
    config.shares, config.seeds, config.rows = (1.0,), (0,), 4
    probe.run(config, tmp_path / "probe")
    rows = rows_of(tmp_path / "probe")
    assert {row["modality"] for row in rows} == {"xray"}, "CTs of the same set are left alone"
    assert {row["checkpoint"] for row in rows} == {f"hf:{folder}"}
    (auroc,) = [float(row["value"]) for row in rows if row["metric"] == "auroc/macro"]
    assert 0 <= auroc <= 1
    config = set_up(segment_configs.get_config(), records_dir, f"hf:{folder}")
    config.tune, config.limit, config.setr_channels = "frozen", 3, (4, 4, 4, 4)
    config.xray.update(batch=2, epochs=1)
    monkeypatch.setattr(trials, "FEWEST", 1)
    segment.run(config, tmp_path / "segment")
    (dice,) = [float(row["value"]) for row in rows_of(tmp_path / "segment") if row["metric"] == "dice/mean"]
    assert 0 <= dice <= 1


def test_sizes_grey_levels_and_names_come_from_the_files_or_the_address(rad_dino):
    opened = released.read(f"hf:{rad_dino}")
    assert opened.config["model"]["image_size"] == 56
    assert "mean 0.53 and deviation 0.26" in released.summary(opened)
    assert "skipped: embeddings.mask_token" in released.summary(opened)
    trained = pretrained.load(f"hf:{rad_dino}:size=84:mean=0.4/0.5/0.6:deviation=0.2:crop=200")
    assert trained.size("xray") == (84, 84)
    assert trained.model.vision.image_grid == (6, 6)
    assert trained.sampler("xray").crop == 200
    assert heads.encoder_fingerprint(trained) != heads.encoder_fingerprint(pretrained.load(f"hf:{rad_dino}"))
    name = results.folder(rad_dino / "runs" / "probe-{checkpoint}", trained).name
    assert name.startswith("probe-hf-")
    assert name.endswith("rad-dino-size=84-mean=0.4-0.5-0.6-deviation=0.2-crop=200")


def test_an_untrained_twin_stands_beside_it(rad_dino):
    trained = pretrained.load(f"hf:{rad_dino}")
    a, b = (trained.encoder(name)["params"]["vision"]["patch_2d"]["kernel"] for name in trials.ENCODERS)
    assert a.shape == b.shape
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timm:nowhere.pth", "there is no file or folder nowhere.pth"),
        ("hf:nobody/nothing-of-that-name", "config.checkpoint nobody/nothing-of-that-name: no such folder, and "),
        ("hf:./nowhere", "there is no file or folder"),
        ("hf:", "names no file"),
        ("hf:{}:colour=3", "after colons come size=, mean="),
        ("hf:{}:size=56:size=56", "at most once"),
        ("hf:{}:size=big", "not a whole number"),
        ("hf:{}:mean=grey", "neither a number"),
        ("hf:{}:deviation=0", "above 0"),
        ("hf:{}:size=60", "which do not divide size=60"),
        ("hf:{}:crop=300", "at most 256"),
        ("hf:{}:tokenizer=x", "no report tower"),
    ],
)
def test_a_wrong_address_is_one_line(rad_dino, text, words):
    with pytest.raises(UserError) as error:
        pretrained.load(text.format(rad_dino))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"model_type": "dinov2", "num_attention_heads": "many"}),
        ("config.json", {"model_type": "dinov2", "layer_norm_eps": []}),
        ("config.json", {"model_type": "dinov2", "vision_config": 3}),
        ("config.json", {"pretrained_cfg": "timm"}),
        ("preprocessor_config.json", {"image_mean": "grey", "crop_size": 56}),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}),
        ("preprocessor_config.json", {"image_mean": {"a": 1}, "crop_size": True}),
        ("config.json", None),
    ],
    ids=str,
)
def test_settings_of_strangers_are_data(rad_dino, tmp_path, file, content):
    folder = tmp_path / "theirs"
    shutil.copytree(rad_dino, folder)
    (folder / file).write_text("{" if content is None else json.dumps(content))
    with pytest.raises(UserError) as error:
        pretrained.load(f"hf:{folder}")
    assert "\n" not in str(error.value)


def test_without_a_report_tower_reports_are_refused(rad_dino, records_dir, tmp_path):
    config = set_up(retrieve_configs.get_config(), records_dir, f"hf:{rad_dino}")
    with pytest.raises(UserError, match="reads no reports"):
        retrieve.run(config, tmp_path)
    config = set_up(probe_configs.get_config(), records_dir, f"hf:{rad_dino}")
    config.modality = "ct"
    with pytest.raises(UserError, match=r"config\.modality=ct: .* reads xray alone"):
        probe.run(config, tmp_path)


def test_files_are_embedded_and_what_it_does_not_read_is_named(rad_dino, tmp_path):
    cv2 = pytest.importorskip("cv2")
    source = tmp_path / "source"
    source.mkdir()
    cv2.imwrite(str(source / "film.png"), np.random.default_rng(0).integers(0, 256, (300, 260)).astype(np.uint8))
    import nibabel

    scan = np.full((8, 8, 8), -1000, np.int16)
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), source / "scan.nii.gz")
    config = embed_configs.get_config()
    config.checkpoint, config.source, config.out = f"hf:{rad_dino}", str(source), str(tmp_path / "out.parquet")
    config.maps = str(tmp_path / "maps")
    embed.run(config)
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["ids"].to_pylist() == ["film.png"]
    assert len(table["cls"][0]) == 32
    (line,) = (tmp_path / "out.parquet.rejected.jsonl").read_text().splitlines()
    assert "other_modality" in line
    assert (tmp_path / "maps" / "film.png.attention.png").is_file()


def test_offline_the_hub_says_so_in_one_line():
    with pytest.raises(
        UserError, match=r"^config\.checkpoint nobody/nothing-of-that-name@main: .* Hugging Face"
    ) as error:
        released.read("hf:nobody/nothing-of-that-name@main")
    assert "\n" not in str(error.value)
