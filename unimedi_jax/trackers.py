"""Weights & Biases and MLflow behind the run's own writer: the same scalars, its configuration, its page.

`metrics.jsonl` stays the truth. A tracker goes on with its run when a run is resumed; what a run repeats after a kill,
or takes back, stands there twice, the later values last. Paths and addresses of machines are left out.
"""

import importlib.util
import json
import os
import pathlib
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, Protocol

from data import contract, pages
from data.errors import UserError

FILE = "track.json"  # in the workdir: which run it is there
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}
ADVICE = {
    "wandb": "wandb login, or WANDB_MODE=offline",
    "mlflow": "name a server or sqlite:///mlflow.db as MLFLOW_TRACKING_URI",
}
PROJECT = "unimedi_jax"
LONGEST, MOST = 500, 100  # characters of a parameter, and numbers at once, that every store of MLflow takes


class Tracker(Protocol):
    """Where a run is shown beside its own folder."""

    name: str

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of one step."""

    def page(self, path: pathlib.Path) -> None:
        """The report page."""

    def close(self, *, whole: bool) -> None:
        """The end of this process; `whole`: the run's too, and not a failure's."""


def start(names: str, workdir: pathlib.Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of `config.track`, comma-separated.

    Raises:
        UserError: a package that is not installed, or a tracker that does not start.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"config.track={name} needs {PACKAGES[name]}: pip install -r requirements-{name}.txt")
    trackers: list[Tracker] = []
    for name in chosen:
        try:
            trackers.append({"wandb": Wandb, "mlflow": Mlflow}[name](workdir, config))
        except Exception as error:  # each raises types of its own
            for tracker in trackers:
                tracker.close(whole=False)
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"config.track={name} does not start ({reason}): {ADVICE[name]}") from error
    return trackers


class Wandb:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE and its other variables hold."""

    name = "wandb"

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        known = _known(workdir, self.name) or secrets.token_hex(4)
        # Our own numbers alone: no copy of the terminal, the command line, the code or the state of a repository.
        off = ("disable_git", "disable_code", "x_disable_meta", "x_disable_machine_info")
        quiet = wandb.Settings(silent=True, console="off", **dict.fromkeys(off, True))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=known,
            name=workdir.name,
            dir=str(workdir),
            resume="allow",
            config=dict(config),
            settings=quiet,
        )
        _remember(workdir, self.name, known)
        self._run.define_metric("*", step_metric="step")  # its own step only grows, and a resumed run repeats some

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of one step."""
        self._run.log({"step": step, **values})

    def page(self, path: pathlib.Path) -> None:
        """The report page, as an artifact."""
        artifact = self._wandb.Artifact(f"report-{self._run.id}", type="report")
        artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)

    def close(self, *, whole: bool) -> None:
        """The end of this process."""
        self._run.finish(exit_code=0 if whole else 1)


class Mlflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says, or else where MLflow keeps its runs by itself."""

    name = "mlflow"

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
        import mlflow
        from mlflow.entities import Param

        self._client = mlflow.MlflowClient()
        self._id = _known(workdir, self.name)
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
            return
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self._client.create_experiment(title)
        self._id = self._client.create_run(number, run_name=workdir.name).info.run_id
        flat = contract.flat(dict(config)).items()
        params = [Param(_plain(key), str(value)[:LONGEST]) for key, value in flat]
        for start in range(0, len(params), MOST):
            self._client.log_batch(self._id, params=params[start : start + MOST])
        self._client.log_dict(self._id, dict(config), "config.json")
        _remember(workdir, self.name, self._id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of one step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_plain(name), value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), MOST):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST])

    def page(self, path: pathlib.Path) -> None:
        """The report page, as an artifact."""
        self._client.log_artifact(self._id, str(path), "report")

    def close(self, *, whole: bool) -> None:
        """The end of this process."""
        self._client.set_terminated(self._id, "FINISHED" if whole else "KILLED")


def _plain(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^/\w.\- ]", "_", name)[:250]


def _known(workdir: pathlib.Path, name: str) -> str:
    """The id of a workdir's run there; "" of a new one."""
    return str(_ids(workdir).get(name, ""))


def _remember(workdir: pathlib.Path, name: str, known: str) -> None:
    pages.write(workdir / FILE, json.dumps(_ids(workdir) | {name: known}) + "\n")


def _ids(workdir: pathlib.Path) -> dict[str, str]:
    try:
        return dict(json.loads((workdir / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
