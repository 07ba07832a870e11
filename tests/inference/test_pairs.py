"""Image encoders that were released with a report tower: both in one space, as the published code has it."""

import json

import jax
import numpy as np
import pytest
import safetensors.torch

from data.errors import UserError
from data.reports import tokenizer
from tests.inference.test_released_vits import randomised
from unimedi_jax.convert import bert
from unimedi_jax.inference import embed, pretrained
from unimedi_jax.models import towers

torch = pytest.importorskip("torch")
nn = torch.nn
GREY = np.random.default_rng(0).integers(0, 256, (2, 256, 256)).astype(np.uint8)
TEXTS = ["Large left pleural effusion.", "No pneumothorax."]


@pytest.fixture
def report_tower(words, make_bert):
    return make_bert(vocab_size=len(words), max_position_embeddings=120, num_attention_heads=1)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1).numpy()


def texts(words):
    ids, mask = tokenizer.encode(words, TEXTS, 112)
    return torch.from_numpy(ids).long(), torch.from_numpy(mask).long()


def global_embedding(width: int):
    """MGCA's GlobalEmbedding, with running statistics that are not those of a fresh one."""
    head = nn.Sequential(
        nn.Linear(32, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, width), nn.BatchNorm1d(width, affine=False)
    )
    for norm in (head[1], head[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return randomised(head)


def loaded(path: str) -> tuple[np.ndarray, np.ndarray]:
    """(images, reports) in the joint space, through the door that all jobs take."""
    model = embed.load(path, rows=2)
    return model.features("xray", GREY).z, model.embed_reports(TEXTS)


def test_mgca_as_its_training_saves_it(make_vit, report_tower, words, tmp_path):
    vit, image, report = make_vit(), global_embedding(16), global_embedding(16)
    state = {"prototype_layer.weight": torch.ones(5, 16)}
    for prefix, module in (
        ("img_encoder_q.model", vit),
        ("img_encoder_q.global_embed.head", image),
        ("text_encoder_q.model", report_tower),
        ("text_encoder_q.global_embed.head", report),
    ):
        state |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"emb_dim": 16}}, tmp_path / "mgca.ckpt")
    words.save_pretrained(tmp_path / "words")
    z, z_report = loaded(f"timm:{tmp_path}/mgca.ckpt:size=64:heads=4:crop=64:tokenizer={tmp_path}/words")
    films = (torch.from_numpy(GREY[:, 96:160, 96:160]).float()[:, None] / 255 - 0.5) / 0.5
    ids, mask = texts(words)
    with torch.no_grad():
        theirs = unit(image(vit.forward_features(films.expand(-1, 3, -1, -1))[:, 0]))
        words_of = unit(report(report_tower(ids, mask).last_hidden_state[:, 0]))
    np.testing.assert_allclose(z, theirs, atol=1e-4)
    np.testing.assert_allclose(z_report, words_of, atol=1e-4)
    alone = pretrained.load(f"timm:{tmp_path}/mgca.ckpt:size=64:heads=4")
    assert alone.tokenizer is None, "no tokenizer is in the file"
    with pytest.raises(UserError, match="reads no reports"):
        alone.check_reports()


def test_biomedclip_as_open_clip_saves_it(make_vit, report_tower, words, tmp_path):
    vit, project, hidden, out = make_vit(), torch.randn(12, 32), torch.randn(20, 32), torch.randn(12, 20)
    state = {f"visual.trunk.{name}": value for name, value in vit.state_dict().items()}
    state |= {f"text.transformer.{name}": value for name, value in report_tower.state_dict().items()}
    state |= {"visual.head.proj.weight": project, "text.proj.0.weight": hidden, "text.proj.2.weight": out}
    torch.save(state | {"logit_scale": torch.ones(())}, tmp_path / "open_clip_pytorch_model.bin")
    words.save_pretrained(tmp_path)
    clip = {"model_cfg": {}, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(clip))
    z, z_report = loaded(f"hf:{tmp_path}:heads=4:crop=64")
    mean, deviation = (torch.tensor(clip["preprocess_cfg"][name])[None, :, None, None] for name in ("mean", "std"))
    films = (torch.from_numpy(GREY[:, 96:160, 96:160]).float()[:, None] / 255 - mean) / deviation
    ids, mask = texts(words)
    with torch.no_grad():
        theirs = unit(vit.forward_features(films)[:, 0] @ project.T)
        of_text = report_tower(ids, mask).last_hidden_state[:, 0]
        words_of = unit(torch.nn.functional.gelu(of_text @ hidden.T) @ out.T)
    np.testing.assert_allclose(z, theirs, atol=1e-4)
    np.testing.assert_allclose(z_report, words_of, atol=1e-4)


def test_cxr_bert_is_a_bert_whose_projection_head_is_skipped_by_name(tiny, tiny_variables, make_bert, tmp_path):
    report = make_bert()
    report.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    renamed = {f"bert.{name}": value for name, value in state.items()}
    extra = ("cls_projection_head.dense_to_hidden.weight", "cls.predictions.bias")
    safetensors.torch.save_file(renamed | {name: torch.ones(2) for name in extra}, tmp_path / "model.safetensors")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_type": "cxr-bert", "projection_size": 128}))
    read = bert.read(str(tmp_path), tiny)
    assert set(extra) <= set(read.skipped)
    plain = {f"report.{name}" for name in state if not name.startswith("pooler")}
    assert set(read.state) == plain


def test_a_tokenizer_of_another_vocabulary_is_refused(make_vit, make_bert, words, tmp_path):
    state = {f"visual.trunk.{name}": value for name, value in make_vit().state_dict().items()}
    state |= {f"text.transformer.{name}": value for name, value in make_bert(vocab_size=33).state_dict().items()}
    state |= {"visual.head.proj.weight": torch.ones(12, 32), "text.proj.weight": torch.ones(12, 32)}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    words.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"has 33 words, the tokenizer {len(words)}"):
        pretrained.load(f"hf:{tmp_path}:heads=4")


def test_an_untrained_twin_has_all_that_the_pair_has(make_vit, report_tower, words, tmp_path):
    state = {f"visual.trunk.{name}": value for name, value in make_vit().state_dict().items()}
    state |= {f"text.transformer.{name}": value for name, value in report_tower.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.ones(12, 32), "text.proj.weight": torch.ones(12, 32)}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    words.save_pretrained(tmp_path)
    trained = pretrained.load(f"hf:{tmp_path}:heads=4")
    shapes = jax.eval_shape(lambda: towers.init(trained.model, jax.random.key(0)))
    assert jax.tree.structure(shapes["params"]) == jax.tree.structure(trained.variables["params"])
