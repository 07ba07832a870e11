"""Lists of members tell patients and pictures that sets share, and nobody else's."""

import json

from data import members
from data.manifest import privacy

SALT, OTHER = "a secret of sixteen", "another of sixteen"


def described(patients: dict, pictures: dict, salt: str = SALT) -> members.Members:
    split = {name: {where} for name, where in patients.items()}
    return members.describe(split, {key.encode(): {where} for key, where in pictures.items()}, salt)


def test_what_two_sets_share_is_counted_from_training_to_test_alone() -> None:
    one = described({"a": "train", "b": "train", "c": "val"}, {"x": "train", "y": "train"})
    other = described({"a": "test", "b": "train", "c": "test", "d": "test"}, {"y": "test", "x": "val"})
    assert members.shared(members.training(one), other) == {"patients": 1, "pictures": 1}
    assert members.shared(members.training(other), one) == {"patients": 0, "pictures": 0}
    assert set(members.training(one)) == {"salt", "train"}


def test_sets_of_other_salts_cannot_be_compared_and_no_name_is_in_the_list(tmp_path) -> None:
    one, other = (described({"Zaphod": "train"}, {"x": "test"}, salt) for salt in (SALT, OTHER))
    assert members.shared(one, other) is None
    assert not set(one["train"]["patients"]) & set(other["train"]["patients"])
    assert not set(one["test"]["pictures"]) & set(other["test"]["pictures"])
    members.write(tmp_path, one)
    assert members.read(tmp_path) == one
    text = (tmp_path / members.FILE).read_text()
    assert "Zaphod" not in text
    assert SALT not in text
    assert json.loads(text) == one
    assert members.read(tmp_path / "nowhere") is None


def test_a_patient_whose_name_one_set_keeps_is_the_one_whose_name_another_hides() -> None:
    kept = described({"Zaphod": "train"}, {})
    hidden = described({privacy.pseudonym("Zaphod", SALT): "test"}, {})
    assert members.shared(kept, hidden) == {"patients": 1, "pictures": 0}
