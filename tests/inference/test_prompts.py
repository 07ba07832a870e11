"""Prompts of one's own: files that mean something, files that do not, and published pairs."""

import json

import pytest

from data.errors import UserError
from data.reports.prompts import of_label
from unimedi_jax.inference import prompts

CONTRACT = {"labels": ["nodule", "No Finding"], "prompts": {name: of_label(name) for name in ("nodule", "No Finding")}}
OWN = {"nodule": {"positive": ["A nodule, large.", "Mass."], "negative": ["No nodule."]}}


def written(tmp_path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_json_and_csv_say_the_same(tmp_path) -> None:
    as_json = written(tmp_path, "a.json", json.dumps(OWN))
    lines = 'label,positive,negative\nnodule,"A nodule, large.",No nodule.\nnodule,Mass.,\n'
    as_csv = written(tmp_path, "a.csv", lines)
    semicolons = written(
        tmp_path, "b.csv", "\ufeffLabel;Positive;Negative\nnodule;A nodule, large.;No nodule.\nnodule;Mass.;"
    )
    for file in (as_json, as_csv, semicolons):
        assert prompts.read(file) == OWN
        chosen = prompts.of_set(file, CONTRACT)
        assert chosen == {**OWN, "No Finding": CONTRACT["prompts"]["No Finding"]}, "the other label keeps its prompts"
        prompts.check(file, CONTRACT["labels"])


def test_prompts_that_only_assert(tmp_path) -> None:
    short = written(tmp_path, "a.json", '{"nodule": ["Nodule."]}')
    table = written(tmp_path, "a.csv", "label,positive\nnodule,Nodule.\n")
    assert prompts.read(short) == prompts.read(table) == {"nodule": {"positive": ["Nodule."], "negative": []}}


def test_published_pairs() -> None:
    ct_clip, chexzero = (prompts.of_set(name, CONTRACT) for name in ("ct_clip", "chexzero"))
    assert ct_clip["nodule"] == {"positive": ["nodule is present."], "negative": ["nodule is not present."]}
    assert chexzero["nodule"] == {"positive": ["nodule"], "negative": ["no nodule"]}
    assert ct_clip["No Finding"] == chexzero["No Finding"] == of_label("no_finding")
    pathology = {"labels": ["Hiatal hernia"], "prompts": {}}
    assert prompts.of_set("ct_clip", pathology)["Hiatal hernia"]["positive"] == ["Hiatal hernia is present."]
    prompts.check("ct_clip", [])
    assert len(prompts.read("ct_clip")) == 18
    assert len(prompts.read("chexzero")) == 14
    pair = {"positive": ["Hiatal hernia is present."], "negative": ["Hiatal hernia is not present."]}
    assert prompts.read("ct_clip")["Hiatal hernia"] == pair


@pytest.mark.parametrize("label", ["No Finding", "Normal", "no_finding"])
def test_nothing_is_denied_by_an_abnormality(label: str) -> None:
    pair = of_label(label)
    assert all("abnormal" in text for text in pair["negative"])
    assert not any("no no" in text or "no normal" in text for side in pair.values() for text in side)


def test_without_a_setting_the_set_decides() -> None:
    assert prompts.of_set("", CONTRACT) == CONTRACT["prompts"]
    assert prompts.of_set("", {"labels": ["a"], "prompts": {}}) == {}
    prompts.check("", [])


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "", r"is a .json or .csv file, or one of ct_clip, chexzero"),
        ("a.json", "", r"not JSON at line 1, column 1"),
        ("a.json", '{"nodule": [\n"a" "b"]}', r"not JSON at line 2, column 5"),
        ("a.json", "[]", r"must hold one object"),
        ("a.json", "{}", r"holds no prompts"),
        ("a.json", DEEP, r"JSON, but not of prompts"),
        ("a.json", '{"nodule": ' + DEEP, r"JSON, but not of prompts"),
        ("a.json", '{"nodule": ' + "9" * 5000 + "}", r"JSON, but not of prompts"),
        ("a.json", '{"nodule": ["é"]}'.encode("latin-1"), r"not UTF-8 \(byte 13\)"),
        ("a.json", '{"nodule": []}', r"'nodule' has no positive prompt"),
        ("a.json", '{"nodule": {"negative": ["no"]}}', r"'nodule' has no positive prompt"),
        ("a.json", '{"nodule": "a nodule"}', r"positive must be a list of sentences"),
        ("a.json", '{"nodule": ["a", " "]}', r"none of them blank"),
        ("a.json", '{"nodule": ["a", 3]}', r"positive must be a list of sentences"),
        ("a.json", '{"nodule": {"positive": ["a"], "deny": ["b"]}}', r"'deny' is neither positive nor negative"),
        ("a.json", '{"nodule": ["a"], "nodule": ["b"]}', r"names 'nodule' twice"),
        ("a.json", '{"' + "n" * 9000 + '": []}', r"n\.\.\. has no positive prompt"),
        ("a.json", '{"' + '": 1, "'.join(map(str, range(50_000))) + '": [], "7": []}', r"names '7' twice"),
        ("a.json", " " * (prompts.LARGEST + 1), r"more than 1048576 bytes"),
        ("a.csv", "", r"must have the columns label, positive"),
        ("a.csv", "label,negative\na,b\n", r"must have the columns label, positive"),
        ("a.csv", "label,positive,comment\na,b,c\n", r"must have the columns label, positive"),
        ("a.csv", "label,positive\n", r"holds no prompts"),
        ("a.csv", "label,positive\nnodule,a, b\n", r"row 1, has 3 cells for 2 columns"),
        ("a.csv", "label,positive\n,a\n", r"row 1, has no label"),
        ("a.csv", "label,positive,negative\nnodule,,no\n", r"'nodule' has no positive prompt"),
        ("a.csv", 'label,positive\nnodule,"a\n', r"not valid CSV"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name: str, content: str | bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        prompts.read(written(tmp_path, name, content))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_is_not_there(tmp_path) -> None:
    for setting in (str(tmp_path / "none.json"), str(tmp_path), "ct-clip"):
        with pytest.raises(UserError, match=r"config\.prompts"):
            prompts.read(setting)


def test_a_label_that_the_data_lack(tmp_path) -> None:
    file = written(tmp_path, "a.json", '{"nodule": ["a"], "Nodulee": ["b"]}')
    with pytest.raises(UserError, match=r"names the label 'Nodulee'.*Their labels: nodule, mass"):
        prompts.check(file, ["nodule", "mass"])
    with pytest.raises(UserError, match=r"did you mean 'nodule'\?"):
        prompts.check(written(tmp_path, "b.json", '{"nodul": ["b"]}'), ["nodule"])
