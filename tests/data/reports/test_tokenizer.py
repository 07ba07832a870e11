import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from data.errors import UserError
from data.reports import tokenizer

ROOT = Path(__file__).parents[3]
REPORTS = [
    "Small nodule in the right upper lobe. No pleural effusion.",
    "Ápex normal; no nodule in the left lobe.",
    "Right lower lobe consolidation, heart enlarged.",
    "Pneumonectomy of Mrs Zyxwvut.",
] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(tokenizer.train(REPORTS), path)
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return tokenizer.load(folder)


def test_special_tokens_come_first(loaded):
    assert loaded.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (loaded.pad_token_id, loaded.unk_token_id, loaded.cls_token_id) == (0, 1, 2)
    assert (loaded.sep_token_id, loaded.mask_token_id) == (3, 4)


def test_encode_is_fixed_in_shape(loaded):
    ids, mask = tokenizer.encode(loaded, [REPORTS[0], "heart", "nodule " * 40], 16)
    assert (ids.shape, ids.dtype, mask.dtype) == ((3, 16), np.int32, bool)
    np.testing.assert_array_equal(mask, ids != 0)
    np.testing.assert_array_equal(ids[:, 0], 2)
    assert ids[1, :4].tolist() == [2, loaded.convert_tokens_to_ids("heart"), 3, 0]
    assert mask[2].all()
    assert ids[2, -1] == 3
    empty_ids, empty_mask = tokenizer.encode(loaded, [], 16)
    assert empty_ids.shape == empty_mask.shape == (0, 16)


def test_it_splits_words_as_bert_does(folder, loaded, tmp_path):
    """The same vocabulary in transformers' own BertTokenizer gives the same ids."""
    vocabulary = sorted(loaded.get_vocab(), key=loaded.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    judge = transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=True)
    texts = [*REPORTS, "NO Lobectomía, heart-left (12 mm)!", "完 normal"]
    for text in texts:
        assert loaded(text)["input_ids"] == judge(text)["input_ids"]


def test_a_word_seen_once_gets_no_piece_of_its_own():
    trained = tokenizer.train([*REPORTS, "seen by Okonkwo"])
    assert "okonkwo" not in trained.get_vocab()
    assert trained.token_to_id("nodule") is not None
    assert trained.decode(trained.encode("seen by okonkwo").ids) == "seen by okonkwo"


def test_vocab_size_is_kept():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), 7)) for _ in range(300)] * 2
    assert tokenizer.train(texts, vocab_size=200).get_vocab_size() == 200


def test_training_is_the_same_in_every_process_and_order(tmp_path):
    code = (
        "import sys, json\nfrom data.reports import tokenizer\n"
        "sys.stdout.write(tokenizer.train(json.load(sys.stdin), vocab_size=90).to_str())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(texts),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        ).stdout
        for seed, texts in (("1", REPORTS), ("2", REPORTS[::-1]), ("3", REPORTS))
    }
    assert len(outputs) == 1


def test_no_words_no_tokenizer():
    with pytest.raises(UserError, match="no word"):
        tokenizer.train(["", "  "])


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer in the folder .*tokenizer\.json"):
        tokenizer.load(tmp_path)


def test_a_hub_tokenizer_that_cannot_be_reached():
    with pytest.raises(UserError, match=r"no tokenizer 'nobody/none'.*Put tokenizer\.json") as caught:
        tokenizer.load("nobody/none")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_bert_like(tmp_path):
    bare = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no pad_token, cls_token, sep_token"):
        tokenizer.load(tmp_path)
