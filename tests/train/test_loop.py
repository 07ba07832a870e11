"""The whole way: records to checkpoint, metrics and page, and on from where it stopped."""

import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from orbax import checkpoint as ocp

from data.errors import UserError
from tests.faults import config as toy
from unimedi_jax import checkpoint_reading, trackers, writers
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.inference import features
from unimedi_jax.report import tables
from unimedi_jax.train import job as jobs
from unimedi_jax.train import loop, loss_monitor


def arrays(workdir: pathlib.Path) -> list[np.ndarray]:
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        step = manager.latest_step()
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    key = jax.dtypes.prng_key
    return [
        np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, key) else leaf)
        for leaf in jax.tree.leaves(state["state"])
    ]


def lines(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what differs from run to run: clocks."""
    return [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("speed/")} for line in writers.read(workdir)
    ]


class Recorder:
    """A tracker that remembers."""

    name = "recorder"

    def __init__(self) -> None:
        self.lines, self.pages, self.ends = [], [], []

    def scalars(self, step, values):
        self.lines.append((step, dict(values)))

    def page(self, path):
        self.pages.append(path.read_text())

    def close(self, *, whole):
        self.ends.append(whole)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def undisturbed(records_dir, tmp_path_factory, recorder):
    """A finished run, its workdir and config."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    config = toy.short(records_dir)
    config.profile = "2:2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers, "start", lambda *_: [recorder])
        loop.run(config, workdir)
    return workdir, config


def test_run_folder_has_what_the_contract_says(undisturbed):
    workdir, config = undisturbed
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["steps"] == config.steps
    assert saved["machine"]["device"] == "cpu"
    assert (workdir / "tokenizer" / "tokenizer.json").exists()
    assert (workdir / "report" / "index.html").exists()
    assert list((workdir / "tensorboard").iterdir())
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == [1, 2, 3]
    meta = checkpoint_reading.meta(workdir)
    assert meta["contracts"]["phantom"]["labels"]
    assert meta["versions"]["jax"] == jax.__version__


def test_a_tracker_has_every_number_of_the_metrics_and_the_page(undisturbed, recorder):
    workdir, _ = undisturbed
    written = [
        (line["step"], {k: v for k, v in line.items() if k not in ("step", "time") and v is not None})
        for line in writers.read(workdir)
    ]
    assert recorder.lines == written
    assert recorder.pages == [(workdir / "report" / "index.html").read_text()]
    assert recorder.ends == [True]
    (trace,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_every_loss_is_there_for_every_modality(undisturbed):
    line = next(line for line in lines(undisturbed[0]) if "loss" in line)
    for name in ("vl", "icl", "pcl"):
        assert np.isfinite(line[f"xray/{name}"])
        assert np.isfinite(line[f"ct/{name}"])
        # Equal numbers of X-rays and CTs in this batch: the loss is the mean of the two.
        mean = (line[f"xray/{name}"] + line[f"ct/{name}"]) / 2
        assert line[f"loss/{name}"] == pytest.approx(mean, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_after_a_crash(undisturbed, tmp_path, monkeypatch):
    workdir, config = undisturbed
    crashed = tmp_path / "crashed"
    make = jobs.build_job

    def make_fragile(*args):
        run = make(*args)
        step, calls = run.step, []

        def fragile(state, batch):
            calls.append(1)
            if len(calls) == 3:
                raise CrashError
            return step(state, batch)

        object.__setattr__(run, "step", fragile)
        return run

    monkeypatch.setattr(jobs, "build_job", make_fragile)
    with pytest.raises(CrashError):
        loop.run(config, crashed)
    monkeypatch.setattr(jobs, "build_job", make)
    loop.run(config, crashed)
    for one, other in zip(arrays(workdir), arrays(crashed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert lines(workdir) == lines(crashed)


def test_a_finished_run_says_so_and_changes_nothing(undisturbed, capsys):
    workdir, config = undisturbed
    before = (workdir / "metrics.jsonl").read_bytes()
    loop.run(config, workdir)
    told = capsys.readouterr().out
    assert "nothing left to do" in told
    assert re.search(r"^consolidation +0\.\d", told, re.MULTILINE)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_records_that_go_bad_before_an_evaluation_cost_no_number(undisturbed, tmp_path, monkeypatch):
    workdir, config = undisturbed
    hurt, embed = tmp_path / "hurt", features.embed

    for bad, told in (("val", "not validated: CTs of phantom"), ("test", "not evaluated: CTs of phantom")):

        def unreadable(embedder, variables, dataset, sampler, split, bad=bad, **settings):
            if split == bad and sampler.modality == "ct":
                raise UserError("record 3 cannot be read")
            return embed(embedder, variables, dataset, sampler, split, **settings)

        monkeypatch.setattr(features, "embed", unreadable)
        with pytest.raises(UserError, match=told):
            loop.run(config, hurt)
        assert tables.final(writers.read(hurt)) is None
    assert "R@5" in (hurt / "report" / "index.html").read_text(encoding="utf-8"), "the page shows the rest"
    monkeypatch.undo()
    loop.run(config, hurt)
    assert lines(hurt) == lines(workdir)


def test_other_settings_are_refused_by_name(undisturbed):
    workdir, config = undisturbed
    config = config.copy_and_resolve_references()
    config.objective.mask_ratio = 0.75
    with pytest.raises(UserError, match=r"objective.mask_ratio: 0.1 then, 0.75 now"):
        loop.run(config, workdir)


def test_the_page_says_what_the_metrics_say(undisturbed):
    workdir, config = undisturbed
    metrics = writers.read(workdir)
    html = (workdir / "report" / "index.html").read_text()
    assert config.data_dir not in html, "the page goes to trackers too"
    shown = dict(re.findall(r'data-key="([^"]+)" data-value="([^"]+)"', html))
    assert len(shown) > 20
    for key, value in shown.items():
        said = float("nan") if value == "null" else json.loads(value)
        np.testing.assert_array_equal(np.float64(tables.latest(metrics, key)), said, err_msg=key)


class CrashError(Exception):
    pass


def test_a_loss_that_stays_up_sends_the_run_back_and_a_crash_does_not_change_where_to(
    records_dir, tmp_path, monkeypatch, caplog
):
    """Two batches in a row spike: the run goes back to the checkpoint before them and leaves them out."""
    config = toy.get_config()
    config.data_dir = str(records_dir)
    config.batch.xray, config.batch.ct = 1, 1
    config.steps, config.checkpoint.every, config.evals.every = 8, 2, 100
    config.guard.update(rollback=2, spike=50.0)
    monkeypatch.setattr(loss_monitor, "ENOUGH", 3)
    monkeypatch.setattr(loop.run_report, "final", lambda *_, **__: "no page")  # runs of which only the steps count
    monkeypatch.setattr(loop.run_report, "summary", lambda *_: "")
    make, made, calls, crash_at = jobs.build_job, [], [], []

    def which(batch) -> float:
        return float(batch["xray"]["tokens"].sum(dtype=np.int32))

    batches = jobs.open_batches(make(typed(PretrainConfig, config), tmp_path / "order"))
    order = [which(next(batches)) for _ in range(8)]
    bad = order[4:6]  # steps 5 and 6

    def poisoned(*args):
        run = make(*args)
        made.append(run.step)
        step = made[0]  # compiled once

        def poison(state, batch):
            calls.append(which(batch))
            if len(calls) in crash_at:
                raise CrashError
            state, metrics = step(state, batch)
            if calls[-1] in bad:
                metrics["loss"] = metrics["loss"].replace(total=metrics["loss"].total * 1e3)
            return state, metrics

        object.__setattr__(run, "step", poison)
        return run

    roll_back, held = loop._roll_back, []

    def alone(*args, **settings):
        held.append(sys.exception())
        return roll_back(*args, **settings)

    monkeypatch.setattr(loop, "_roll_back", alone)
    monkeypatch.setattr(jobs, "build_job", poisoned)
    loop.run(config, tmp_path / "straight")
    assert held == [None], "the traceback of the spike would hold a second state"
    # Step 6 is saved, so it is looked at before the next batch: six batches, then on from step 4 with those behind.
    assert "back to step 4" in caplog.text
    assert calls[:8] == order
    assert len(calls) == 6 + 4
    assert [line["step"] for line in lines(tmp_path / "straight") if "loss" in line] == list(range(1, 9))
    assert all(line["loss"] < 100 for line in lines(tmp_path / "straight") if "loss" in line)

    calls[:], crash_at[:] = [], [8]  # behind the rollback, before the next checkpoint
    with pytest.raises(CrashError):
        loop.run(config, tmp_path / "crashed")
    crash_at.clear()
    loop.run(config, tmp_path / "crashed")
    assert lines(tmp_path / "crashed") == lines(tmp_path / "straight")
    for one, other in zip(arrays(tmp_path / "straight"), arrays(tmp_path / "crashed"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_not_a_number_is_skipped_told_and_in_the_end_stops_the_run(config, tmp_path, caplog):
    config.optim.update(peak_lr=1e38, start_lr=1e38, end_lr=1e38, warmup_steps=0)
    config.guard.max_skipped, config.steps = 2, 6
    with pytest.raises(UserError, match=r"step 2: 2 steps in a row were not finite"):
        loop.run(config, tmp_path / "nan")
    told = json.loads((tmp_path / "nan" / "incidents" / "2-skipped.json").read_text())
    assert [len(told["ids"][name]) for name in ("xray", "ct")] == [2, 2]
    assert {"xray/vl", "ct/pcl", "norm/grads"} <= told["metrics"].keys()
    assert "step 1 is skipped" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "nothere"}, "no built set named nothere"),
        ({"data": "phantom:x"}, "weight of 'phantom' is 'x'"),
        ({"data": ""}, "names no set"),
        ({"steps": 0}, "config.steps"),
        ({"accumulate": 3}, r"does not divide over 2 devices in 3 parts"),
        ({"objective": {"contrastive_chunk": 3}}, r"contrastive_chunk=3 does not divide the global batch of 4"),
        ({"input": {"report_buckets": (99,)}}, r"report_buckets=\(99,\) are not all below"),
    ],
)
def test_user_errors_are_one_sentence(config, tmp_path, change, words):
    config.update(change)
    with pytest.raises(UserError, match=words):
        loop.run(config, tmp_path / "run")


@pytest.mark.parametrize("field", ["content_sha256", "format"])
def test_other_records_under_the_same_name_are_refused(undisturbed, records_dir, tmp_path, field):
    workdir, config = undisturbed
    (tmp_path / "phantom").mkdir()
    for part in ("xray", "ct", "tokenizer"):
        shutil.copytree(records_dir / "phantom" / part, tmp_path / "phantom" / part)
    contract = json.loads((records_dir / "phantom" / "contract.json").read_text())
    (tmp_path / "phantom" / "contract.json").write_text(json.dumps(contract | {field: "another"}))
    config = config.copy_and_resolve_references()
    config.data_dir = str(tmp_path)
    with pytest.raises(UserError, match=field):
        loop.run(config, workdir)
