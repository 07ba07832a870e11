"""What a run is trained on: how its batches are shared between X-rays and CTs."""

import dataclasses
import types

import pytest

from unimedi_jax.config.pretraining import BatchConfig, InputConfig, PretrainConfig
from unimedi_jax.train import dataset


def holding(**counts: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(size=lambda modality, split: counts[modality] if split == "train" else 999)


def shared(xrays: int, cts: int, *sets: types.SimpleNamespace, by: str = "sqrt") -> tuple[int, int]:
    config = dataclasses.replace(PretrainConfig(), input=InputConfig(modality_shares=by), batch=BatchConfig(xrays, cts))
    batch = dataset.share_rows(config, [(one, 1.0) for one in sets])
    return batch.xray, batch.ct


def test_rows_by_the_square_root_of_the_records() -> None:
    assert shared(12, 4, holding(xray=900, ct=100)) == (12, 4)
    assert shared(12, 4, holding(xray=800, ct=0), holding(xray=100, ct=900)) == (8, 8), "records of all sets"
    assert shared(10, 10, holding(xray=1600, ct=100)) == (16, 4)


def test_every_modality_has_a_row() -> None:
    assert shared(12, 4, holding(xray=10**6, ct=1)) == (15, 1)
    assert shared(1, 1, holding(xray=1, ct=10**6)) == (1, 1)


@pytest.mark.parametrize("counts", [{"xray": 100, "ct": 0}, {"xray": 0, "ct": 7}])
def test_a_run_of_one_modality_stays_as_it_is(counts: dict[str, int]) -> None:
    assert shared(12, 4, holding(**counts)) == (12, 4)
    assert shared(12, 0, holding(xray=100, ct=100)) == (12, 0)


def test_the_configured_rows_by_default() -> None:
    assert InputConfig().modality_shares == "batch"
    assert shared(3, 5, holding(xray=900, ct=100), by="batch") == (3, 5)
    with pytest.raises(ValueError, match="modality_shares must be one of batch, sqrt"):
        InputConfig(modality_shares="log")


def test_a_batch_of_so_many_in_all_stays_on_any_number_of_devices() -> None:
    assert BatchConfig(12, 4).rows(8) == {"xray": 96, "ct": 32}
    assert BatchConfig(12, 4).rows(16) == {"xray": 192, "ct": 64}
    for devices in (1, 8, 32):
        assert BatchConfig(12, 4, total=128).rows(devices) == {"xray": 96, "ct": 32}
    assert BatchConfig(16, 0, total=100).rows(4) == {"xray": 100, "ct": 0}
    with pytest.raises(
        ValueError, match=r"config.batch.total=126 cannot be shared as 12 X-rays to 4 CTs: a multiple of 4"
    ):
        BatchConfig(12, 4, total=126)
