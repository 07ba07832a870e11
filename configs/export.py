"""A checkpoint as files for timm, transformers and plain PyTorch."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "export"
    config.checkpoint = ""  # a run's workdir, or an export
    config.network = "student"  # or "teacher": its visual side
    config.out = ""  # a folder that does not exist yet
    config.rgb = False  # also the ViT for three equal channels
    config.onnx = False  # also the encoders as ONNX
    return config
