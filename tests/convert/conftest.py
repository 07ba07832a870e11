"""The judges: timm and transformers, and weights of theirs as files."""

import importlib.util
import sys
import types

import pytest

torch = pytest.importorskip("torch")


class _Anything(type):
    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Absent(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


@pytest.fixture(scope="session")
def timm():
    """timm; its image transforms, which nothing here needs, may lack torchvision (which must match torch's build)."""
    import transformers  # noqa: F401 (looks for torchvision when first imported: before the stand-in is there)

    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps -r requirements-judges.txt")
    names = [
        "torchvision", *(f"torchvision.{n}" for n in ("transforms", "transforms.functional", "ops", "ops.misc")),
        "torchvision.datasets", "torchvision.models",
    ]  # fmt: skip
    stood_in = [] if importlib.util.find_spec("torchvision") else names
    sys.modules.update({name: _Absent(name) for name in stood_in})
    import timm

    for name in stood_in:
        del sys.modules[name]
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
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=40,
        )  # fmt: skip
        model = BertModel(BertConfig(**chosen | settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make
