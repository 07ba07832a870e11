"""Translation: the user's table, a small Marian model made here that knows a few sentences both ways, and checks."""

import csv
import json
import stat

import pytest

from data.errors import UserError
from data.sets import translate
from tests.data.sets.conftest import build, ct, rows  # noqa: F401 (a fixture)

PAIRS = (
    ("No se observa derrame pleural en el pulmón izquierdo.", "There is no pleural effusion in the left lung."),
    ("Nódulo de 12 mm en el lóbulo superior derecho.", "Nodule of 12 mm in the right upper lobe."),
    ("Corazón de tamaño normal.", "The heart is normal in size."),
    ("Opacidades en vidrio deslustrado en ambos pulmones.", "Ground glass opacities in both lungs."),
)
ENGLISH = "The lungs are clear and there is no effusion."


@pytest.mark.parametrize(
    ("spanish", "english", "differences"),
    [
        (*PAIRS[0], []),
        (*PAIRS[1], []),
        ("Sin cambios.", "No changes.", []),
        ("Nódulo de 2,5 cm.", "Nodule of 2.5 cm.", []),
        ("Se descarta neumotórax.", "Pneumothorax is ruled out.", []),
        ("Nódulo de 12 mm.", "Nodule of 21 mm.", ["numbers"]),
        ("Nódulo de 3 mm y otro de 3 mm.", "Nodule of 3 mm and another.", ["numbers"]),
        ("No se observa derrame pleural.", "Pleural effusion is observed.", ["negation"]),
        ("Derrame pleural.", "No pleural effusion.", ["negation"]),
        ("Opacidades en ambos pulmones con patrón periférico.", "Opacities.", ["length"]),
        ("Derrame en el lado izquierdo.", "Left side " * 20, ["length"]),
        ("Derrame.", "", ["length"]),
    ],
)
def test_doubts(spanish, english, differences):
    assert translate.doubts(spanish, english) == differences


def tree(root):
    """BIMCV with two reports of two sentences each, and a third that reads English."""
    texts = [f"{PAIRS[0][0]} {PAIRS[1][0]}", f"{PAIRS[2][0]} {PAIRS[3][0]}", ENGLISH]
    lines = []
    for number, report in enumerate(texts, start=1):
        name = f"sub-S{number}_ses-E{number}_run-1_bp-chest_ct.nii.gz"
        ct(root / f"sub-S{number}/ses-E{number}/mod-ct/{name}", number)
        lines.append(f"sub-S{number}\tses-E{number}\t{report}")
    rows(root / "derivatives/labels/labels_covid19_posi.tsv", "PatientID\tReportID\tReport", *lines)
    return root


def reports(made):
    return {one["patient"]: one["report"] for split in made.records.values() for one in split.values()}


def test_a_table_of_one_s_own(tmp_path, build):  # noqa: F811
    table = rows(tmp_path / "english.csv", "report_id,english", f'ses-E1,"{PAIRS[0][1]} Nodule of 21 mm on the right."')
    settings = {"language": "en", "foreign": "translate", "translations": str(table)}
    made = build("bimcv_covid19", tree(tmp_path / "raw"), settings)
    assert reports(made) == {
        "sub-S1": "There is no pleural effusion in the left lung. Nodule of 21 mm on the right.",
        "sub-S3": ENGLISH,
    }
    assert [one["reason"].partition(":")[0] for one in made.rejected] == ["no_translation"]
    facts = made.contract["source"]["reports"]["translation"]
    assert (facts["missing"], facts["doubtful"]) == (1, {"numbers": 1})
    assert made.counted("translated 1")
    rows(table, "report_id,english", "ses-E1,a", "ses-E1,b")
    with pytest.raises(UserError, match="names 1 reports more than once"):
        build("bimcv_covid19", tmp_path / "raw", settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"foreign": "translate", "language": "en"},
        {"foreign": "keep", "language": "en", "translations": "t.csv"},
        {"foreign": "translate", "language": "es", "translations": "t.csv"},
        {"foreign": "x"},
        {"language": "fr"},
    ],
)
def test_settings_that_do_not_fit(tmp_path, build, settings):  # noqa: F811
    rows(tmp_path / "t.csv", "report_id,english", "a,b")
    settings = {name: str(tmp_path / value) if value == "t.csv" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=r"config\.report\.") as caught:
        build("bimcv_covid19", tmp_path, settings)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A folder with a Marian model of two small layers that has learnt PAIRS by heart, in both directions."""
    spm = pytest.importorskip("sentencepiece", reason="requirements-translate.txt is not installed")
    pytest.importorskip("sacrebleu", reason="requirements-translate.txt is not installed")
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder = tmp_path_factory.mktemp("opus-mt-tiny")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(one for pair in PAIRS for one in pair))
    spm.SentencePieceTrainer.train(
        input=str(texts), model_prefix=str(folder / "source"), vocab_size=120, hard_vocab_limit=False, minloglevel=2
    )
    (folder / "source.model").rename(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    pieces = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces))), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: at for at, name in enumerate(names)}))
    tokenizer = MarianTokenizer(str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"))
    pad = tokenizer.pad_token_id
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for further ones
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(names),
            d_model=48,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            pad_token_id=pad,
            eos_token_id=0,
            decoder_start_token_id=pad,
            forced_eos_token_id=0,
            num_beams=1,
            dropout=0.0,
        )
    )
    sources, targets = zip(*PAIRS, *(pair[::-1] for pair in PAIRS), strict=True)
    rows_in = tokenizer(list(sources), text_target=list(targets), return_tensors="pt", padding=True)
    labels = rows_in["labels"].masked_fill(rows_in["labels"] == pad, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss = model(input_ids=rows_in["input_ids"], attention_mask=rows_in["attention_mask"], labels=labels).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05, "the pairs are learnt"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yield folder
    torch.set_num_threads(threads)


def test_a_set_through_a_marian_model(tmp_path, marian, build, monkeypatch):  # noqa: F811
    raw = tree(tmp_path / "raw")
    settings = {
        "language": "en",
        "foreign": "translate",
        "translator": str(marian),
        "back_translator": str(marian),
        "style": "mgca",
    }
    made = build("bimcv_covid19", raw, settings | {"style": "plain"})
    assert reports(made) == {
        "sub-S1": f"{PAIRS[0][1]} {PAIRS[1][1]}",
        "sub-S2": f"{PAIRS[2][1]} {PAIRS[3][1]}",
        "sub-S3": ENGLISH,
    }
    facts = made.contract["source"]["reports"]["translation"]
    assert facts["model"]["name"] == marian.name, "the name of a folder, not its place"
    assert len(facts["model"]["sha256"]) == 64
    assert (facts["sentences"], facts["doubtful"], facts["chrf_mean"]) == (4, {}, 100.0)
    page = tmp_path / "run" / "translations.csv"
    with page.open(encoding="utf-8") as stream:
        shown = list(csv.DictReader(stream))
    assert [(one["report_id"], one["source"]) for one in shown] == [
        (f"ses-E{1 + n // 2}", pair[0]) for n, pair in enumerate(PAIRS)
    ]
    assert {one["chrf"] for one in shown} == {"100.0"}
    cache = next((tmp_path / "records" / ".translations").glob("*.jsonl"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, cache)] == [0o600, 0o600]
    assert cache.stem == facts["model"]["sha256"][:16]
    # Every sentence is known now: the model is not even loaded, a cut line costs one sentence, captions are MGCA's.
    with monkeypatch.context() as patch:
        patch.setattr(translate, "_load", lambda folder: pytest.fail("loaded"))
        again = build("bimcv_covid19", raw, settings)
    assert (
        reports(again)["sub-S1"]
        == "there is no pleural effusion in the left lung nodule of 12 mm in the right upper lobe"
    )
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert len(reports(build("bimcv_covid19", raw, settings))) == 3


def test_doubtful_reports_can_be_left_out(tmp_path, marian, build, monkeypatch):  # noqa: F811
    monkeypatch.setattr(translate, "doubts", lambda source, english: ["negation"] if "Nodule" in english else [])
    settings = {"language": "en", "foreign": "translate", "translator": str(marian), "drop_doubtful": True}
    made = build("bimcv_covid19", tree(tmp_path / "raw"), settings)
    assert set(reports(made)) == {"sub-S2", "sub-S3"}
    assert [one["reason"].partition(":")[0] for one in made.rejected] == ["no_translation"]
    with (tmp_path / "run" / "translations.csv").open(encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["doubts"] == "negation", "doubtful sentences come first"


def test_models_that_are_none(tmp_path, marian, build):  # noqa: F811
    raw = tree(tmp_path / "raw")
    settings = {"language": "en", "foreign": "translate"}
    with pytest.raises(UserError, match=r"holds no model\.safetensors or pytorch_model\.bin"):
        build("bimcv_covid19", raw, settings | {"translator": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="holds no Marian model that can be read") as caught:
        build("bimcv_covid19", raw, settings | {"translator": str(tmp_path)})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a folder, and the hub does not give it") as caught:
        build("bimcv_covid19", raw, settings | {"translator": "nobody/no-model"})
    assert "\n" not in str(caught.value)
