"""Runs and exports that were edited or made to harm: nothing of theirs runs, memory is bounded, one line each."""

import contextlib
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy
import tensorstore

from configs import pretrain
from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import checkpoint_reading, fingerprint, integrity
from unimedi_jax.config import loaded
from unimedi_jax.inference import pretrained
from unimedi_jax.report import inspection

PLANTED = "planted_by_a_folder"
SMALL = ("unimedi.json", "unimedi.safetensors", "report")


@pytest.fixture
def copy(exported, tmp_path) -> pathlib.Path:
    """An export that a test may edit."""
    place = tmp_path / "export"
    place.mkdir()
    for name in SMALL:
        (shutil.copytree if (exported / name).is_dir() else shutil.copy)(exported / name, place / name)
    return place


@pytest.fixture
def mark(tmp_path, monkeypatch) -> pathlib.Path:
    """What a planted module would leave."""
    sys.modules.pop(PLANTED, None)
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Tokenizer:\n    pass\n"
    (tmp_path / f"{PLANTED}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


def edit(path: pathlib.Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(place: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        pretrained.load(place)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


MODEL = {
    "image_size": [0, -1, 10**9, "224", None, 224.5, [1], True],
    "image_patch": [[0, 0], [16], [16, 10**9], 16, "ab"],
    "volume_size": [[0, 0, 0], [32, 128], [10**9] * 3, {}],
    "volume_patch": [[0, 1, 1], [4, 16, 16, 1], [[4], 16, 16]],
    "slices": [10**9, -2],
    "registers": [10**9],
    "embedding": [10**9, 0],
    "prototypes_cls": [10**12],
    "report_positions": [10**9, 10**400],
    "score_layers": [10**9],
    "vision_size": [3, ["B"]],
    "scores": ["{0.__class__}"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MODEL.items() for value in values])
def test_no_network_is_built_of_numbers_that_none_has(trained, name, value):
    config = {**trained.config, "model": {**trained.config["model"], name: value}}
    with pytest.raises(UserError) as error:
        loaded.check(config, "it")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"model": []},
        {"model": {"no_such": 1}},
        {"input": {"crop": 10**9}},
        {"input": {"report_length": 10**9}},
        {"objective": "unimedi"},
        {"objective": {"name": "os.system"}},
        {"objective": {"name": "unimedi", "no_such": 1}},
        {"evals": {"ct_slices": 3}},
        {"checkpoint": {"best": 3}},
        {"seed": 1e400},
        {"steps": "many"},
        {"batch": None},
    ],
)
def test_sections_of_other_kinds_are_refused(trained, change):
    with pytest.raises(UserError):
        loaded.check({**trained.config, **change}, "it")


def test_settings_of_every_preset_pass():
    for preset in pretrain.PRESETS:
        config = pretrain.get_config(preset)
        loaded.check(json.loads(config.to_json_best_effort()), preset)


def without_config(facts):
    del facts["config"]


def config_is_a_list(facts):
    facts["config"] = [1]


def deep(facts):
    facts["contracts"] = json.loads('{"a":' * 100 + "1" + "}" * 100)


def contracts_of_strings(facts):
    facts["contracts"] = {"mine": "all"}


def labels_of_numbers(facts):
    facts["contracts"]["mine"]["labels"] = [[1]]


def step_is_text(facts):
    facts["step"] = "../7"


def another_network(facts):
    facts["network"] = {"a": 1}


def versions_are_a_list(facts):
    facts["versions"] = ["jax"]


@pytest.mark.parametrize(
    "change",
    [
        without_config,
        config_is_a_list,
        deep,
        contracts_of_strings,
        labels_of_numbers,
        step_is_text,
        another_network,
        versions_are_a_list,
    ],
)
def test_edited_facts_of_an_export_are_one_line(copy, change):
    edit(copy / "unimedi.json", change)
    refused(copy)


def test_deep_json_is_one_line_in_every_reader(copy, tmp_path):
    (copy / "unimedi.json").write_text("[" * 100_000)
    refused(copy)
    with pytest.raises(UserError):
        list(inspection.describe(copy))


@pytest.mark.parametrize("change", ["flat", "scalar", "empty", "other axes", "text", "one less"])
def test_arrays_of_other_shapes_are_one_line(copy, change):
    path = copy / "unimedi.safetensors"
    arrays = safetensors.numpy.load_file(path)
    one = "vision.pos_embed"
    arrays[one] = {
        "flat": arrays[one].reshape(-1),
        "scalar": np.ones(()),
        "empty": arrays[one][:, :0],
        "other axes": arrays[one].transpose(2, 0, 1).copy(),
        "text": np.frombuffer(b"x" * 8, np.uint8).astype(np.int8),
        "one less": np.ascontiguousarray(arrays[one][:, 1:]),
    }[change]
    arrays[one] = np.asarray(arrays[one], np.float32)
    safetensors.numpy.save_file(arrays, path)
    assert "fit" in refused(copy)


def test_a_header_that_claims_more_than_the_file_holds(copy):
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}).encode()
    (copy / "unimedi.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert "damaged" in refused(copy)
    (copy / "unimedi.safetensors").write_bytes((10**18).to_bytes(8, "little") + b"{}")
    assert "damaged" in refused(copy)


# ---- tokenizers ----

AUTO = {"auto_map": {"AutoTokenizer": [f"{PLANTED}.Tokenizer", f"{PLANTED}.Tokenizer"]}}
TEMPLATE = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_runs_no_code_of_its_folder(words, tmp_path, mark, files):
    place = tmp_path / "words"
    words.save_pretrained(place)
    if files == "vocab.txt":
        (place / "tokenizer.json").unlink()
        vocabulary = sorted(words.get_vocab(), key=words.get_vocab().get)
        (place / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    code = (tmp_path / f"{PLANTED}.py").read_text(encoding="utf-8")
    (place / f"{PLANTED}.py").write_text(code, encoding="utf-8")
    edit(place / "tokenizer_config.json", lambda c: c.update(AUTO, chat_template=TEMPLATE, tokenizer_class="Tokenizer"))
    (place / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (place / "config.json").write_text(json.dumps(AUTO | {"model_type": "no such"}), encoding="utf-8")
    with contextlib.suppress(UserError):  # it may refuse such a folder
        tokenizer.encode(tokenizer.load(place), ["No nodule."], 8)
    assert not mark.exists()


@pytest.mark.parametrize("levels", [50, 900, 100_000])
def test_deep_settings_of_a_tokenizer_are_one_line(words, tmp_path, levels):
    words.save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "tokenizer_config.json").write_text('{"a":' * levels + "1" + "}" * levels)
    with pytest.raises(UserError) as error:
        tokenizer.load(tmp_path / "words")
    assert "\n" not in str(error.value)


def test_a_vocabulary_with_gaps_is_refused(words, tmp_path):
    words.save_pretrained(tmp_path / "words")

    def gap(content):
        content["model"]["vocab"]["zzz"] = 10**9

    edit(tmp_path / "words" / "tokenizer.json", gap)
    with pytest.raises(UserError, match="gaps"):
        tokenizer.load(tmp_path / "words")


# ---- checkpoints ----


@pytest.fixture
def run(workdir, tmp_path) -> pathlib.Path:
    """A run that a test may edit."""
    return shutil.copytree(workdir, tmp_path / "run")


def sealed(run: pathlib.Path, change) -> None:
    """Edits a checkpoint's manifest, and its own hash, as a stranger could."""

    def both(manifest):
        manifest.pop("manifest")
        change(manifest)
        manifest["manifest"] = fingerprint.facts(manifest)

    edit(run / "checkpoints" / "7" / integrity.NAME, both)


@pytest.mark.parametrize("part", ["arrays", "facts", "step"])
@pytest.mark.parametrize("value", [[], None, {"a": 3}, {"params/x": [10**9, "float32", "00"]}])
def test_a_manifest_of_another_make_is_one_line(run, part, value):
    sealed(run, lambda manifest: manifest.update({part: value}))
    assert "can be used" in refused(run)


def test_a_checkpoint_that_claims_more_than_its_files_hold(run):
    state = run / "checkpoints" / "7" / "state"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{state}/"}).result()
    [key] = [
        key for key in store.list().result() if b"vision.cls" in key and b"params" in key and key.endswith(b".zarray")
    ]
    facts = json.loads(store.read(key).result().value)
    facts["shape"][0] *= 10**12
    store.write(key, json.dumps(facts).encode()).result()
    assert "GB, and all its files have" in refused(run)


def test_claims_are_held_against_the_files(tmp_path):
    import jax

    (tmp_path / "x").write_bytes(bytes(1000))
    integrity.check_claims(tmp_path, {"a": jax.ShapeDtypeStruct((1000, 1000), np.float32)})
    with pytest.raises(integrity.DamagedError, match="claim 4000000"):
        integrity.check_claims(tmp_path, {"a": jax.ShapeDtypeStruct((10**9, 10**6), np.float32)})


def test_metadata_of_a_checkpoint_names_no_class_that_is_imported(run, mark):
    changed = 0
    for path in (run / "checkpoints" / "7").rglob("_*METADATA"):
        text = path.read_text(encoding="utf-8")
        for known in ("jax.Array", "PyTreeCheckpointHandler", "orbax.checkpoint"):
            changed += known in text
            text = text.replace(known, f"{PLANTED}.Tokenizer")
        path.write_text(text, encoding="utf-8")
    assert changed
    with contextlib.suppress(UserError):  # it may refuse such a run
        pretrained.load(run)
    assert not mark.exists()


def test_a_run_whose_arrays_are_not_those_of_its_settings(run):
    step, _, meta = checkpoint_reading.read(run, ())
    assert step == 7
    meta["config"]["model"]["embedding"] = 64
    folder = run / "checkpoints" / "7"
    (folder / "meta" / "metadata").write_text(json.dumps(meta), encoding="utf-8")
    sealed(run, lambda manifest: manifest["facts"].update(meta=fingerprint.facts(meta)))
    assert "does not fit its own settings" in refused(run)
