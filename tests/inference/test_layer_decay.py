"""Learning rates that fall from layer to layer are those of timm."""

import importlib

import numpy as np
import pytest

from tests.test_trainable import QKV, leaf
from unimedi_jax import trainable


def test_rates_by_layer_are_timms(timm, random_params, tiny) -> None:
    decay, depth = 0.7, 2
    judge = timm.create_model("vit_tiny_patch16_224", depth=depth, num_classes=3)
    groups = importlib.import_module("timm.optim").param_groups_layer_decay(judge, weight_decay=0.0, layer_decay=decay)
    of_timm = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    scale = {name: of_timm[id(p)] for name, p in judge.named_parameters()}
    params = random_params(tiny)
    partition = trainable.partition((("head_cls", "full:lr=0.5"), (".*", "full")), params)
    rates = partition.rates(partition.split(params), decay)
    pairs = [
        ("vision/cls", "cls_token"),
        ("vision/position_2d", "pos_embed"),
        ("vision/patch_2d/kernel", "patch_embed.proj.weight"),
        ("vision/trunk/norm/scale", "norm.weight"),
        ("project_image/fc1/kernel", "head.weight"),
    ]
    for ours, theirs in pairs:
        assert leaf(rates, ours) == pytest.approx(scale[theirs]), ours
    expected = [scale[f"blocks.{i}.attn.qkv.weight"] for i in range(depth)]
    np.testing.assert_allclose(np.ravel(leaf(rates, QKV)), expected, rtol=1e-6)
    np.testing.assert_allclose(np.ravel(leaf(rates, "report/layers/mlp/fc2/kernel")), expected, rtol=1e-6)
    assert leaf(rates, "report/norm/scale") == pytest.approx(scale["cls_token"]), "BERT's norm of its embeddings"
    assert leaf(rates, "head_cls/last_layer") == 0.5
