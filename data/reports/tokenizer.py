"""Report text to token ids: a WordPiece vocabulary of your own reports, or a published tokenizer."""

import collections
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data import json_files
from data.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The order gives the ids: padding is 0, as everywhere in BERT's family.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_ALPHABET = 1000
FILES = "tokenizer.json and tokenizer_config.json (or vocab.txt)"


def train(texts: Iterable[str], *, vocab_size: int = 4096) -> Tokenizer:
    """A lower-case BERT WordPiece tokenizer whose vocabulary comes from `texts`; equal texts give equal bytes.

    A piece must occur twice: a word of a single report, such as a name, gets no entry in a file that is passed on with
    the set. Raises UserError where the texts hold no word.
    """
    texts = sorted(texts)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts = collections.Counter("".join(normalizer.normalize_str(text) for text in texts))
    letters = sorted(c for c, _ in counts.most_common(MAX_ALPHABET) if not c.isspace())
    if not letters:
        raise UserError("the training reports hold no word: no vocabulary can be made of them")
    # The trainer numbers the pieces "##a" in the order of a hash table that differs from run to run, and breaks
    # ties by number. Named up front they have fixed numbers, but become "special tokens": only the vocabulary of
    # this tokenizer is used.
    fixed = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    trained = _tokenizer(models.WordPiece(unk_token="[UNK]"), normalizer)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=fixed, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    model = models.WordPiece(trained.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = _tokenizer(model, normalizer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _tokenizer(model: models.WordPiece, normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes `tokenizer.json` and its config into `folder`, in the layout that transformers loads."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, SPECIAL_TOKENS, strict=True))
    _transformers().PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def load(name: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder (a built set's `tokenizer/`, a Hugging Face one) or of a Hugging Face hub id.

    Raises UserError where there is none, where the hub cannot be reached, and for a tokenizer without one of [PAD],
    [CLS] and [SEP], which the report tower needs.
    """
    name = str(Path(name).expanduser())
    files = f"Put {FILES} into a folder and name that folder"
    if Path(name).is_dir() and not any((Path(name) / f).is_file() for f in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"no tokenizer in the folder {name}. {files}")
    for path in Path(name).glob("*.json"):
        json_files.read(path, "choose another tokenizer")  # its size and depth, before transformers does
    transformers = _transformers()
    try:
        if not Path(name).is_dir():
            _fetch(str(name))
        # Not AutoTokenizer if the class is known: it imports PyTorch wherever that is installed.
        whole = (Path(name) / "tokenizer.json").is_file()
        kind = transformers.PreTrainedTokenizerFast if whole else transformers.AutoTokenizer
        tokenizer = kind.from_pretrained(str(name), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise UserError(
            f"no tokenizer '{name}': no such folder, and the Hugging Face hub and its cache do not have it or "
            f"cannot be reached ({type(error).__name__}). {files}"
        ) from error
    missing = [t for t in ("pad_token", "cls_token", "sep_token") if getattr(tokenizer, t) is None]
    if missing:
        raise UserError(f"the tokenizer '{name}' has no {', '.join(missing)}: choose a BERT-like one")
    if max(tokenizer.get_vocab().values()) >= len(tokenizer):
        raise UserError(f"the tokenizer '{name}' numbers its words with gaps: choose a BERT-like one")
    return tokenizer


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 (n, max_length) and mask bool (n, max_length), True = token; longer texts lose their end, not [SEP]."""
    if not len(texts):
        return np.zeros((0, max_length), np.int32), np.zeros((0, max_length), bool)
    lengths = dict(padding="max_length", truncation=True, max_length=max_length)
    batch = tokenizer(list(texts), **lengths, return_tensors="np", return_token_type_ids=False)
    return batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)


def _fetch(name: str) -> None:
    """Downloads a hub tokenizer's files into the cache, unless they are there; raises what the hub's client raises."""
    import huggingface_hub

    files = ["tokenizer*.json", "vocab.*", "special_tokens_map.json", "config.json"]
    try:
        huggingface_hub.snapshot_download(name, allow_patterns=files, local_files_only=True)
    except huggingface_hub.errors.LocalEntryNotFoundError:
        # Fails at once when offline: the download itself would retry for half a minute.
        huggingface_hub.model_info(name, timeout=10)
        huggingface_hub.snapshot_download(name, allow_patterns=files)


def _transformers():
    """The transformers module, imported late: it takes a second. Its advice to install PyTorch is switched off."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
