"""Released ViTs: random models of timm and transformers say the same here, whatever their architecture and names."""

import jax
import numpy as np
import pytest
import safetensors.torch
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax import patches
from unimedi_jax.convert import released
from unimedi_jax.convert.released import Reading
from unimedi_jax.models.released_vit import ReleasedVit

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=14, image_size=56)
GREY = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def randomised(model):
    """Weights far from their initialisation, so that zero biases and unit scales cannot hide."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def hugging_face(kind: str, **settings):
    made = getattr(transformers, f"{kind}Config")(**SIZE | settings)
    return randomised(getattr(transformers, f"{kind}Model")(made))


def ours(state, films: np.ndarray, size: int, **reading) -> tuple[np.ndarray, np.ndarray]:
    """CLS (or what stands for it) and patches of films (b, y, x) uint8."""
    arrays = {name: value.float().numpy() for name, value in state.items()}
    vit = released.read(arrays, Reading(size, *GREY, **reading), "the file")
    model = ReleasedVit(vit.shape)
    tokens = jnp.asarray(patches.patchify(films, (vit.shape.patch,) * 2) / np.float32(127.5) - 1)

    def run(params, tokens):
        return model.apply({"params": params}, tokens, method=lambda m, x: m.encode(m.embed_image(x), scores=True))

    encoded = jax.jit(run)(vit.params, tokens)
    share = np.asarray(encoded.scores).sum(axis=1)  # the rest of CLS attention is on CLS and registers
    assert (share < 1).all() if vit.shape.pool == "cls" else np.allclose(share, 1, atol=1e-5)
    return np.asarray(encoded.cls), np.asarray(encoded.patches)


def films_of(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, size, size)).astype(np.uint8)


def pixels(films: np.ndarray):
    """The films as the authors' own preprocessing has them."""
    mean, deviation = (torch.tensor(x)[None, :, None, None] for x in GREY)
    return (torch.from_numpy(films).float()[:, None] / 255 - mean) / deviation


@pytest.mark.parametrize(
    ("kind", "settings", "size"),
    [
        ("Dinov2", {}, 56),  # RAD-DINO
        ("Dinov2", {}, 84),  # another size than that of its table of positions
        ("Dinov2", {}, 42),
        ("Dinov2", {"use_swiglu_ffn": True}, 56),
        ("Dinov2WithRegisters", {"num_register_tokens": 3}, 56),
        ("DINOv3ViT", {"intermediate_size": 64, "num_register_tokens": 3}, 70),
        ("DINOv3ViT", {"intermediate_size": 64, "use_gated_mlp": True, "hidden_act": "silu"}, 56),
        ("ViT", {"intermediate_size": 64}, 56),
        ("SiglipVision", {"intermediate_size": 64}, 56),  # SigLIP, MedSigLIP
    ],
    ids=str,
)
def test_a_vit_of_hugging_face_computes_the_same_here(kind, settings, size, tmp_path):
    model, films = hugging_face(kind, **settings), films_of(size)
    model.save_pretrained(tmp_path)  # by the names that files on the hub have
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        interpolated = {"interpolate_pos_encoding": True} if kind in ("ViT", "SiglipVision") else {}
        output = model(pixels(films), **interpolated)
    theirs = output.last_hidden_state.numpy()
    cls, of_patches = ours(state, films, size, settings=model.config.to_dict())
    np.testing.assert_allclose(of_patches, theirs[:, -of_patches.shape[1] :], atol=1e-4)
    pooled = output.pooler_output.numpy() if kind == "SiglipVision" else theirs[:, 0]
    np.testing.assert_allclose(cls, pooled, atol=1e-4)


@pytest.fixture
def make_timm(timm):
    """`make_timm(name, **settings)`: an architecture of timm's, small."""

    def make(name: str, **settings):
        small = dict(depth=2, embed_dim=32, num_heads=4, num_classes=0, pretrained=False)
        return randomised(timm.create_model(name, **small | settings))

    return make


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("vit_base_patch16_224", {"img_size": 64}, 64),  # MGCA, MRM, BiomedCLIP
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 56),
        ("vit_giant_patch14_dinov2", {"img_size": 56, "mlp_ratio": 4}, 56),  # SwiGLU in one map
        ("vit_small_patch16_dinov3", {"img_size": 64, "global_pool": "token"}, 64),
        ("vit_small_plus_patch16_dinov3_qkvb", {"img_size": 64, "global_pool": "token"}, 64),
        ("vit_base_patch16_siglip_224", {"img_size": 64}, 64),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_vit_of_timm_computes_the_same_here(make_timm, name, settings, size):
    model, films = make_timm(name, **settings), films_of(size)
    with torch.no_grad():
        tokens = model.forward_features(pixels(films))
        theirs = model.forward_head(tokens, pre_logits=True).numpy()
    cls, of_patches = ours(model.state_dict(), films, size, heads=4)
    np.testing.assert_allclose(of_patches, tokens[:, -of_patches.shape[1] :].numpy(), atol=1e-4)
    np.testing.assert_allclose(cls, theirs, atol=1e-4)


@pytest.mark.parametrize("size", [32, 96])
def test_positions_of_timm_follow_another_size_as_timm_has_it(make_timm, size):
    model, films = make_timm("vit_base_patch16_224", img_size=64, dynamic_img_size=True), films_of(size)
    with torch.no_grad():
        theirs = model.forward_features(pixels(films))[:, 0].numpy()
    np.testing.assert_allclose(ours(model.state_dict(), films, size, heads=4)[0], theirs, atol=1e-4)


def test_other_towers_and_heads_are_skipped_by_name(make_timm):
    """MRM: a decoder and a BERT beside the ViT; MGCA: prefixes, projections and a report tower."""
    arrays = {
        name: value.numpy() for name, value in make_timm("vit_base_patch16_224", img_size=64).state_dict().items()
    }
    extra = ("decoder_blocks.0.norm1.weight", "bert_encoder.model.encoder.layer.0.output.dense.weight", "head.weight")
    alone = released.read(arrays, Reading(64), "x")
    beside = released.read(arrays | dict.fromkeys(extra, np.ones(1, np.float32)), Reading(64), "x")
    assert set(beside.skipped) == set(extra)
    others = {"text_encoder_q.model.embeddings.LayerNorm.weight": np.ones(1), "prototype_layer.weight": np.ones(1)}
    renamed = {f"img_encoder_q.model.{name}": value for name, value in arrays.items()}
    inside = released.read(others | renamed, Reading(64), "x")
    assert set(inside.skipped) == set(others)
    for vit in (beside, inside):
        jax.tree.map(np.testing.assert_array_equal, vit.params, alone.params)


@pytest.mark.parametrize(
    ("settings", "change", "words"),
    [
        ({"qk_norm": True}, {}, "block 0 of its ViT has attn.k_norm"),
        ({}, {"size": 60}, "patches of 16 pixels, which do not divide size=60"),
        ({}, {"pool": "attention"}, "pool=attention"),
        ({}, {"heads": 5}, "5 heads do not divide"),
        ({}, {"settings": {"hidden_act": "quick_gelu"}}, "'quick_gelu'"),
        ({"pre_norm": True}, {}, "norm_pre"),
        ({"global_pool": "avg"}, {}, "lacks norm.weight"),
    ],
    ids=str,
)
def test_what_would_be_another_function_is_refused_in_one_line(make_vit, settings, change, words):
    arrays = {name: value.numpy() for name, value in make_vit(**settings).state_dict().items()}
    with pytest.raises(UserError) as error:
        released.read(arrays, Reading(**{"size": 64} | change), "the file")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
