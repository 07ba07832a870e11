"""An export is a repository of the hub: its header, what goes up, what is refused, and who loads it by its id."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pydicom
import pytest
import safetensors.numpy

import unimedi_jax
from data.errors import UserError
from data.readers import xrays
from tests import dicoms
from tests import hub as loopback
from tests.conftest import ROOT
from unimedi_jax.config.jobs import ExportConfig
from unimedi_jax.convert import checksums
from unimedi_jax.export import card, export, push, repository

PHANTOM = {"source": {"generator": "phantom 1.0"}}
# As in tests/inference/conftest.py: what timm imports of torchvision, where that is not installed.
LOADS = """
import importlib.util, sys
from unittest import mock
import transformers
from transformers import AutoModel, AutoTokenizer
if importlib.util.find_spec("torchvision") is None:
    for part in ("", ".datasets", ".models", ".ops", ".ops.misc", ".transforms", ".transforms.functional"):
        sys.modules["torchvision" + part] = mock.MagicMock()
import timm
import safetensors.torch
vit = timm.create_model("hf-hub:org/name", pretrained=True)
bert = AutoModel.from_pretrained("org/name", subfolder="report", add_pooling_layer=False)
safetensors.torch.save_file(vit.state_dict(), "vit.safetensors")
safetensors.torch.save_file(bert.state_dict(), "bert.safetensors")
print(AutoTokenizer.from_pretrained("org/name", subfolder="report")("No effusion.")["input_ids"])
"""


@pytest.fixture(scope="module")
def light(exported, tmp_path_factory) -> pathlib.Path:
    """The export without its ONNX files, and a file of somebody's beside it."""
    folder = tmp_path_factory.mktemp("light") / "export"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("onnx", "vision_2d_rgb*"))
    checksums.write(folder)
    (folder / "patients.csv").write_text("not for others")
    return folder


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub for this process, with the token that may write."""
    with loopback.serve() as hub:
        constants = huggingface_hub.constants
        for name, value in {"ENDPOINT": hub.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def send(folder: pathlib.Path, **changes: object) -> None:
    push.push(folder, "org/name", **{"source": "none", "public": False, "dry_run": False} | changes)


def test_the_header_is_one_that_the_hub_reads(trained, exported):
    page = huggingface_hub.ModelCard.load(exported / "README.md")
    assert page.data.license == "unknown", "what learnt from somebody's records is not ours to license"
    assert page.data.library_name == "unimedi_jax"
    assert page.data.eval_results is None
    metrics = [{"step": 7, "test/xray/zeroshot/macro10": 0.75, "test/ct/slices/any/hit_rate": float("nan")}]
    ours = dataclasses.replace(trained, contracts={"phantom": PHANTOM})
    page = huggingface_hub.ModelCard(repository.header(ours, metrics, licence="") + "# Title\n")
    assert page.data.license == "apache-2.0"
    (result,) = page.data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == (
        "zero-shot-image-classification",
        "roc_auc",
        0.75,
    )
    assert result.dataset_name == "phantom, X-ray, test patients"
    both = {"phantom": PHANTOM, "mine": {}}
    assert repository.default_licence(both) == repository.default_licence({}) == "unknown"
    assert "license: mit" in repository.header(ours, [], licence="mit")


def test_a_card_has_the_results_of_its_own_weights_alone(trained, tmp_path, monkeypatch):
    now = {"step": 7, "test/xray/zeroshot/macro10": 0.75}
    before, later = {"step": 5, "loss": 1.0}, {"step": 9, "test/xray/zeroshot/macro10": 0.9}
    assert card.own_results(trained, [before, now]) == [before, now]
    assert card.own_results(trained, [before]) == []
    assert card.own_results(trained, [before, now, later]) == []
    assert card.own_results(dataclasses.replace(trained, network="teacher"), [before, now]) == []
    (tmp_path / "metrics.jsonl").write_text(json.dumps(now) + "\n")
    monkeypatch.setattr(export, "_weights", lambda *_, **__: None)
    unchecked = {"checked": False, "why": "a test", "how": "not at all"}
    monkeypatch.setattr(export.parity, "check", lambda *_, **__: unchecked)
    for name, changes, adapted in (
        ("own", {}, False),
        ("adapted", {}, True),
        ("earlier", {"step": 5}, False),
        ("teacher", {"network": "teacher"}, False),
    ):
        one = dataclasses.replace(trained, path=tmp_path, **changes)
        export.write(one, tmp_path / name, adapted=adapted)
        text = (tmp_path / name / "README.md").read_text()
        assert ("0.75" in text) == (name == "own")
        assert ("These weights had not been evaluated on test patients" in text) == (name != "own")


def test_the_example_is_an_xray_and_its_report_stands_in_the_card(exported):
    image = xrays.read_xray(exported / "example.png")
    assert image.shape == (256, 256)
    assert image.std() > 20
    quoted = [line for line in (exported / "README.md").read_text().splitlines() if line.startswith("> ")]
    assert "pneumothorax" in "\n".join(quoted).lower()


def test_the_list_names_every_file(exported):
    subprocess.run(["sha256sum", "--check", "--strict", checksums.FILE], cwd=exported, check=True, capture_output=True)
    names = {line.partition("  ")[2] for line in (exported / checksums.FILE).read_text().splitlines()}
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert names == files - {checksums.FILE}
    assert {"config.json", "model.safetensors", "report/config.json", "contract.json", "example.png"} <= names


def test_a_dry_run_lists_and_sends_nothing(light, server, capsys):
    settings = ExportConfig(checkpoint=str(light), push="org/name", source="none", dry_run=True)
    export.run(settings)
    printed = capsys.readouterr().out
    assert "would upload to org/name, private" in printed
    assert re.search(r"left here  patients\.csv: not in SHA256SUMS", printed)
    assert re.search(r"[\d,]{6,}  unimedi\.safetensors\n", printed)
    assert not server.requests


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the client and its own HTTP library
def test_it_goes_up_private_and_whole(light, server, capsys):
    send(light)
    assert "org/name" in server.private
    files = {path.relative_to(light).as_posix(): path.read_bytes() for path in light.rglob("*") if path.is_file()}
    del files["patients.csv"]
    assert server.models["org/name"] == files
    assert server.large, "weights go the way of large files"
    assert f"uploaded: {server.address}/org/name" in capsys.readouterr().out
    send(light)  # once more changes nothing
    server.private.clear()
    server.models["org/name"] = {}
    with pytest.raises(UserError, match=r"org/name is public: nothing was uploaded; .*config.public=True"):
        send(light)
    assert not server.models["org/name"]
    send(light, public=True)
    assert server.models["org/name"] == files


def test_what_must_not_go_up_does_not(light, server, tmp_path, monkeypatch):
    csv = tmp_path / "rows.csv"
    csv.write_text("path,modality,report,patient\na.png,xray,A nodule.,Zacharias Quillfeather\n")
    with pytest.raises(UserError, match=r"config.source is empty: name the CSV"):
        send(light, source="")
    folder = shutil.copytree(light, tmp_path / "export")
    with (folder / "README.md").open("a") as card:
        card.write("\nThanks to Zacharias Quillfeather.\n")
    with pytest.raises(UserError, match=r"README.md is damaged or was changed"):
        send(folder, source=str(csv))
    checksums.write(folder)
    with pytest.raises(UserError, match=r"nothing was uploaded: the patient of row 1 is in README.md") as error:
        send(folder, source=str(csv), dry_run=True)
    assert "Quillfeather" not in str(error.value)
    (folder / "contract.json").unlink()
    with pytest.raises(UserError, match=r"lacks contract.json"):
        send(folder)
    assert not server.requests
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match=r"nothing was published as org/name: .*hf auth login"):
        send(light)
    send(light, source=str(csv), dry_run=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(push="name"), "config.push=name is not a name on the hub"),
        (dict(push="org/name@main"), "is not a name on the hub"),
        (dict(push="org/name", source="nowhere.csv"), "config.source nowhere.csv does not exist"),
        (dict(push="org/name"), "of config.push an export alone"),
        (dict(), "are needed"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_written(settings, words):
    with pytest.raises(UserError, match=words):
        export.run(ExportConfig(checkpoint="runs/mine", **settings))


def test_timm_and_transformers_load_their_parts_by_its_id(trained, light, tmp_path):
    with loopback.serve() as server:
        server.put("org/name", light)
        environment = os.environ | server.environment(tmp_path / "cache")
        command = [sys.executable, "-c", LOADS]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for ours, theirs in (("vision_2d.safetensors", "vit"), ("report/model.safetensors", "bert")):
        a, b = (safetensors.numpy.load_file(path) for path in (light / ours, tmp_path / f"{theirs}.safetensors"))
        b.pop("embeddings.position_ids", None)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert json.loads(done.stdout) == trained.tokenizer("No effusion.")["input_ids"]


def test_the_readmes_own_lines_load_it_from_the_hub_in_another_folder(installed, exported, light, tmp_path):
    """The installed package, another working directory, a DICOM film, and a hub."""
    (tmp_path / "xrays").mkdir()
    image = xrays.read_xray(light / "example.png").astype(np.uint16)
    film = dicoms.dataset(image, Modality="DX", SOPClassUID=pydicom.uid.DigitalXRayImageStorageForPresentation)
    film.save_as(tmp_path / "xrays" / "film.dcm", enforce_file_format=True)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in re.search(r"( {4}import unimedi_jax\n(?: {4}.+\n)+)", text)[1].splitlines()]
    code = "\n".join([*lines, "print(cosines.tolist())"]).replace("runs/pretrain-demo", "org/name")
    assert code.count('load("org/name")') == 1
    with loopback.serve() as server:
        server.put("org/name", light)
        environment = os.environ | server.environment(tmp_path / "cache") | {"PYTHONPATH": str(installed)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        fetched = {path.rpartition("main/")[2] for method, path, _ in server.requests if method == "GET"}
    assert done.returncode == 0, done.stderr
    assert not [path for path in fetched if path.endswith((".py", "patients.csv", "vision_2d.safetensors"))]
    model = unimedi_jax.load(exported, rows=1)
    embedded = model.embed(tmp_path / "xrays")
    ours = embedded.z @ model.embed_reports(["There is a pleural effusion."]).T
    np.testing.assert_allclose(json.loads(done.stdout), ours, atol=1e-5)
