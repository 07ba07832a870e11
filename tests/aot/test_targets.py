"""Names of machines, and the compilers' refusal where they are not installed."""

import pytest

from data.errors import UserError
from unimedi_jax import flops
from unimedi_jax.aot import targets


@pytest.mark.parametrize(
    ("name", "devices", "layout"),
    [
        ("v5e-1", 1, "v5e:1x1"),
        ("v5e-4", 4, "v5e:2x2"),
        ("v5e-8", 8, "v5e:2x4"),
        ("v5e-256", 256, "v5e:16x16"),
        ("v6e-16", 16, "v6e:4x4"),
        ("v4-8", 4, "v4:2x2x1"),  # cores, two a chip
        ("v4-32", 16, "v4:2x2x4"),
        ("v5p-64", 32, "v5p:2x4x4"),
    ],
)
def test_tpu_slices_are_named_as_in_the_cloud(name: str, devices: int, layout: str) -> None:
    target = targets.parse(name)
    assert target.devices == devices
    assert targets._slice(target) == layout
    assert not target.gpu
    assert flops.peak(target.chip.kind)


def test_gpus_beyond_one_host_talk_over_the_slower_network() -> None:
    eight, many = targets.parse("h100-8"), targets.parse("h100-64")
    assert (eight.devices, many.devices, eight.gpu) == (8, 64, True)
    assert eight.link > many.link


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e-", "v5e-0", "v5e-3", "v5e-512", "v5p-4", "h100-12", "tpu-8", "h100-x"]
)
def test_no_such_machine(name: str) -> None:
    with pytest.raises(UserError, match=r"configs/compile\.py"):
        targets.parse(name)


def test_a_missing_compiler_names_the_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import topologies

    def missing(**_: object) -> None:
        raise RuntimeError("JAX TPU support not installed\nand more lines")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    for name in ("v5e-4", "h100-8"):
        with pytest.raises(UserError, match=r"JAX TPU support not installed.*requirements-aot\.txt") as failed:
            targets.devices(targets.parse(name))
        assert "\n" not in str(failed.value)
