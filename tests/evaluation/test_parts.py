"""Results are on the disk as soon as they are there, and only those of the same question are taken over."""

import csv
import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from jax import numpy as jnp

from data.errors import UserError
from unimedi_jax.config.jobs import DetectConfig, EvaluateConfig, ProbeConfig, RetrieveConfig
from unimedi_jax.evaluation import downstream, heads, job_settings, parts, results
from unimedi_jax.input.records import RecordSet


def test_what_was_finished_is_not_made_again(tmp_path) -> None:
    content = {"value": np.float32(0.1), "odd": float("nan"), "count": np.int64(3)}
    first = parts.once(tmp_path, {"seed": 0}, lambda: content)
    again = parts.once(tmp_path, {"seed": 0}, lambda: pytest.fail("made twice"))
    assert (
        json.dumps(first)
        == json.dumps(again)
        == json.dumps({"value": float(np.float32(0.1)), "odd": float("nan"), "count": 3})
    )
    assert parts.once(tmp_path, {"seed": 1}, lambda: "other") == "other"
    assert parts.once(None, {"seed": 0}, lambda: "nothing on the disk") == "nothing on the disk"
    parts.forget(tmp_path)
    assert parts.once(tmp_path, {"seed": 0}, lambda: "anew") == "anew"


@pytest.mark.parametrize("injury", ["cut", "empty", "partial", "foreign", "list"])
def test_a_part_that_is_not_whole_is_made_again(tmp_path, injury) -> None:
    parts.once(tmp_path, {"seed": 0}, lambda: "first")
    (path,) = (tmp_path / parts.FOLDER).iterdir()
    if injury == "cut":
        path.write_text(path.read_text()[:-5])
    elif injury == "empty":
        path.write_text("")
    elif injury == "list":
        path.write_text("[1]")
    elif injury == "partial":  # what a kill within the writing leaves
        path.rename(path.with_name(path.name + ".partial"))
    else:  # somebody copied the folder of another run's results
        parts.once(tmp_path, {"seed": 7}, lambda: "of another seed")
        (other,) = (one for one in (tmp_path / parts.FOLDER).iterdir() if one != path)
        shutil.copy(other, path)
    assert parts.once(tmp_path, {"seed": 0}, lambda: "again") == "again"


def network(value: float = 1.0, **changes) -> types.SimpleNamespace:
    about = {"path": pathlib.Path("runs/mine"), "address": "runs/mine", "step": 5, "network": "student", "files": None}
    about["config"] = {"seed": 1}
    return types.SimpleNamespace(**{**about, "variables": {"kernel": jnp.full(3, value)}, **changes})


class Job:
    """A job of three parts that can be killed in one of them."""

    def __init__(self, workdir: pathlib.Path) -> None:
        self.workdir, self.made = workdir, []

    def run(self, *, trained=None, contract=None, config=None, killed_in: int = -1) -> downstream.Outputs:
        self.made.clear()
        outputs = downstream.Outputs(trained or network(), self.workdir, detailed=True)
        mine = RecordSet("mine", pathlib.Path("mine"), contract or {"labels": ["a"]})

        def fill(seed: int, part: downstream.Part) -> None:
            if seed == killed_in:
                raise KeyboardInterrupt
            self.made.append(seed)
            part.rows.append(results.Result("probe", "mine", "xray", "trained", "auroc/a", seed / 3, seed=seed))
            part.add(["case"], {"probability:a": [np.float32(seed)]}, seed=seed)
            if not seed:
                part.heads.append(heads.Head({"tune": "linear", "modality": "xray"}, {"w": np.ones(2)}))

        for seed in range(3):
            outputs.part(lambda part, seed=seed: fill(seed, part), config or ProbeConfig(), [mine], seed=seed)
        return outputs

    def rows(self) -> list[dict[str, str]]:
        with (self.workdir / results.FILE).open() as stream:
            return list(csv.DictReader(stream))


@pytest.fixture
def job(tmp_path) -> Job:
    """A job that was killed in its last part."""
    job = Job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        job.run(killed_in=2)
    assert [row["seed"] for row in job.rows()] == ["0", "1"], "finished rows are there at once"
    return job


def test_a_killed_job_goes_on_with_what_is_missing(job, tmp_path) -> None:
    outputs = job.run()
    assert job.made == [2]
    assert outputs.rows == Job(tmp_path / "undisturbed").run().rows
    outputs.finish()
    with (tmp_path / downstream.CASES).open() as stream:
        assert [row["probability:a"] for row in csv.DictReader(stream)] == ["0.0", "1.0", "2.0"]
    job.run()
    assert job.made == [0, 1, 2], "a job that had ended measures anew"


@pytest.mark.parametrize(
    "change",
    [
        {"trained": network(2.0)},  # trained anew into the same folder: same path, same step
        {"trained": network(config={"seed": 2})},
        {"contract": {"labels": ["a"], "content_sha256": "another"}},
        {"config": ProbeConfig(resamples=7)},
    ],
    ids=["weights", "run", "set", "settings"],
)
def test_rows_of_another_checkpoint_set_or_setting_are_not_trusted(job, change) -> None:
    job.run(**change)
    assert job.made == [0, 1, 2]


def test_which_trials_are_asked_for_is_no_other_question(job) -> None:
    job.run(config=ProbeConfig(seeds=(0, 1, 2, 3), shares=(0.5,), tune="full"))
    assert job.made == [2]


def test_a_head_that_is_gone_or_another_is_trained_again(job) -> None:
    path = job.workdir / "heads" / "linear" / "xray.safetensors"
    path.write_bytes(b"another")
    job.run()
    assert job.made == [0, 2]
    path.unlink()
    job.run()
    assert job.made == [0]


MINE = RecordSet("mine", pathlib.Path("mine"), {"content_sha256": "abc"})


def measure(workdir, config, *sets, trained=None) -> downstream.Outputs:
    """A job of one number."""
    outputs = downstream.begin(trained or network(), workdir, config, sets or [MINE])
    row = results.Result("probe", "mine", "xray", "trained", "auroc/a", 0.5)
    outputs.part(lambda part: part.rows.append(row), config, [MINE])
    outputs.finish()
    return outputs


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (EvaluateConfig(tasks="detect"), EvaluateConfig(tasks="segment"), "config.tasks: 'detect' then, 'segment' now"),
        (ProbeConfig(), ProbeConfig(data="other"), "config.data: 'phantom' then, 'other' now"),
        (ProbeConfig(), ProbeConfig(protocol="mgca"), "config.protocol"),
        (ProbeConfig(), ProbeConfig(network="teacher"), "config.network"),
        (DetectConfig(), DetectConfig(limit=3), "config.limit"),
        (ProbeConfig(), DetectConfig(), "config.job"),
    ],
    ids=["tasks", "data", "protocol", "network", "limit", "job"],
)
def test_results_of_other_settings_are_not_written_over(tmp_path, first, second, what) -> None:
    measure(tmp_path, first)
    before = (tmp_path / results.FILE).read_bytes()
    with pytest.raises(UserError, match="name another --workdir") as error:
        measure(tmp_path, second)
    assert what in str(error.value)
    assert (tmp_path / results.FILE).read_bytes() == before
    measure(tmp_path / "another", second)


def test_the_same_settings_may_be_measured_again_and_what_changes_no_number_may_differ(tmp_path) -> None:
    config = EvaluateConfig(data_dir="here", rows=4)
    measure(tmp_path, config)
    measure(tmp_path, dataclasses.replace(config, data_dir="there", rows=8, allow_leaks=True), MINE)
    torn = RecordSet("torn", pathlib.Path("torn"), {"content_sha256": "xyz"})
    measure(tmp_path, config, MINE, torn)  # could not be opened the first time
    measure(tmp_path, config, MINE)
    with pytest.raises(UserError, match=r"\(records of mine\)"):
        measure(tmp_path, config, dataclasses.replace(MINE, contract={"content_sha256": "built anew"}))


def test_prompts_count_by_what_they_say(tmp_path) -> None:
    path = tmp_path / "prompts.json"
    config = RetrieveConfig(prompts=str(path))
    path.write_text('{"nodule": ["A nodule."]}')
    measure(tmp_path / "job", config)
    path = path.rename(tmp_path / "elsewhere.json")
    measure(tmp_path / "job", dataclasses.replace(config, prompts=str(path)))
    path.write_text('{"nodule": ["There is a nodule."]}')
    with pytest.raises(UserError, match=r"config\.prompts\.nodule"):
        measure(tmp_path / "job", dataclasses.replace(config, prompts=str(path)))


def test_settings_that_are_gone_or_of_before_are_no_others(tmp_path) -> None:
    measure(tmp_path, DetectConfig())
    path = tmp_path / job_settings.FILE
    known = json.loads(path.read_text())
    del known["settings"]["most"], known["settings"]["recipe"]["l2"]
    path.write_text(json.dumps(known))
    measure(tmp_path, DetectConfig())  # what was no setting then did as its default does
    for text in ("{", "[]", '{"settings": 1, "sets": {}}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"no settings\.json that says of which settings"):
            measure(tmp_path, DetectConfig())


def test_rows_say_whose_network_they_are_of(tmp_path) -> None:
    measure(tmp_path, ProbeConfig(network="teacher"), trained=network(network="teacher"))
    assert [row["network"] for row in Job(tmp_path).rows()] == ["teacher"]
