import json

import pytest

from configs import inspect as inspect_config
from data.build import contracts
from data.errors import UserError
from unimedi_jax.config.jobs import InspectConfig
from unimedi_jax.report import inspection

CONTRACT = {
    "name": "mine",
    "format": 1,
    "labels": ["nodule", "effusion"],
    "splits": {"xray": {"train": 7, "val": 0, "test": 1}},
    "records": contracts.rules(),
    "libraries": {"numpy": "2.0"},
    "content_sha256": "abc123",
    "notes": {"colour": 2},
}


def test_a_set(tmp_path, capsys):
    (tmp_path / "contract.json").write_text(json.dumps(CONTRACT))
    inspection.run(InspectConfig(path=str(tmp_path)))
    shown = capsys.readouterr().out
    for line in (
        "name: mine",
        "content_sha256: abc123",
        "xray records: 7 train, 0 val, 1 test",
        "labels: nodule, effusion",
    ):
        assert line in shown.splitlines()
    assert "  ct.hu: [-1024, 3071]" in shown.splitlines()
    assert max(map(len, shown.splitlines()[1:])) <= inspection.WIDTH


def test_an_export(tmp_path):
    (tmp_path / "unimedi.json").write_text(json.dumps({"contracts": {"mine": CONTRACT}, "versions": {"jax": "1"}}))
    (tmp_path / "contract.json").write_text(json.dumps({"sets": {"mine": CONTRACT}}))
    lines = list(inspection.describe(tmp_path))
    assert lines[0].startswith("export: ")
    assert lines[1:3] == ["versions: jax 1", "trained on: mine"]
    assert "content_sha256: abc123" in lines


def test_nothing_to_inspect(tmp_path):
    with pytest.raises(UserError, match="nothing to inspect"):
        inspection.run(InspectConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match=r"config\.path"):
        inspection.run(inspect_config.get_config())
