"""Classifiers of findings on CLS: a linear probe, or a fine-tuned encoder under a linear head."""

import jax
import numpy as np

from unimedi_jax.evaluation import encoder
from unimedi_jax.evaluation.network import Network
from unimedi_jax.inference.pretrained import Pretrained
from unimedi_jax.metrics import linear_probe
from unimedi_jax.models import vision
from unimedi_jax.typing import Array, Float, Num

LINEAR = ("weights", "bias", "mean", "scale", "fitted")  # the arrays of a linear probe


def logits(
    pretrained: Pretrained,
    network: Network,
    tokens: Num[Array, "b n v"],
    modality: str,
    *,
    ct_slices: bool,
    lateral: vision.Lateral = None,
) -> Float[Array, "b c"]:
    """Of every label or class, by a fine-tuned network."""
    head = network.decoder
    settings = {"ct_slices": ct_slices, "stats": network.encoder_stats, "lateral": lateral}
    cls = encoder.cls(pretrained.model, network.encoder, tokens, modality, **settings)
    return cls @ head["weights"] + head["bias"][None]


def probabilities(logits: Float[Array, "n c"], one_of: bool) -> Float[np.ndarray, "n c"]:
    """Softmax over exclusive classes, else the sigmoid of each label."""
    return np.asarray(jax.nn.softmax(logits) if one_of else jax.nn.sigmoid(logits))


def linear_arrays(probe: linear_probe.Classifier) -> dict[str, np.ndarray]:
    """The arrays of a linear probe, as a head holds them."""
    return {name: np.asarray(getattr(probe, name)) for name in LINEAR}


def linear(arrays: dict[str, np.ndarray], one_of: bool) -> linear_probe.Classifier:
    """The probe that a head's arrays hold."""
    return linear_probe.Classifier(*(arrays[name] for name in LINEAR), one_of)
