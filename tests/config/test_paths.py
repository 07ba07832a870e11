"""No setting takes a place that no job can read or write."""

import pathlib

import pytest

from configs import build, embed, pretrain
from data.errors import UserError
from unimedi_jax.config import paths

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs", "file", "https", "a+b.c-1"])
def test_a_scheme_is_refused_wherever_it_stands(scheme):
    for config, key in ((pretrain.get_config(), "data_dir"), (build.get_config("manifest"), "source")):
        config[key] = f"{scheme}://bucket/place"
        with pytest.raises(UserError, match=rf"^config\.{key}={scheme.replace('+', '[+]')}://bucket/place: "):
            paths.check_all(config.to_dict())
    config = pretrain.get_config()
    config.init.vision = f"{scheme}://weights"
    with pytest.raises(UserError, match=r"^config\.init\.vision="):
        paths.check_all(config.to_dict())
    config = embed.get_config()
    config.source = f"here.png,{scheme}://there.png"
    with pytest.raises(UserError, match=r"^config\.source="):
        paths.check_all(config.to_dict())


def test_plain_settings_pass():
    paths.check_all(pretrain.get_config("demo").to_dict())
    for text in ("runs/a", "C:/a", "~/a", "mine,phantom:0.5", "timm/vit", "RUN:best"):
        paths.check(text, "config.data")
