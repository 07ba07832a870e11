"""A planted set, run and export, opened by every job that takes one: nothing of theirs runs, each ends in one line."""

import pathlib
import shutil
import sys

import pytest
from ml_collections import ConfigDict

from configs import bench, detect, embed, evaluate, export, inspect, pretrain, probe, retrieve, segment
from configs import predict as predicting
from data.checks import audit as auditing
from data.errors import UserError
from tests.data.test_record_files import as_class, edit
from tests.inference.test_hostile import AUTO, PLANTED
from unimedi_jax import cli

OF_A_SET = {"probe": probe, "retrieve": retrieve, "evaluate": evaluate, "segment": segment, "detect": detect}
OF_A_FOLDER = {"embed": embed, "export": export, "predict": predicting, "inspect": inspect}


@pytest.fixture
def mark(tmp_path, monkeypatch) -> pathlib.Path:
    """What a planted module would leave."""
    sys.modules.pop(PLANTED, None)
    (tmp_path / f"{PLANTED}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


@pytest.fixture
def planted_set(records_dir, tmp_path) -> pathlib.Path:
    """A copy of the phantom that names a module of its own as the class of a feature."""
    shutil.copytree(records_dir / "phantom", tmp_path / "records" / "phantom")

    def named(content):
        as_class(content)
        for field in content["featuresDict"]["features"].values():
            field["pythonClassName"] = field["pythonClassName"].replace("planted_by_a_set", PLANTED)

    for modality in ("xray", "ct"):
        edit(tmp_path / "records" / "phantom" / modality / "1.0.0" / "features.json", named)
    return tmp_path / "records"


def refused(config: ConfigDict, workdir: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        cli._module(config.job).run(config, workdir)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", OF_A_SET)
def test_no_evaluation_runs_what_a_set_names(planted_set, mark, exported, tmp_path, name):
    config = OF_A_SET[name].get_config("")
    config.update(checkpoint=str(exported), data="phantom", data_dir=str(planted_set))
    refused(config, tmp_path / "run")
    assert not mark.exists()


def test_no_training_and_no_bench_runs_what_a_set_names(planted_set, mark, tmp_path):
    config = pretrain.get_config("demo,unimedi")
    config.update(data_dir=str(planted_set), compilations="")
    assert "described otherwise" in refused(config, tmp_path / "run")
    config = bench.get_config("input")
    config.update(data="phantom", data_dir=str(planted_set))
    assert "described otherwise" in refused(config, tmp_path / "bench")
    assert not mark.exists()


def test_no_audit_runs_what_a_set_names(planted_set, mark, tmp_path):
    (tmp_path / "rows.csv").write_text("path,modality,report,patient\nx.png,xray,No nodule.,Zaphod-4711\n")
    config = ConfigDict({"path": str(planted_set), "source": str(tmp_path / "rows.csv"), "reports": False})
    with pytest.raises(UserError, match="described otherwise"):
        auditing.run(config)
    assert not mark.exists()


@pytest.mark.parametrize("name", OF_A_FOLDER)
@pytest.mark.parametrize("kind", ["run", "export"])
def test_no_job_runs_what_a_run_or_an_export_brings(mark, exported, workdir, tmp_path, name, kind):
    place = shutil.copytree(workdir if kind == "run" else exported, tmp_path / "theirs")
    words = place / ("tokenizer" if kind == "run" else "report")
    shutil.copy(tmp_path / f"{PLANTED}.py", words)
    for text in ("unimedi_torch.py", "sitecustomize.py", "conftest.py"):
        shutil.copy(tmp_path / f"{PLANTED}.py", place / text)
    edit(words / "tokenizer_config.json", lambda content: content.update(AUTO, tokenizer_class="Tokenizer"))
    if kind == "export":
        edit(
            place / "unimedi.json", lambda content: content.update(architecture={"a": f"{PLANTED}.Tokenizer"}, step="x")
        )
    else:
        for path in (place / "checkpoints" / "7").rglob("_*METADATA"):
            path.write_text(path.read_text().replace("jax.Array", f"{PLANTED}.Tokenizer"), encoding="utf-8")
        (place / "checkpoints" / "7" / "manifest.json").write_text("{}")
    config = OF_A_FOLDER[name].get_config()
    key = "path" if name == "inspect" else "checkpoint"
    config[key] = str(place)
    if name != "inspect":
        config.out = str(tmp_path / ("out" if name == "export" else "out.csv" if name == "predict" else "out.npz"))
    if name in ("embed", "predict"):
        (tmp_path / "x.png").write_bytes(b"\x89PNG")
        config.source = str(tmp_path / "x.png")
    if name == "inspect" and kind == "export":
        cli._module("inspect").run(config, None)  # shows what it can
    else:
        refused(config, tmp_path / "run")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_every_reader_of_sets_goes_through_one_door():
    root = pathlib.Path(__file__).parents[2]
    for path in (*root.glob("data/**/*.py"), *root.glob("unimedi_jax/**/*.py")):
        code = path.read_text(encoding="utf-8")
        assert "builder_from" not in code, path
        assert "tfds.builder(" not in code, path
        assert "trust_remote_code=True" not in code, path
