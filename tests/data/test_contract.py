import copy
import logging

import pytest

from data import contract
from data.build import contracts
from data.errors import UserError

TRAINED = {
    "format": 1,
    "records": contracts.rules(),
    "labels": ["nodule"],
    "tokenizer": {"sha256": "a"},
    "content_sha256": "b",
    "libraries": {"numpy": "2.0"},
}


def changed(*keys, value):
    other = copy.deepcopy(TRAINED)
    place = other
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return other


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("format",), 2),
        (("records", "ct", "hu"), [-1000, 1000]),
        (("records", "ct", "volume"), [64, 64, 64]),
        (("records", "xray", "rules", "grey"), "min-max"),
        (("records", "report"), "as it is"),
    ],
)
def test_other_rules_are_named(keys, value):
    with pytest.raises(UserError) as caught:
        contract.check(TRAINED, changed(*keys, value=value), where="the set mine")
    assert ".".join(keys) in str(caught.value)
    assert "the set mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_organs_are_no_matter_of_inputs():
    other = changed("records", "organ_mask", value="0 none, 1 spleen")
    contract.check_inputs(TRAINED, other, where="the set mine")
    with pytest.raises(UserError, match=r"records\.ct\.hu"):
        contract.check_inputs(TRAINED, changed("records", "ct", "hu", value=[0, 1]), where="the set mine")


@pytest.mark.parametrize("keys", [("content_sha256",), ("labels",), ("tokenizer", "sha256")])
def test_other_data_matter_to_a_run_that_goes_on_alone(keys):
    other = changed(*keys, value="x")
    contract.check(TRAINED, other, where="the set mine")
    with pytest.raises(UserError, match=keys[0]):
        contract.check_resumed({"mine": TRAINED}, {"mine": other})
    contract.check_resumed({"mine": TRAINED}, {"mine": TRAINED})
    with pytest.raises(UserError, match="not trained on the set yours"):
        contract.check_resumed({"mine": TRAINED}, {"yours": TRAINED})


def test_other_libraries_are_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="data.contract"):
        contract.check(TRAINED, changed("libraries", "numpy", value="2.1"), where="the set mine")
    assert "numpy 2.0 then, 2.1 now" in caplog.text
