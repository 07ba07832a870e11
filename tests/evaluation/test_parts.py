"""Results are on the disk as soon as they are there, and only those of the same question are taken over."""

import csv
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from jax import numpy as jnp

from unimedi_jax.config.jobs import ProbeConfig
from unimedi_jax.evaluation import downstream, heads, parts, results
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
    about = {"path": pathlib.Path("runs/mine"), "address": "runs/mine", "step": 5, "network": "student"}
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
