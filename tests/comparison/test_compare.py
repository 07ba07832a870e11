"""Presets side by side: each trained once, one table of their numbers, costs counted in the compiled program."""

import csv
import itertools
import json
import pathlib
import re
import shutil
import types

import jax
import ml_collections
import pytest
import safetensors.torch

from configs import ablate as ablate_configs
from configs import compare as configs
from configs import pretrain, systems
from data import members
from data.errors import UserError
from tests.conftest import TINY
from tests.evaluation.conftest import checkpoint_dir  # noqa: F401
from tests.inference.conftest import make_vit, timm  # noqa: F401
from unimedi_jax import flops, sharding, writers
from unimedi_jax.comparison import ablate, compare, released, runs, runs_page
from unimedi_jax.config.pretraining import PretrainConfig
from unimedi_jax.config.typed import typed
from unimedi_jax.evaluation import evaluator, results
from unimedi_jax.input import records
from unimedi_jax.metrics import bootstrap
from unimedi_jax.models import sizes
from unimedi_jax.report import published
from unimedi_jax.train import loop, run_report
from unimedi_jax.train.job import build_job

torch = pytest.importorskip("torch")
LENGTH = 16


@pytest.fixture(scope="module")
def patch():
    """The tiny size by its name, few resamples: for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.VISION, "tiny", TINY)
        patch.setitem(sizes.REPORT, "tiny", TINY)
        patch.setattr(evaluator, "RESAMPLES", 10)
        yield patch


@pytest.fixture(scope="module")
def toy(records_dir, patch):
    """`toy()`: clip and unimedi for two steps, at sizes where all of it takes seconds."""

    def make(config=None):
        config = config or configs.get_config()
        config.data_dir = str(records_dir)
        config.presets, config.seeds = "clip,unimedi", (3,)
        base = config.base
        base.compilations = ""
        base.steps, base.log_every = 2, 1
        base.batch.update(xray=1, ct=1)
        base.input.report_length = LENGTH
        base.model.update(
            vision_size="tiny",
            report_size="tiny",
            image_size=112,
            volume_size=(16, 32, 32),
            slice_size=112,
            projection_hidden=16,
            embedding=16,
            prototypes_cls=8,
            prototypes_patch=8,
            head_hidden=16,
            head_bottleneck=8,
        )
        base.evals.update(rows=1, limit=8)
        base.model.remat = "none"  # nothing is made again: the arithmetic can be counted by hand
        return config

    return make


@pytest.fixture(scope="module")
def vit(make_vit, tmp_path_factory):  # noqa: F811
    """A ViT of timm's at the tiny size, in a file."""
    path = tmp_path_factory.mktemp("released") / "somebody.safetensors"
    model = make_vit()
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path, model


@pytest.fixture(scope="module")
def done(toy, vit, patch, tmp_path_factory):
    """(the config, the folder of a finished comparison of two presets and one released encoder).

    Compiled programs are cached by the suite: counting a step's arithmetic compiles nothing that training has not.
    """
    config = toy()
    config.encoders = f"timm:{vit[0]}:size=112:heads=4:mean=0.4:deviation=0.25"
    workdir = tmp_path_factory.mktemp("compare")
    patch.setattr(run_report, "_map", lambda *_: None)  # t-SNE of the runs' own pages
    count = runs.gflop
    patch.setattr(runs, "gflop", lambda run: count(run) if run.name == "clip" else 1.0)
    compare.run(config, workdir)
    patch.setattr(runs, "gflop", count)
    return config, workdir


def read(workdir: pathlib.Path) -> dict[tuple[str, str], dict[str, str]]:
    with (workdir / "results.csv").open() as stream:
        return {(row["encoder"], row["metric"]): row for row in csv.DictReader(stream)}


def final(folder: pathlib.Path) -> dict[str, float]:
    scalars = {k.removeprefix("test/"): v for line in writers.read(folder) for k, v in line.items() if "test/" in k}
    return {name: value for name, value in scalars.items() if name != "cases"}


@pytest.mark.parametrize("name", ["clip", "unimedi"])
def test_table_and_csv_hold_what_the_runs_said(done, name):
    _, workdir = done
    logged, rows, page = final(workdir / f"{name}-3"), read(workdir), (workdir / "index.html").read_text()
    own = {metric: row for (encoder, metric), row in rows.items() if encoder == name and "cost/" not in metric}
    assert set(own) == {key for key in logged if not key.endswith(("/low", "/high")) and logged[key] is not None}
    for metric, row in own.items():
        assert float(row["value"]) == logged[metric]
        assert (row["low"] and float(row["low"])) == logged.get(f"{metric}/low", "")
        assert (row["data"], row["seed"], row["task"]) == ("phantom", "3", "comparison")
    for metric in set(runs_page.SHOWN) & set(own):
        key = f"{name}/comparison/phantom/1/{metric}"
        assert re.search(f'data-key="{key}" data-value="{re.escape(json.dumps(logged[metric]))}"', page)
    assert {"xray/zeroshot/macro", "ct/slices/any/hit_rate", "gap/xray_ct/distance"} <= set(own)


def test_the_page_tells_measured_from_published(done):
    page = (done[1] / "index.html").read_text()
    assert "95 % bootstrap interval over patients, of the one seed" in page
    before, _, after = page.partition("Other architectures, published figures only")
    assert "nothing here was measured by us" in after
    assert "SwinUNETR" not in before.partition("<main>")[2]


def test_the_arithmetic_is_that_of_the_compiled_step(done):
    """Of CLIP's step, where it can be counted by hand: the towers three times, whose inputs need no gradient."""
    _, workdir = done
    xrays = cts = sharding.make_mesh().size
    image, volume = 7 * 7, 4 * 2 * 2
    vision = xrays * flops.transformer(TINY, 1 + image) + cts * flops.transformer(TINY, 1 + volume)
    read_ = (xrays + cts) * flops.transformer(TINY, LENGTH)
    tokens = 2 * TINY.width * (xrays * image * 256 + cts * volume * 1024)
    project = (xrays + cts) * 2 * (2 * TINY.width * 16)
    joined = 2 * (xrays + cts) ** 2 * 16
    expected = 3 * (vision + read_ + project + joined) + 2 * tokens
    (row,) = [row for key, row in read(workdir).items() if key == ("clip", runs.GFLOP)]
    assert float(row["value"]) == pytest.approx(expected / 1e9, rel=0.01)


def test_seconds_are_those_of_the_steps_after_the_first(done):
    _, workdir = done
    rates = [line["speed/samples_per_s"] for line in writers.read(workdir / "clip-3") if "speed/samples_per_s" in line]
    assert rates[0] == 0  # the step that compiles
    assert float(read(workdir)["clip", runs.SECONDS]["value"]) == 2 * sharding.make_mesh().size / rates[1]


def test_a_second_call_trains_nothing(done, monkeypatch, capsys):
    config, workdir = done
    before = read(workdir)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(loop, "_train", never)
    monkeypatch.setattr(evaluator.Evaluator, "__call__", never)
    monkeypatch.setattr(runs, "gflop", lambda run: float(before[run.name, runs.GFLOP]["value"]))
    compare.run(config, workdir)
    assert read(workdir) == before
    assert capsys.readouterr().out.count("nothing left to do") == 2


def test_a_released_encoder_is_probed_on_films_alone(done):
    _, workdir = done
    rows = {metric: row for (encoder, metric), row in read(workdir).items() if encoder == "somebody"}
    assert set(rows) & set(runs_page.SHOWN) == set(), "four test patients: no finding has ten cases of both kinds"
    logged = final(workdir / "encoder-somebody")["xray/probe/macro"]
    assert float(rows["xray/probe/macro"]["value"]) == logged
    assert json.loads((workdir / "encoder-somebody" / released.FACTS).read_text())["checkpoint"].endswith(
        "deviation=0.25"
    )


@pytest.fixture(scope="module")
def two_sets(records_dir, tmp_path_factory):
    """The folder of a set under two names."""
    folder = tmp_path_factory.mktemp("records")
    for name in ("phantom", "second"):
        (folder / name).symlink_to(records_dir / "phantom")
    return folder


def test_released_encoders_alone_need_neither_presets_nor_reports(toy, vit, two_sets, tmp_path, monkeypatch):
    """On every X-ray of several sets, with intervals over patients."""
    config = toy()
    config.presets, config.encoders = "", f"timm:{vit[0]}:heads=4"
    config.data, config.data_dir = "phantom,second", str(two_sets)
    monkeypatch.setattr(runs, "train", None)
    resampled, groups = [], bootstrap.groups
    monkeypatch.setattr(bootstrap, "groups", lambda n, names: resampled.append(names) or groups(n, names))
    compare.run(config, tmp_path)
    rows = read(tmp_path)
    assert {encoder for encoder, _ in rows} == {"somebody"}
    assert float(rows["somebody", "xray/probe/macro"]["value"]) > 0
    assert rows["somebody", "xray:second/probe/macro"]["value"] == rows["somebody", "xray/probe/macro"]["value"]
    patients = [records.text(one["patient"]) for one in records.open_set(two_sets, "second").source("xray", "test")]
    assert resampled
    assert all(list(names) == patients for names in resampled), "whole, and by patient"


def test_a_released_encoder_is_measured_again_for_other_prompts_score_weights_or_records(tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"nodule": ["A nodule."]}')
    contract = {"content_sha256": "abc", "labels": ["nodule"], "prompts": {}}
    network = types.SimpleNamespace(variables={"kernel": jax.numpy.ones(3)}, config={"size": 224})
    evals = {"score": "sum", "prompts": "", "rows": 8}
    base = {"evals": evals, "allow_leaks": False}
    config = ml_collections.ConfigDict({"data": "mine", "data_dir": "records", "base": base})
    checked, values = [], itertools.count()
    monkeypatch.setattr(
        released.dataset, "open_sets", lambda *_: [(records.RecordSet("mine", tmp_path, contract), 1.0)]
    )
    monkeypatch.setattr(released.pretrained, "load", lambda _: network)
    monkeypatch.setattr(released.trials, "check_leaks", lambda *arguments: checked.append(arguments))
    monkeypatch.setattr(released, "_scalars", lambda *_: {"xray/zeroshot/macro": float(next(values))})

    def measured():
        return released.measure(released.Encoder("mgca", "timm:mgca.pth", tmp_path / "encoder-mgca"), config)

    numbers = []
    for change in (
        lambda: None,
        lambda: config.base.evals.update(score="difference"),
        lambda: config.base.evals.update(prompts=str(prompts)),
        lambda: prompts.write_text('{"nodule": ["There is a nodule."]}'),
        lambda: network.variables.update(kernel=jax.numpy.zeros(3)),
        lambda: network.config.update(size=512),
        lambda: contract.update(content_sha256="built anew"),
    ):
        change()
        numbers.append(measured()["xray/zeroshot/macro"])
        assert measured()["xray/zeroshot/macro"] == numbers[-1], "asked again, nothing is measured"
    assert numbers == [*range(7)]
    assert len(checked) == 14, "whoever is tested on, also where the numbers are there"


@pytest.mark.parametrize("name", ["", *pretrain.ABLATIONS, *systems.SYSTEMS])
def test_a_preset_is_what_pre_training_alone_makes_of_it(name):
    config = configs.get_config()
    config.presets = name or "unimedi"
    (run,) = runs.planned(config, pathlib.Path())
    method = "unimedi" if name in ("", *pretrain.OF_ANY_SYSTEM) else ""
    alone = pretrain.get_config(",".join(filter(None, ("demo", method, name))))
    alone.seed = 0
    assert json.loads(run.settings.to_json_best_effort()) == json.loads(alone.to_json_best_effort())


def test_overrides_reach_every_preset_and_an_objective_its_own():
    config = configs.get_config()
    config.presets, config.seeds = "unimedi,clip,clip+xray_only,unimedi", (1, 2)
    config.base.steps = 300
    config.base.objective.weight_pcl = 0.7
    config.base.evals.limit = 64
    config.changes.clip.objective.temperature = 0.2
    planned = runs.planned(config, pathlib.Path("runs"))
    assert [str(run.folder) for run in planned[:3]] == ["runs/unimedi-1", "runs/clip-1", "runs/clip+xray_only-1"]
    assert len(planned) == 6
    assert {run.settings.steps for run in planned} == {300}
    assert {run.settings.evals.limit for run in planned} == {0}, "what is compared are whole splits"
    assert planned[0].settings.objective.temperature_warmup_steps == 180
    assert planned[0].settings.objective.weight_pcl == 0.7
    assert "weight_pcl" not in planned[1].settings.objective
    assert [run.settings.objective.temperature for run in planned[:3]] == [0.07, 0.2, 0.2]
    assert [run.untrained for run in planned[:3]] == [(), (), ("ct",)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(presets="clip,clop"), "'clip,clop'"),
        (dict(seeds=()), "give at least one"),
        (dict(presets="clip+random_mask"), "clip+random_mask does not fit"),
        (dict(encoders="timm:nowhere.safetensors"), "no file or folder nowhere.safetensors"),
        (dict(encoders="{vit}:0.5:0.5"), "is not timm:FILE or hf:FOLDER_OR_ID"),
        (dict(encoders="timm:{vit}:deviation=0"), "above 0"),
        (dict(encoders="timm:{vit},timm:{vit}"), "somebody is the name of two rows"),
        (dict(encoders="timm:{text}"), "text.safetensors"),
        (dict(presets="", seeds=(0,)), "name what to compare"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_one_line_before_any_training(toy, vit, tmp_path, monkeypatch, settings, words):
    (tmp_path / "text.safetensors").write_text("no weights")
    config = toy().lock()
    files = {"vit": vit[0], "text": tmp_path / "text.safetensors"}
    config.update({k: v.format(**files) if isinstance(v, str) else v for k, v in settings.items()})
    monkeypatch.setattr(loop, "run", None)
    with pytest.raises(UserError) as error:
        compare.run(config, tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*/config.json"))


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="'clip' is no start: one of paper, demo"):
        configs.get_config("clip")


# ---- the table, of runs whose numbers are made up ----


def finished_run(folder: pathlib.Path, scalars: dict[str, float], seconds: float = 2.0) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"global_batch": {"xray": 3, "ct": 1}}))
    with writers.Writer(folder, resume_step=0) as writer:
        for rate in (0.0, 1.0, 4.0 / seconds, 8.0):
            writer.scalars(1, {"speed/samples_per_s": rate})
        writer.scalars(2, {f"test/{name}": value for name, value in scalars.items()})


def interval(metric: str, value: float) -> dict[str, float]:
    return {metric: value, f"{metric}/low": value - 0.1, f"{metric}/high": value + 0.1}


def table(workdir: pathlib.Path, capsys) -> dict[str, dict[str, str]]:
    """What the terminal says: row -> column -> cell."""
    _, head, *lines = capsys.readouterr().out.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+( \S+)*", head)]
    cut = [slice(a, b) for a, b in zip([0, *starts], [*starts, None], strict=True)]
    names = [head[one].strip() for one in cut]
    return {
        line[cut[0]].strip(): dict(zip(names, (line[one].strip() for one in cut), strict=True))
        for line in lines
        if ": " not in line
    }


def test_seeds_are_averaged_and_their_spread_is_told(records_dir, tmp_path, monkeypatch, capsys):
    config = configs.get_config()
    config.data_dir = str(records_dir)
    config.presets, config.seeds = "unimedi,xray_only", (0, 1)
    monkeypatch.setattr(loop, "run", lambda settings, folder: None)
    monkeypatch.setattr(runs, "gflop", lambda run: 12.34)
    for seed, value in ((0, 0.6), (1, 0.9)):
        both = interval("xray/zeroshot/macro10", value) | interval("ct/probe/macro10", value - 0.2)
        gap = {"gap/xray_ct/distance": value, "gap/images/separation": float("nan")}
        finished_run(tmp_path / f"unimedi-{seed}", both | gap, seconds=1.0 + seed)
        finished_run(tmp_path / f"xray_only-{seed}", both | gap)
    compare.run(config, tmp_path)
    cells = table(tmp_path, capsys)
    assert cells["unimedi"]["X-ray zero-shot AUC"] == "0.750 [0.600, 0.900]"
    assert cells["unimedi"]["CT probe AUC"] == "0.550 [0.400, 0.700]"
    assert cells["unimedi"]["X-ray R@5"] == cells["unimedi"]["class separation"] == "-"
    assert cells["unimedi"]["GFLOP a step"] == "12.3"
    assert cells["unimedi"]["s a step"] == "1.50 [1.00, 2.00]"
    assert cells["xray_only"]["X-ray zero-shot AUC"] == "0.750 [0.600, 0.900]"
    assert cells["xray_only"]["CT probe AUC"] == cells["xray_only"]["gap, centroids"] == "-"
    page = (tmp_path / "index.html").read_text()
    assert "means over 2 seeds, small figures under them the smallest and the largest" in page
    with (tmp_path / "results.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"] == "xray/zeroshot/macro10"]
    assert [(r["encoder"], r["seed"], r["value"], r["low"]) for r in rows[:2]] == [
        ("unimedi", "0", "0.6", "0.5"),
        ("xray_only", "0", "0.6", "0.5"),
    ]


def test_one_seed_keeps_its_bootstrap_and_a_system_without_reports_a_dash(records_dir, tmp_path, monkeypatch, capsys):
    config = configs.get_config()
    config.data_dir = str(records_dir)
    config.presets = "unimedi"
    monkeypatch.setattr(loop, "run", lambda settings, folder: None)
    monkeypatch.setattr(runs, "gflop", lambda run: 1.0)
    finished_run(tmp_path / "unimedi-0", interval("xray/probe/macro10", 0.5))
    compare.run(config, tmp_path)
    row = table(tmp_path, capsys)["unimedi"]
    assert row["X-ray probe AUC"] == "0.500 [0.400, 0.600]"
    assert row["X-ray zero-shot AUC"] == row["X-ray R@5"] == "-"


def test_a_preset_that_fails_costs_its_own_rows_and_the_others_are_there_at_once(
    records_dir, tmp_path, monkeypatch, capsys, caplog
):
    """And X-rays of a second set have a table of their own."""
    config = configs.get_config()
    config.data_dir, config.presets = str(records_dir), "clip,unimedi,convirt"
    monkeypatch.setattr(runs, "gflop", lambda run: 1.0)
    scalars = interval("xray/zeroshot/macro10", 0.4) | {"xray:mine/zeroshot/macro10": 0.8, "ct:mine/probe/macro10": 0.3}
    scalars |= {
        "xray:mine/retrieval/i2t_r5": 0.1,
        "xray:mine/retrieval/chance_r5": 0.2,
        "gap/xray:mine_ct/distance": 0.5,
    }
    done = []

    def train(settings, folder):
        name = folder.name.partition("-")[0]
        if done:
            assert {encoder for encoder, _ in read(tmp_path)} == set(done)
        if name == "unimedi":
            raise UserError("the loss is not finite")
        finished_run(folder, scalars)
        done.append(name)

    monkeypatch.setattr(loop, "run", train)
    compare.run(config, tmp_path)
    assert "preset unimedi, seed 0, left out: the loss is not finite" in caplog.messages
    assert {encoder for encoder, _ in read(tmp_path)} == {"clip", "convirt"}
    first, _, second = capsys.readouterr().out.partition("Comparison: mine")
    assert "0.400 [0.300, 0.500] (below chance)" in first
    lines = second.splitlines()
    columns = ["X-ray zero-shot AUC", "CT probe AUC", "X-ray R@5", "gap, centroids, its X-rays"]
    assert re.split(r" {2,}", lines[1].strip()) == columns
    cells = ["clip", "0.800", "0.300 (below chance)", "0.100 (below chance)", "0.500"]
    assert re.split(r" {2,}", lines[2].strip()) == cells


def test_a_run_without_its_last_line_is_said(records_dir, tmp_path, monkeypatch):
    config = configs.get_config()
    config.data_dir = str(records_dir)
    config.presets = "unimedi"
    monkeypatch.setattr(loop, "run", lambda settings, folder: None)
    with pytest.raises(UserError, match="unimedi-0 holds no finished run"):
        compare.run(config, tmp_path)


def test_a_map_of_too_few_test_patients_is_left_out():
    """t-SNE takes five at least, and ended the finished job with its error."""
    z = jax.random.normal(jax.random.key(0), (8, 4))
    for count, drawn in ((4, False), (8, True)):
        parts = [(types.SimpleNamespace(title="X-rays"), types.SimpleNamespace(z=z[:count]))]
        assert (ablate._map(parts, "one encoder") is not None) == drawn


def test_ablations_add_two_encoders_and_their_map(checkpoint_dir, two_sets, tmp_path, monkeypatch, capsys):  # noqa: F811
    config = ablate_configs.get_config()
    assert config.presets.split(",") == list(pretrain.ABLATIONS)
    config.presets, config.seeds, config.data_dir = "xray_only,ct_only", (0,), str(two_sets)
    config.data = "phantom,second"
    config.base.evals.rows = 4
    for name in ("xray_only", "ct_only"):
        (tmp_path / f"{name}-0").symlink_to(checkpoint_dir)
    monkeypatch.setattr(loop, "run", lambda settings, folder: None)
    monkeypatch.setattr(runs, "costs", lambda *_, **__: [])
    monkeypatch.setattr(
        runs, "measured", lambda run, task: [results.Result(task, "phantom", "", run.name, "xray/probe/macro10", 0.5)]
    )
    ablate.run(config, tmp_path)
    cells = table(tmp_path, capsys)
    assert list(cells) == ["xray_only", "ct_only", "two_encoders"]
    assert cells["two_encoders"]["X-ray probe AUC"] == "-"
    # The same weights stand for both here: one run's own gap.
    assert 0 < float(cells["two_encoders"]["gap, centroids"]) < 2
    page = (tmp_path / "index.html").read_text()
    assert page.count("<figcaption>two_encoders</figcaption>") == 1
    rows = read(tmp_path)
    equal = {rows["two_encoders", f"gap/{pair}/distance"]["value"] for pair in ("xray_ct", "xray:second_ct:second")}
    assert len(equal) == 1, "of every set with every other, here the same one twice"


def test_other_architectures_have_published_figures_alone():
    others, scalars = published.others()
    assert {row.name.partition(":")[0] for row in others.rows} >= {"SwinUNETR", "nnU-Net", "DiRA", "Med3D", "Alice"}
    assert sorted(scalars.values()) == [82.25, 87.59]
    assert all(key.startswith("published/") for key in scalars)


def test_the_step_is_compiled_for_the_runs_own_batch(toy, tmp_path):
    config = toy()
    config.presets = "clip+xray_only"
    (run,) = runs.planned(config, tmp_path)
    job = build_job(typed(PretrainConfig, run.settings), run.folder)
    text = job.lower({"xray": 1, "ct": 0}, LENGTH).as_text()
    assert f"tensor<{job.mesh.size}x49x256xui8>" in text
    assert "xi16>" not in text


def test_without_test_records_nothing_is_trained(toy, tmp_path, monkeypatch):
    config = toy()
    monkeypatch.setattr(loop, "run", None)
    size = records.RecordSet.size
    monkeypatch.setattr(records.RecordSet, "size", lambda self, *place: 0 if "test" in place else size(self, *place))
    with pytest.raises(UserError, match="the set phantom has no test records"):
        compare.run(config, tmp_path)


def test_an_exported_encoder_is_held_against_what_it_was_trained_on(toy, vit, tmp_path):
    """Its test patients are those that the encoder, by the list in its folder, has learnt from."""
    config = toy()
    path = tmp_path / "export" / "vision_2d.safetensors"
    path.parent.mkdir()
    shutil.copy(vit[0], path)
    listed = members.read(pathlib.Path(config.data_dir) / "phantom")
    members.write(path.parent, {"phantom": {"salt": listed["salt"], "train": listed["test"]}})
    config.encoders, config.presets = f"timm:{path}:heads=4", ""
    with pytest.raises(UserError, match=r"vision_2d.safetensors:heads=4: 6 patients and 6 pixel-equal pictures of"):
        compare.run(config, tmp_path / "compare")
