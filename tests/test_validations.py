"""What ranks the checkpoints of a run: the metric asked for, or what its validations have in its place."""

import json
import math

import pytest

from unimedi_jax import validations

LINES = [
    {"step": 10, "loss": 1.0},
    {"step": 10, "val/ct/zeroshot/macro": None, "val/ct/retrieval/i2t_r5": 0.2, "val/gap/images/separation": 0.1},
    {"step": 20, "val/ct/zeroshot/macro": 0.7, "val/ct/retrieval/i2t_r5": 0.3, "val/xray/retrieval/i2t_r5": 0.1},
]


@pytest.mark.parametrize(
    ("asked", "metric", "scores"),
    [
        ("ct/zeroshot/macro", "ct/zeroshot/macro", {10: -math.inf, 20: 0.7}),
        ("ct/zeroshot/macr", "ct/retrieval/i2t_r5", {10: 0.2, 20: 0.3}),
        ("xray/zeroshot/macro", "xray/retrieval/i2t_r5", {10: -math.inf, 20: 0.1}),
        ("xray:mine/zeroshot/macro", "xray/retrieval/i2t_r5", {10: -math.inf, 20: 0.1}),
    ],
)
def test_retrieval_stands_in_for_what_no_validation_has(tmp_path, asked, metric, scores):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    ranking = validations.ranking(tmp_path, asked)
    assert (ranking.metric, ranking.scores) == (metric, scores)
    assert "gap/images/separation" not in ranking.others
    assert {metric, *ranking.others} == {"ct/zeroshot/macro", "ct/retrieval/i2t_r5", "xray/retrieval/i2t_r5"}


def test_without_validations_there_is_nothing_to_rank(tmp_path):
    assert validations.ranking(tmp_path, "ct/zeroshot/macro") == ("ct/zeroshot/macro", {}, ())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/gap/images/separation": 0.1}\n')
    assert validations.ranking(tmp_path, "ct/zeroshot/macro") == ("ct/zeroshot/macro", {1: -math.inf}, ())
