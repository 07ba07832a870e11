"""Embeddings of a split: each record once and in its order, on any number of devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from data.errors import UserError
from unimedi_jax import sharding
from unimedi_jax.inference import features
from unimedi_jax.models import towers

RECORDS = 11  # no batch of any mesh below divides them


class Held:
    """A set in memory, with what `features.embed` needs of a set."""

    def __init__(self) -> None:
        self.contract = {"labels": ["finding"]}

    def source(self, modality, split, fields=None):
        return list(range(RECORDS))


class Sampler:
    """Record number to a random film with a report as long as its number."""

    modality, keep = "xray", ()

    def __call__(self, record, rng=None):
        rng = np.random.default_rng(record)
        return {
            "tokens": rng.integers(0, 256, (16, 256), dtype=np.uint8),
            "text": rng.integers(1, 50, 12, dtype=np.int32),
            "text_mask": np.arange(12) <= record,
            "labels": np.float32([record]),
            "report": f"report {record}",
        }


def embedded(model: towers.UniMedI, variables, data: int, fsdp: int) -> features.EmbeddedSplit:
    devices = jax.devices()[: data * fsdp]
    mesh = jax.make_mesh((data, fsdp), sharding.AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    embedder = features.Embedder.of(model, mesh, rows=1, ct_slices=True)
    variables = jax.device_put(variables, jax.sharding.NamedSharding(mesh, jax.P()))
    with jax.set_mesh(mesh):
        return features.embed(embedder, variables, Held(), Sampler(), "test")


@pytest.fixture(scope="module")
def on_one_device(tiny, tiny_variables) -> features.EmbeddedSplit:
    return embedded(tiny, tiny_variables, 1, 1)


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (2, 2), (1, 8)])
def test_every_record_once_on_any_number_of_devices(tiny, tiny_variables, on_one_device, data: int, fsdp: int) -> None:
    split = embedded(tiny, tiny_variables, data, fsdp)
    np.testing.assert_array_equal(split.labels[:, 0], np.arange(RECORDS))
    assert split.reports == tuple(f"report {record}" for record in range(RECORDS))
    for name in ("cls", "z", "z_report"):
        ours, expected = getattr(split, name), getattr(on_one_device, name)
        assert len(ours) == RECORDS
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=name)


class Words:
    """A tokenizer with one token a word."""

    def __call__(self, texts, max_length, **settings):
        ids = np.zeros((len(texts), max_length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            numbers = [int(word) for word in text.split()][:max_length]
            row[: len(numbers)] = numbers
        return {"input_ids": ids, "attention_mask": ids > 0}


def test_a_report_is_cut_to_its_bucket_whatever_lies_beside_it(tiny, tiny_variables):
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(1, 50, n))) for n in (12, 1, 4, 7, 2, 12, 3)]
    mesh = jax.make_mesh((1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
    lengths, found = [], []
    for buckets in ((), (8, 4)):
        embedder = features.Embedder.of(tiny, mesh, rows=2, ct_slices=True, buckets=buckets)
        report = embedder.report

        def spy(variables, text, mask, report=report):
            lengths.append(text.shape[1])
            return report(variables, text, mask)

        embedder = dataclasses.replace(embedder, report=spy)
        variables = sharding.put_replicated(tiny_variables, mesh)
        found.append(features.embed_reports(embedder, variables, Words(), texts, 12))
        alone = [features.embed_reports(embedder, variables, Words(), [text], 12)[0] for text in texts]
        np.testing.assert_array_equal(found[-1], alone)
        del lengths[-len(texts) :]
    assert lengths == [12] * 4 + [4, 4, 8, 12]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_diverged_weights_are_one_line(tiny, tiny_variables) -> None:
    diverged = jax.tree.map(lambda x: np.full_like(x, np.nan), tiny_variables)
    with pytest.raises(UserError, match=r"the network's output for X-rays is not finite: its weights have diverged"):
        embedded(tiny, diverged, 1, 1)
