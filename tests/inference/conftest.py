"""The judges: timm and transformers, and weights of theirs as files."""

import dataclasses
import importlib.util
import json
import pathlib
import sys
from unittest import mock

import grain
import jax
import numpy as np
import pytest

from configs import pretrain
from data.build import contracts
from data.reports import tokenizer
from tests.conftest import once
from unimedi_jax import checkpoint, optim, sharding
from unimedi_jax.config.pretraining import OptimConfig
from unimedi_jax.export import export
from unimedi_jax.inference import pretrained
from unimedi_jax.objectives.unimedi import Objective
from unimedi_jax.train import state as states

torch = pytest.importorskip("torch")


# The parts of torchvision that timm imports for image transforms and normalisations that nothing here uses.
TORCHVISION = ("", ".datasets", ".models", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


@pytest.fixture(scope="session")
def timm():
    """timm. Without torchvision, which must match torch's build, mocks stand for it while timm is imported."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps -r requirements-judges.txt")
    import transformers  # noqa: F401 (asks for torchvision when first imported: before the mocks)

    with pytest.MonkeyPatch.context() as patch:
        for part in TORCHVISION if importlib.util.find_spec("torchvision") is None else ():
            patch.setitem(sys.modules, f"torchvision{part}", mock.MagicMock())
        import timm
    return timm


@pytest.fixture(scope="session")
def make_vit(timm):
    """`make_vit(**settings)`: timm's ViT at the tiny model's size, weights far from their initialisation."""

    def make(seed: int = 0, **settings):
        torch.manual_seed(seed)
        chosen = dict(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=0)
        model = timm.models.vision_transformer.VisionTransformer(**chosen | settings).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def make_bert():
    """`make_bert(**settings)`: transformers' BERT at the tiny model's size."""
    from transformers import BertConfig, BertModel

    def make(**settings):
        torch.manual_seed(0)
        chosen = dict(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=40,
        )
        model = BertModel(BertConfig(**chosen | settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


# ---- a trained network, and a run and an export of it ----

TEXTS = ["Large left pleural effusion.", "No pneumothorax, no effusion.", "Nodule in the right upper lobe."] * 2


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer.save(tokenizer.train(TEXTS), folder)
    return tokenizer.load(folder)


@pytest.fixture(scope="session")
def make_trained(words, random_tree):
    """`make_trained(**model settings)`: the demo's network made small, with weights far from their initialisation."""

    def make(**settings) -> pretrained.Pretrained:
        config = pretrain.get_config("demo,unimedi")
        config.compilations = ""
        small = dict(projection_hidden=32, prototypes_cls=8, prototypes_patch=8, head_hidden=16, head_bottleneck=8)
        config.model.update(small | settings)
        config = json.loads(config.to_json_best_effort())
        model = pretrained.build(config, len(words))
        variables = random_tree(pretrained.variables_like(model), 0.1)
        # A variance is positive; prototypes are scaled to unit length.
        stats = jax.tree.map(lambda x: np.abs(np.asarray(x)) + 0.5, variables["batch_stats"])
        mesh = sharding.make_mesh()
        variables = sharding.put_replicated({"params": variables["params"], "batch_stats": stats}, mesh)
        nowhere = pathlib.Path("nowhere")
        return pretrained.Pretrained(nowhere, model, variables, mesh, words, config, CONTRACTS, {}, "student", 7)

    return make


CONTRACTS = {
    "mine": {
        "format": contracts.FORMAT,
        "labels": [],
        "splits": {"xray": {"train": 3}},
        "records": contracts.rules(),
        "content_sha256": "0" * 64,
    }
}


@pytest.fixture(scope="session")
def trained(make_trained) -> pretrained.Pretrained:
    return make_trained()


@pytest.fixture(scope="session")
def exported(trained) -> pathlib.Path:
    return once("exported", lambda folder: export.write(trained, folder, rgb=True, onnx=True))


@pytest.fixture(scope="session")
def workdir(trained, words, tmp_path_factory) -> pathlib.Path:
    """What a run leaves behind, teacher and optimiser included, without the training."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tx, _ = optim.make(OptimConfig(**trained.config["optim"]), steps=10)
    key = jax.random.key(0)
    shapes = jax.eval_shape(states.make_init(trained.model, tx, Objective()), key)
    fresh = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), dataclasses.replace(shapes, key=np.zeros(2)))
    model_state = fresh.model_state | {"batch_stats": trained.variables["batch_stats"]}
    state = dataclasses.replace(fresh, params=trained.variables["params"], model_state=model_state, key=key)
    meta = {"config": trained.config, "contracts": trained.contracts, "versions": {}}
    with checkpoint.Checkpoints(folder) as checkpoints:
        iterator = iter(grain.MapDataset.range(3).to_iter_dataset())
        checkpoints.save(7, jax.tree.map(jax.numpy.asarray, state), iterator, meta)
    words.save_pretrained(folder / "tokenizer")
    return folder
