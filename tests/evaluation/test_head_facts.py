"""Facts of saved heads that were edited, sealed again and handed on."""

import pytest

from unimedi_jax.evaluation import head_facts

SHARED = {
    "modality": "xray",
    "tune": "linear",
    "encoder": "00ff",
    "checkpoint": {"run": "run", "network": "student", "step": 7},
    "trained_on": {"set": "phantom"},
    "contract": {"records": {}},
}
PROBE = {"kind": "probe", "names": ["a"], "thresholds": {"a": {"value": 0.5}}, "one_of": False, "ct_slices": None}
SEGMENT = {"kind": "segment", "names": ["heart"], "target": "organs", "classes": 2, "setr_channels": [8, 4]}
SEGMENT |= {"unetr_features": 4, "unetr_norm": False, "windows": False}
DETECT = {"kind": "detect", "widths": [8], "lowest": 0.01, "overlap": 0.5, "threshold": 0.3}


@pytest.mark.parametrize("own", [PROBE, SEGMENT, DETECT])
def test_heads_as_they_are_saved_pass(own):
    assert head_facts.flaw(SHARED | own) == ""


@pytest.mark.parametrize("own", [PROBE, SEGMENT, DETECT])
@pytest.mark.parametrize("value", [[[]], {"a": {}}, 10**9, -1, "os.system", [10**9]])
def test_no_fact_of_another_kind_passes(own, value):
    facts = SHARED | own
    free = {"target", "tune", "encoder"} if isinstance(value, str) else set()
    numbers = {"lowest", "overlap", "threshold"} if isinstance(value, int) else set()
    for name in facts.keys() - free - numbers:
        assert head_facts.flaw({**facts, name: value}) == name
        assert head_facts.flaw({key: fact for key, fact in facts.items() if key != name}) == name


@pytest.mark.parametrize("facts", [None, [], "probe", {}, {"kind": []}, {"kind": "sql"}])
def test_what_is_no_head_at_all(facts):
    assert head_facts.flaw(facts) == "kind"
