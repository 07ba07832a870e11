"""Which checkpoint a job takes: the newest, the best, that of a step; and what is said where there is none."""

import json
import logging
import pathlib
import shutil

import pytest

from data.errors import UserError
from unimedi_jax import writers
from unimedi_jax.inference import address, pretrained, start

METRIC = "val/xray/zeroshot/macro"


@pytest.fixture(scope="module")
def run(checkpoint_dir, tmp_path_factory):
    """A run with checkpoints of steps 1, 3, 5 and 7; the best validation of step 4 has no checkpoint left."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    shutil.copytree(checkpoint_dir, folder)
    for step in (3, 5, 7):
        shutil.copytree(folder / "checkpoints" / "1", folder / "checkpoints" / str(step))
    scores = {1: 0.5, 3: 0.7, 4: 0.9, 5: 0.7, 7: None}
    lines = [json.dumps({"step": step, METRIC: score}) for step, score in scores.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "val/x')
    return folder


@pytest.mark.parametrize(
    ("which", "step", "reason"),
    [("", 7, "the newest"), (":best", 5, "the best by xray/zeroshot/macro (0.700)"), (":3", 3, "as named")],
)
def test_the_checkpoint_that_is_named_is_taken_and_said(run, caplog, which, step, reason):
    caplog.set_level(logging.INFO, logger="unimedi_jax")
    trained = pretrained.load(f"{run}{which}")
    assert trained.step == step
    assert trained.path == run
    assert f"{run}: step {step} of {trained.config['steps']}, {reason}" in caplog.messages
    assert start.tokenizer(checkpoint=f"{run}{which}") == str(run / "tokenizer")


def test_a_folder_with_a_colon_in_its_name_is_itself(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine:best", "mine:12", "a:b"):
        (tmp_path / name).mkdir()
        assert address.parse(name) == address.Address(pathlib.Path(name))
    assert address.parse("a:b:12") == address.Address(pathlib.Path("a:b"), "12")
    shutil.copytree(run, tmp_path / "of: today")
    assert pretrained.load(tmp_path / "of: today").step == 7
    assert pretrained.load("of: today:3").step == 3


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint of step 4: it has those of 1, 3, 5, 7$"):
        pretrained.load(f"{run}:4")
    with pytest.raises(UserError, match="after the colon comes best or a step"):
        pretrained.load(f"{run}:bset")
    with pytest.raises(UserError, match=r"no run and no export at .*nowhere: "):
        pretrained.load(f"{tmp_path / 'nowhere'}:best")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "checkpoints" / "3" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"step 3 in .* cannot be used .*: name another \(1, 5, 7\)"):
        pretrained.load(f"{other}:3")
    (other / "metrics.jsonl").write_text(json.dumps({"step": 7, METRIC: None}) + "\n")
    with pytest.raises(UserError, match="none of the checkpoints that are left was validated by xray/zeroshot/macro"):
        pretrained.load(f"{other}:best")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / pretrained.FACTS).write_text("{}")
    with pytest.raises(UserError, match="is an export, which holds one checkpoint: name it without :best"):
        pretrained.load(f"{tmp_path / 'export'}:best")


def test_the_best_of_a_set_without_labels_is_that_of_retrieval(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    lines = [{"step": step, "val/xray/retrieval/i2t_r5": score} for step, score in ((1, 0.4), (3, 0.2))]
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert address.choose(address.parse(f"{other}:best")) == (1, "the best by xray/retrieval/i2t_r5 (0.400)")


def test_the_torn_last_line_of_a_killed_run_is_passed_over(run):
    assert [line["step"] for line in writers.lines(run)] == [1, 3, 4, 5, 7]
