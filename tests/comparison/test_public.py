"""The evaluation job on tiny trees of the public sets' layouts: which numbers each allows."""

import csv

import pytest

from configs import evaluate as configs
from tests.data.sets.conftest import build  # noqa: F401
from tests.data.sets.test_luna16 import tree as luna16  # noqa: F401
from tests.data.sets.test_organs import abdomen as btcv  # noqa: F401
from tests.data.sets.test_rsna import tree as rsna  # noqa: F401
from tests.evaluation.conftest import checkpoint_dir  # noqa: F401
from unimedi_jax.evaluation import detect, evaluate, retrieve, segment, trials

PROBE = "linear probe"


@pytest.mark.parametrize(
    ("name", "tasks", "metrics"),
    [
        (
            "rsna",
            {PROBE, retrieve.ZEROSHOT, detect.TASKS["frozen"], segment.task_name("boxes", "frozen")},
            {"map_mgca", "dice/mean"},
        ),
        (
            "luna16",
            {PROBE, retrieve.ZEROSHOT, "slices", segment.task_name("lesions", "frozen")},
            {"any/hit_rate", "dice/mean"},
        ),
        ("btcv", {segment.task_name("organs", "frozen")}, {"dice/liver", "nsd/mean"}),
    ],
)
def test_what_a_public_set_allows_is_measured(
    checkpoint_dir,  # noqa: F811
    tmp_path,
    build,  # noqa: F811
    request,
    monkeypatch,
    name,
    tasks,
    metrics,
):
    monkeypatch.setattr(trials, "FEWEST", 1)  # the trees are tiny
    build(name, request.getfixturevalue(name))
    config = configs.get_config(f"{name}_0")
    config.checkpoint, config.data_dir = str(checkpoint_dir), str(tmp_path / "records")
    config.tasks = ",".join(evaluate.TASKS)
    config.shares, config.seeds, config.rows, config.resamples, config.untrained = (1.0,), (0,), 4, 5, False
    config.segment.update(tune="frozen", setr_channels=(8, 8, 8, 8), unetr_features=4)
    config.detect.update(tune="frozen", widths=(8, 8, 8), most=4)
    for recipe in (config.segment.xray, config.segment.ct, config.detect.recipe):
        recipe.update(batch=2, epochs=1)
    evaluate.run(config, tmp_path / "evaluation")
    with (tmp_path / "evaluation" / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["task"] for row in rows} == tasks
    assert metrics <= {row["metric"] for row in rows}
    assert {row["data"] for row in rows} == {f"{name}_0"}
