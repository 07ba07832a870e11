"""Weights of published BERTs (Bio_ClinicalBERT, MiniLM, ...), as transformers names them, for the report tower."""

import pathlib
import re

import numpy as np

from data.errors import UserError
from unimedi_jax.convert import vit, weights
from unimedi_jax.models import sizes, towers

# Behind the last layer, or no weights: poolers, heads, the projection of CXR-BERT.
SKIPPED = re.compile(r"(pooler|cls|cls_projection_head|classifier|qa_outputs)\.|embeddings\.position_ids$")
KINDS = ("bert", "cxr-bert")  # of config.json's model_type: what computes as BERT does
FILES = "config.json, vocab.txt or tokenizer.json, and model.safetensors, flax_model.msgpack or pytorch_model.bin"


def read(name: str, model: towers.UniMedI) -> vit.Weights:
    """A BERT for this model's report tower, from a folder or a hub id.

    Raises:
        UserError: no BERT architecture, another size or vocabulary, fewer positions than the model has.
    """
    place = weights.folder(name, FILES)
    _check(weights.config(place), model, place)
    state = {plain(key): value for key, value in weights.read(weights.find(place)).items()}
    skipped = [key for key in state if SKIPPED.match(key)]
    state = {f"report.{key}": value for key, value in state.items() if key not in skipped}
    changed = []
    key, ours = "report.embeddings.position_embeddings.weight", model.report.max_positions
    if key in state and len(state[key]) > ours:
        changed.append(f"the first {ours} of {len(state[key])} positions")
        state[key] = np.ascontiguousarray(state[key][:ours])
    return vit.Weights(state, tuple(changed), tuple(skipped))


def plain(key: str) -> str:
    """A name without the outer model's, and with LayerNorm's parameters as they are called today."""
    key = key.removeprefix("module.").removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check(config: dict, model: towers.UniMedI, place: pathlib.Path) -> None:
    if config.get("model_type") not in KINDS:
        raise UserError(f"{place} is a {config.get('model_type')!r} model: the report tower needs BERT's architecture")
    fixed = {"hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": 2}
    if other := [key for key, value in fixed.items() if config.get(key, value) != value]:
        raise UserError(f"{place}: {other[0]} is {config[other[0]]!r}, the report tower has {fixed[other[0]]!r}")
    tower = model.report
    ours = (tower.width, tower.depth, tower.heads, tower.mlp_width)
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    theirs = tuple(config.get(key) for key in shape)
    if theirs != ours:
        fitting = [name for name, size in sizes.REPORT.items() if size == theirs]
        raise UserError(
            f"{place} has width, depth, heads, MLP {theirs}, config.model.report_size asks for {ours}: "
            + (f"set it to {fitting[0]}" if fitting else "no size of models/sizes.py fits")
        )
    if config.get("vocab_size") != tower.vocab_size:
        raise UserError(
            f"{place} has {config.get('vocab_size')} words, the tokenizer {tower.vocab_size}: "
            "leave config.tokenizer empty, so that the model's own is used"
        )
    if config.get("max_position_embeddings", 0) < tower.max_positions:
        raise UserError(
            f"{place} has {config.get('max_position_embeddings')} positions: "
            f"set config.model.report_positions to at most that, not {tower.max_positions}"
        )
