"""Exports load strictly into timm, transformers and plain PyTorch, compute the same, and come back bit by bit."""

import dataclasses
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.torch
from jax import numpy as jnp

from data import members
from data.errors import UserError
from data.readers import volumes, xrays
from unimedi_jax import objectives, patches, trees
from unimedi_jax.config.jobs import ExportConfig
from unimedi_jax.export import export, parity
from unimedi_jax.inference import preprocess, pretrained, start
from unimedi_jax.objectives import base
from unimedi_jax.train import saved_config

torch = pytest.importorskip("torch")
REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"


def same_bits(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return trees.names(a) == trees.names(b) and all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Two films as records: real ones where they are at hand."""
    files = sorted((REAL / "real_cxr" / "images").glob("*"))[:2]
    return np.stack([xrays.read_xray(file) for file in files]) if files else parity.fixed_inputs()[0]


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """Two CTs as records."""
    file = REAL / "real_ct" / "LIDC-IDRI-0001" / "ct.nii.gz"
    drawn = parity.fixed_inputs()[1]
    return np.stack([volumes.read_volume(file)[0], drawn[0]]) if file.exists() else drawn


def test_timm_loads_the_vision_tower_strictly_and_sees_the_same(trained, exported, film, timm):
    a = json.loads((exported / "unimedi.json").read_text())["architecture"]
    size = a["vision"]
    tokens = preprocess.film_tokens(trained, film)
    pixels = torch.from_numpy(
        patches.unpatchify(tokens, tuple(a["image_grid"]), tuple(a["image_patch"])) / np.float32(127.5) - 1
    )
    ours = trained.model.apply(trained.variables, jnp.asarray(tokens), method="xray_features").cls
    for file, channels in (("vision_2d.safetensors", 1), ("vision_2d_rgb.safetensors", 3)):
        vit = timm.models.vision_transformer.VisionTransformer(
            img_size=a["image_size"],
            patch_size=16,
            in_chans=channels,
            num_classes=0,
            embed_dim=size["width"],
            depth=size["depth"],
            num_heads=size["heads"],
            mlp_ratio=size["mlp_width"] / size["width"],
        ).eval()
        vit.load_state_dict(safetensors.torch.load_file(exported / file), strict=True)
        with torch.inference_mode():
            theirs = vit.forward_features(pixels[:, None].expand(-1, channels, -1, -1))[:, 0]
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-4)
    by_name = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(by_name(pixels[:, None]).numpy(), ours, atol=1e-4)
    assert [*by_name.pretrained_cfg["mean"], *by_name.pretrained_cfg["std"]] == [0.5, 0.5]


def test_transformers_loads_the_report_tower_and_reads_the_same(trained, exported):
    from transformers import AutoModel, AutoTokenizer

    bert, info = AutoModel.from_pretrained(exported / "report", add_pooling_layer=False, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    reader = AutoTokenizer.from_pretrained(exported / "report")
    batch = reader(["Left effusion.", "No nodule in the left lobe."], padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = bert.eval()(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    weight = batch["attention_mask"][..., None]
    theirs = ((hidden * weight).sum(1) / weight.sum(1)).numpy()
    ids, mask = (jnp.asarray(batch[name].numpy()) for name in ("input_ids", "attention_mask"))
    ours = trained.model.apply(trained.variables, ids, mask.astype(bool), method=lambda m, x, y: m.report(x, y).vector)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_pytorch_alone_embeds_real_pictures_as_jax_does(trained, exported, film, scan, tmp_path):
    texts = ("Nodule in the left lobe.", "No effusion.")
    ours = parity.jax_outputs(trained, film, scan, texts)
    np.savez(tmp_path / "in.npz", film=film, scan=scan)
    code = (
        "import sys, numpy, torch, unimedi_torch\n"
        "given = numpy.load(sys.argv[1])\n"
        "film, scan = (torch.from_numpy(given[name]) for name in ('film', 'scan'))\n"
        "model = unimedi_torch.load('.')\n"
        "with torch.inference_mode():\n"
        f"    z = model.reports({list(texts)!r})\n"
        "    numpy.savez(sys.argv[2], xray=model.xrays(film).z, ct=model.cts(scan).z, report=z)\n"
        "assert not {'jax', 'unimedi_jax', 'transformers'} & set(sys.modules)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(arguments, cwd=exported, check=True)
    theirs = np.load(tmp_path / "out.npz")
    for name in ("xray", "ct", "report"):
        np.testing.assert_allclose(theirs[name], ours[f"{name}/z"], atol=1e-4)


def test_parity_tells_every_layer_and_onnx(exported):
    agreement = json.loads((exported / "parity.json").read_text())
    assert agreement["checked"]
    names = set(agreement["max_abs_difference"])
    layers = {f"{path}/layer {i}" for path in ("xray", "ct", "ct_volume") for i in range(4)}
    assert layers | {"report/layer 0", "report/layer 1", "xray/z", "ct/z", "ct/layers", "report/z"} <= names
    assert {"onnx/xray/z", "onnx/ct/z", "onnx/ct/layers", "onnx/report/z"} <= names
    assert 0 < max(agreement["max_abs_difference"].values()) <= agreement["tolerance"] == 1e-4
    assert sorted(p.name for p in (exported / "onnx").iterdir()) == ["ct.onnx", "report.onnx", "xray.onnx"]


def test_cts_of_a_run_without_slices_are_their_volume_in_pytorch_too(trained, tmp_path):
    run = dataclasses.replace(trained, config={**trained.config, "evals": {"ct_slices": False}})
    export.write(run, tmp_path / "export")
    agreement = json.loads((tmp_path / "export" / "parity.json").read_text())
    assert agreement["checked"]
    assert not [name for name in agreement["max_abs_difference"] if name.startswith("ct/layer ")]
    films, volumes = parity.fixed_inputs()
    ours = parity.torch_outputs(tmp_path / "export", films, volumes, parity.REPORTS)
    tokens = preprocess.volume_tokens(trained, volumes)
    alone = trained.embedder(rows=2, ct_slices=False).ct(trained.variables, tokens)
    np.testing.assert_allclose(ours["ct/z"], alone.z, atol=1e-4)
    assert not pretrained.load(tmp_path / "export").ct_slices
    assert "volume alone" in json.loads((tmp_path / "export" / "contract.json").read_text())["input"]["slices"]


@pytest.mark.parametrize(
    "settings",
    [
        # Slices on another grid than the films', both embeddings, all slices of a layer, other heads.
        dict(
            slice_size=64,
            type_embedding=True,
            lateral_type=True,
            slice_embedding=True,
            slices_per_layer=4,
            cls_key=False,
            projection="linear",
            report_pooling="cls",
            norm_by_modality=False,
            tokenizer="nonlinear",
            subpatch_hidden=8,
            registers=2,
            score_layers=3,
            sink_norm=1.5,
            slice_source=(128, 128),
            frontal_view=True,
            slice_baseline=0.9,
        ),
        dict(slices=0, norm_by_modality=False, volume_patch=(2, 32, 32), scores="rollout", score_layers=2),
    ],
    ids=["all other switches", "volume alone"],
)
def test_every_switch_of_the_model_reaches_pytorch(make_trained, tmp_path, settings):
    trained = make_trained(**settings)
    export.write(trained, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "parity.json").read_text())["checked"]
    assert same_bits(pretrained.load(tmp_path / "export").variables, trained.variables)


@pytest.mark.parametrize("type_embedding", [False, True])
def test_registers_and_type_embeddings_are_timms(make_trained, film, tmp_path, timm, type_embedding):
    trained = make_trained(registers=2, slices=0, type_embedding=type_embedding)
    export.write(trained, tmp_path / "export")
    code = (tmp_path / "export" / "README.md").read_text().split("vit = ")[1].split(" #")[0]
    vit = eval(code.replace("local-dir:.", f"local-dir:{tmp_path / 'export'}"), {"timm": timm}).eval()
    assert vit.num_reg_tokens == 2
    tokens = preprocess.film_tokens(trained, film)
    pixels = patches.unpatchify(tokens, trained.model.vision.image_grid, (16, 16)) / np.float32(127.5) - 1
    with torch.inference_mode():
        theirs = vit.forward_features(torch.from_numpy(pixels)[:, None])[:, 0].numpy()
    ours = trained.model.apply(trained.variables, jnp.asarray(tokens), method="xray_features")
    np.testing.assert_allclose(theirs, ours.cls, atol=1e-4)
    assert ours.scores.shape == (2, 49)
    assert same_bits(pretrained.load(tmp_path / "export").variables, trained.variables)


def test_a_nonlinear_tokenizer_has_no_file_for_timm_and_says_so(make_trained, tmp_path):
    trained = make_trained(tokenizer="nonlinear", subpatch_hidden=8)
    with pytest.raises(UserError, match=r"config.rgb writes a ViT for timm.*\(config.model.tokenizer\)"):
        export.write(trained, tmp_path / "export", rgb=True)
    assert not list(tmp_path.iterdir())
    export.write(trained, tmp_path / "export")
    assert not list((tmp_path / "export").glob("vision_2d*"))
    text = (tmp_path / "export" / "README.md").read_text()
    assert "timm: no file." in text
    assert "vision_2d" not in text
    fresh = jax.tree.map(jnp.zeros_like, trained.variables)
    begun, (summary,) = start.fill(fresh, trained.model, trained.contracts, checkpoint=str(tmp_path / "export"))
    assert same_bits(begun, trained.variables)
    assert not summary.new


@pytest.mark.parametrize("name", ["vision.blocks.2.mlp.fc1.bias", "report.encoder.layer.1.output.LayerNorm.bias"])
def test_one_wrong_number_is_found(trained, exported, tmp_path, name):
    folder = tmp_path / "wrong"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("onnx"))
    state = safetensors.torch.load_file(folder / "unimedi.safetensors")
    state[name][3] += 0.01
    safetensors.torch.save_file(state, folder / "unimedi.safetensors")
    with pytest.raises(UserError, match=r"apart at .*, 0.*is allowed; nothing was exported"):
        parity.check(trained, folder)


def test_a_failed_check_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match="nothing was exported"):
        export.write(trained, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_without_torch_it_says_that_it_did_not_check(trained, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    export.write(trained, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "parity.json").read_text())["checked"] is False
    card_text = (tmp_path / "export" / "README.md").read_text()
    assert "not compared with PyTorch" in card_text
    assert "To check it: pip install torch, then python main.py" in card_text
    monkeypatch.setattr(pretrained, "load", lambda *_: trained)
    out = str(tmp_path / "again")
    export.run(ExportConfig(checkpoint="runs/mine", out=out))
    printed = capsys.readouterr().out
    assert "warning: not compared with PyTorch, as torch is not installed. To check it: pip install torch" in printed
    assert f"--config.checkpoint={out} --config.out={out}-checked" in printed
    with pytest.raises(UserError, match=r"config.onnx=True needs torch"):
        export.write(trained, tmp_path / "other", onnx=True)


def test_out_and_in_again_changes_no_bit(trained, exported, tmp_path):
    back = pretrained.load(exported)
    assert same_bits(back.variables, trained.variables)
    assert back.config == saved_config.shareable(trained.config)
    assert (back.contracts, back.step) == (trained.contracts, trained.step)
    assert members.read(exported) is None, "whoever trained it did not list them"
    learnt = {"phantom": {"salt": "0" * 8, "train": {"patients": ["1" * 16], "pictures": ["2" * 16]}}}
    members.write(tmp_path, learnt)
    export.write(dataclasses.replace(back, path=tmp_path), tmp_path / "again")
    assert members.read(tmp_path / "again") == learnt
    for name in ("unimedi.safetensors", "vision_2d.safetensors", "report/model.safetensors", "unimedi.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()
    fresh = jax.jit(lambda: base.init_variables(trained.model, objectives.make(), jax.random.key(1)))()
    begun, (summary,) = start.fill(fresh, trained.model, trained.contracts, checkpoint=str(exported))
    assert same_bits(begun, trained.variables)
    assert not summary.new
    parts, _ = start.fill(
        fresh, trained.model, {}, vision=str(exported / "vision_2d.safetensors"), report=str(exported / "report")
    )
    for part in ("report", "vision"):
        for name, value in trained.variables["params"][part].items():
            if name not in ("patch_3d", "position_3d", "mask_token"):
                assert same_bits(parts["params"][part][name], value), name


def test_student_and_teacher_of_a_run(trained, workdir):
    student, teacher = (pretrained.load(workdir, network) for network in ("student", "teacher"))
    assert same_bits(student.variables, trained.variables)
    assert same_bits(teacher.variables["params"]["report"], student.variables["params"]["report"])
    assert not same_bits(teacher.variables["params"]["vision"], student.variables["params"]["vision"])
    assert student.step == 7


def test_bad_checkpoints_are_one_line(trained, exported, workdir, tmp_path):
    def copy(source: pathlib.Path, name: str) -> pathlib.Path:
        return shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("onnx"))

    changed = copy(exported, "changed")
    (changed / "report" / "tokenizer.json").write_text("{}")
    short, torn, odd, future = (copy(exported, name) for name in ("short", "torn", "odd", "future"))
    for folder in (short, torn, odd, future):
        (folder / "SHA256SUMS").unlink()  # as of an export of an earlier version
    weights = short / "unimedi.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (torn / "unimedi.json").write_text('{"format": 1')
    shutil.copy(odd / "vision_2d.safetensors", odd / "unimedi.safetensors")
    facts = json.loads((future / "unimedi.json").read_text())
    (future / "unimedi.json").write_text(json.dumps(facts | {"format": 2}))
    run = copy(workdir, "run")
    (run / "checkpoints" / "7" / "state" / "_METADATA").write_text("{")
    (tmp_path / "empty").mkdir()
    cases = {
        changed: "tokenizer.json is damaged or was changed",
        short: "cut short",
        torn: "damaged",
        odd: "does not fit",
        future: "format 2",
        run: "can be used",
        tmp_path / "empty": "no checkpoint",
        tmp_path / "nowhere": "no run and no export",
    }
    for place, words in cases.items():
        with pytest.raises(UserError) as error:
            pretrained.load(place)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(UserError, match="export of the student"):
        pretrained.load(exported, "teacher")
    with pytest.raises(UserError, match="exists: choose another"):
        export.write(trained, exported)


def test_a_network_of_another_size_cannot_start_this_run(trained, exported, tiny, tiny_variables):
    with pytest.raises(UserError) as error:
        start.fill(tiny_variables, tiny, {}, checkpoint=str(exported))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="brings vision and report weights of its own"):
        start.fill(tiny_variables, tiny, {}, checkpoint=str(exported), vision="x")


def test_a_run_on_records_of_other_rules_does_not_start_from_it(tiny_variables, tiny, exported, trained):
    others = {"ours": {**trained.contracts["mine"], "format": 0}}
    with pytest.raises(UserError, match=r"the set ours was preprocessed by other rules.*format was"):
        start.fill(tiny_variables, tiny, others, checkpoint=str(exported))


def test_a_run_of_another_objective_is_exported_and_starts_others(trained, exported, random_tree, tmp_path):
    """Towers and projections travel; heads that the other side does not train stay behind, and are told."""
    settings = dict(mask_ratio=0.75, norm_pix=True, decoder_width=16, decoder_depth=1, decoder_heads=2)
    goal = objectives.make("mae", **settings)
    model = trained.model.clone(head=goal.heads(trained.model))
    fresh = random_tree(jax.eval_shape(lambda: base.init_variables(model, goal, jax.random.key(0))), 0.1)
    filled, (summary,) = start.fill(fresh, model, {}, checkpoint=str(exported))
    assert same_bits(filled["params"]["vision"], trained.variables["params"]["vision"])
    assert same_bits(filled["params"]["head_decoder"], fresh["params"]["head_decoder"])
    assert summary.skipped
    assert all(name.startswith(("head_cls.", "head_patch.")) for name in summary.skipped)

    config = trained.config | {"objective": {"name": "mae", **settings}}
    own = jax.device_put({k: v for k, v in filled["params"].items() if k != "head_decoder"})
    other = dataclasses.replace(
        trained,
        model=pretrained.build(config, len(trained.tokenizer)),
        config=config,
        variables={"params": own, "batch_stats": trained.variables["batch_stats"]},
    )
    assert not other.model.head
    export.write(other, tmp_path / "mae")
    again = pretrained.load(tmp_path / "mae")
    assert same_bits(again.variables, other.variables)
    begun, (summary,) = start.fill(trained.variables, trained.model, {}, checkpoint=str(tmp_path / "mae"))
    assert summary.new
    assert all(name.startswith("head_") for name in summary.new)
    assert same_bits(begun["params"]["head_cls"], trained.variables["params"]["head_cls"])
