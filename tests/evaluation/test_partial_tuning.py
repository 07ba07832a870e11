"""Fine-tuning by rules: what is frozen stays, a head of adapters is a small file that gives the same answers."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import probe as configs
from data.errors import UserError
from tests.evaluation.test_segment import CONFIG
from unimedi_jax import lora, trees
from unimedi_jax.config.jobs import DetectConfig, FitConfig, ProbeConfig
from unimedi_jax.evaluation import detect, downstream, fit, heads, probe, segment
from unimedi_jax.evaluation import fine_tuning as tuning
from unimedi_jax.evaluation.trials import Trial

LORA = (("encoder/.*(qkv|fc2)/kernel$", "lora:rank=2"), ("encoder/", "frozen"), ("decoder/", "full"))
ONE = dict(untrained=False, shares=(1.0,), seeds=(0,), resamples=0)


def test_a_head_of_adapters_is_small_and_says_the_same(records_dir, checkpoint_dir, trained, phantom, tmp_path) -> None:
    config = configs.get_config()
    config.update(ONE, checkpoint=str(checkpoint_dir), data_dir=str(records_dir), tune="full", modality="xray")
    config.trainable = LORA
    config.full.update(batch=8, epochs=1, lr=1e-2, encoder_lr=1e-2, layer_decay=0.8)
    probe.run(config, tmp_path)
    with (tmp_path / downstream.CASES).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["task"] for row in rows} == {"full fine-tuning, by LoRA"}
    file = tmp_path / "heads" / "full" / "xray.safetensors"
    arrays = safetensors.numpy.load_file(file)
    assert {name.split("/")[1] for name in arrays} == {"decoder", lora.KEY}
    vision = trained.variables["params"]["vision"]
    assert sum(x.size for x in arrays.values()) < 0.1 * trees.count(vision)

    network = heads.load(str(file), trained)["xray"].network(trained)
    base, after = vision["trunk"]["blocks"], network.encoder["vision"]["trunk"]["blocks"]
    assert not np.array_equal(base["mlp"]["fc2"]["kernel"], after["mlp"]["fc2"]["kernel"])
    np.testing.assert_array_equal(base["mlp"]["fc1"]["kernel"], after["mlp"]["fc1"]["kernel"])
    task = tuning.FineTuning(trained, phantom, "xray", ProbeConfig(**ONE, tune="full", full=FitConfig(8)))
    names = [f"probability:{name}" for name in phantom.contract["labels"]]
    before = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(task.probabilities("test", network), before, atol=1e-6)


def test_the_last_layer_and_the_decoder_alone_train(trained, phantom) -> None:
    rules = (("encoder/vision/trunk/(blocks/3|norm)/", "full"), ("encoder/", "frozen"), (".*", "full"))
    recipe = FitConfig(8, epochs=1, patience=1, lr=1e-2, encoder_lr=1e-3)
    config = dataclasses.replace(CONFIG, tune="full", trainable=rules, xray=recipe)
    cases = {"train": list(range(8)), "val": [], "test": [0]}
    task = segment.Task(trained, phantom, "xray", "full", cases, config)
    assert task.title == "segmentation of organs, fine-tuned, in part"
    before, after = task.start(Trial("trained")).params, fit.train(task, Trial("trained")).params
    for name, x, y in zip(trees.names(before), *map(jax.tree.leaves, (before, after)), strict=True):
        if "/blocks/" in name:
            np.testing.assert_array_equal(x[:-1], y[:-1], err_msg=name)
            assert not np.array_equal(x[-1], y[-1]), name
        elif name.startswith("encoder/") and "/norm/" not in name:
            np.testing.assert_array_equal(x, y, err_msg=name)
        elif name.endswith("kernel"):
            assert not np.array_equal(x, y), name
    frozen = segment.Task(trained, phantom, "xray", "frozen", cases, config)
    assert frozen.title == "segmentation of organs, frozen encoder"
    detector = detect.Task(trained, phantom, "full", DetectConfig(tune="full", trainable=rules))
    assert (detector.trainable, detector.title) == (rules, "detection, fine-tuned, in part")


def test_rules_that_nothing_uses_are_named(trained, phantom) -> None:
    for cls in (ProbeConfig, DetectConfig):
        with pytest.raises(ValueError, match=r"config\.tune=full"):
            cls(trainable=LORA)
    config = ProbeConfig(**ONE, modality="xray", tune="full", trainable=(("vision/blocks", "frozen"), (".*", "full")))
    with pytest.raises(UserError, match=r"config\.trainable: .*vision/blocks"):
        probe.evaluate(trained, phantom, config)
