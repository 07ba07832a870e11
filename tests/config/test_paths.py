"""No setting takes a place that no job can read or write."""

import pathlib

import pytest

from configs import build, compare, embed, pretrain
from data.errors import UserError
from unimedi_jax.config import paths

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("scheme", ["abfs", "hdfs", "file", "https", "a+b.c-1"])
def test_a_scheme_is_refused_wherever_it_stands(scheme):
    for config, key in ((pretrain.get_config(), "data_dir"), (build.get_config("manifest"), "source")):
        config[key] = f"{scheme}://bucket/place"
        with pytest.raises(UserError, match=rf"^config\.{key}={scheme.replace('+', '[+]')}://bucket/place: "):
            paths.check_all(config.to_dict())
    config = pretrain.get_config()
    config.init.vision = f"{scheme}://weights"
    with pytest.raises(UserError, match=r"^config\.init\.vision="):
        paths.check_all(config.to_dict())


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_buckets_are_taken_where_they_are_at_home_and_nowhere_else(scheme):
    config = pretrain.get_config()
    config.data_dir = config.tokenizer = config.init.checkpoint = f"{scheme}://bucket/place"
    paths.check_all(config.to_dict())
    paths.check(f"{scheme}://bucket/run", "--workdir", bucket=True)
    config.compilations = f"{scheme}://bucket/programs"
    with pytest.raises(UserError, match=r"^config\.compilations="):
        paths.check_all(config.to_dict())
    config = embed.get_config()
    config.source = f"here.png,{scheme}://there.png"
    with pytest.raises(UserError, match=r"^config\.source="):
        paths.check_all(config.to_dict())
    config = compare.get_config()
    config.base.init.checkpoint = f"{scheme}://bucket/run"
    with pytest.raises(UserError, match=r"^config\.base\.init\.checkpoint="):
        paths.check_all(config.to_dict())


def test_plain_settings_pass():
    paths.check_all(pretrain.get_config("demo").to_dict())
    for text in ("runs/a", "C:/a", "~/a", "mine,phantom:0.5", "timm/vit", "RUN:best"):
        paths.check(text, "config.data")
