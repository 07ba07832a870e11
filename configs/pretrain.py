"""Pre-training. No argument: ViT-B/16 with the paper's recipe (docs/method.md), from the seed; `:paper`: the report
tower starts from Bio_ClinicalBERT as in the paper; `:demo`: the small run.

What is trained is a further word: `unimedi` is the paper's method, `unimedi_plus` adds what made it better
(docs/switches.md, docs/results.md). Without such a word the recipe is the paper's, the small run `unimedi_plus`.
Ablations of the paper's method: `:no_slices`, `:demo,no_slices`. Other systems: `:clip`, `:demo,mae`,
`:demo,mae,ct_only` (docs/systems.md).

The built-in phantom is trained on until `config.data` names built sets, such as "mine" or "mine,phantom:0.5".
The settings and their meaning: docs/configuration.md.
"""

from ml_collections import ConfigDict

from configs import systems
from unimedi_jax.config import presets, typed
from unimedi_jax.config.pretraining import SHARES, PretrainConfig

# UniMedI and, beyond the paper or where it is silent, what made it better (docs/results.md).
PLUS = {
    "input": {"report_buckets": (48,)},  # half a report is short
    "model": {
        "tokenizer": "nonlinear",  # a nodule is smaller than a patch
        "registers": 4,
        "score_layers": 2,
    },
    # Without BatchNorm in the heads, or with one centre for both modalities, L_icl's targets all become the same.
    "objective": {"report_halves": True, "head_norm": True, "centre_by_modality": True},
}
ABLATIONS = {
    "unimedi": {},
    "unimedi_plus": PLUS,
    # Image-report contrast alone on both modalities; with xray_only and ct_only the models of the paper's figure 2.
    "one_encoder": {"model": {"slices": 0}, "objective": {"weight_icl": 0.0, "weight_pcl": 0.0, "mask_ratio": 0.0}},
    "xray_only": {"batch": {"ct": 0}},
    "ct_only": {"batch": {"xray": 0}, "checkpoint": {"best": "ct/zeroshot/macro"}},
    "no_slices": {"model": {"slices": 0}},
    "random_slices": {"objective": {"slices_by": "random"}},
    "no_distillation": {"objective": {"weight_icl": 0.0, "weight_pcl": 0.0}},
    "random_mask": {"objective": {"mask_by": "random"}},
    # Four times the tokens, for all systems: what the size of a patch costs.
    "fine_tokens": {"model": {"image_patch": (8, 8), "volume_patch": (4, 8, 8)}},
}
BEST = "unimedi_plus"  # of the small run, by docs/results.md
PAPER = {"init": {"report": "emilyalsentzer/Bio_ClinicalBERT"}}
# Small enough for two CPU cores: half an hour to an hour with installation and evaluation.
DEMO = {
    "steps": 700,
    "log_every": 10,
    "input": {"report_length": 64, "crop_shift": 4, "ct_shift": (0, 2, 2)},
    "batch": {"xray": 40, "ct": 24},
    "model": {
        "vision_size": "Mu",
        "report_size": "Mu",
        "image_size": 112,
        "volume_size": (32, 64, 64),
        "window_hu": (-1000.0, 200.0),  # lung and fluid; the phantom's findings are not in the bones
        "slice_size": 112,
        "position_init": "sincos",
        "projection_hidden": 256,
        "norm_by_modality": True,
        "prototypes_cls": 1024,
        "prototypes_patch": 512,
        "head_hidden": 256,
        "head_bottleneck": 64,
        "report_positions": 64,
        "report_dropout": 0.0,
        "report_pooling": "mean",
        "remat": "dots",  # on a CPU a tenth faster, and two thirds of the memory
        "dtype": "float32",
    },
    # Everything starts from scratch here, on two thousand X-rays: the reports have to teach first, and attention that
    # is not learnt yet must not hide half of the image.
    "objective": {"weight_icl": 0.1, "weight_pcl": 0.1, "mask_ratio": 0.1},
    "optim": {"peak_lr": 1e-3, "chosen_for": 64, "warmup_steps": 30},
    "ema": {"base": 0.99},  # 0.996 averages over more steps than this run can spare
    "freeze_last_layer_steps": 0,
    "checkpoint": {"every": 150},
    "evals": {"every": 150, "rows": 35, "limit": 0},
}
STARTS = {"": {}, "paper": PAPER, "demo": DEMO}
OF_ANY_SYSTEM = ("xray_only", "ct_only", "fine_tokens")
PRESETS = (*STARTS, *ABLATIONS, *systems.SYSTEMS)


def changes(*, small: bool) -> dict[str, dict]:
    """What each ablation and each system changes in a configuration; `small`: in the demo's."""
    return {**ABLATIONS, **systems.changes(small=small)}


def get_config(arg: str = "") -> ConfigDict:
    """The paper's recipe, or presets of it, comma-separated."""
    words = arg.split(",")
    if not set(words) <= set(PRESETS):
        raise ValueError(f"configs/pretrain.py:{arg}: the presets are {', '.join(PRESETS[1:])}")
    chosen = [word for word in words if word not in STARTS]
    if "demo" in words and set(chosen) <= set(OF_ANY_SYSTEM):
        chosen = [BEST, *chosen]
    others = [word for word in chosen if word in systems.SYSTEMS]
    if len(others) > 1 or (others and set(chosen) - {*others, *OF_ANY_SYSTEM}):
        raise ValueError(f"configs/pretrain.py:{arg}: one system, with or without {', '.join(OF_ANY_SYSTEM)}")
    config = _base()
    for start in [name for name in STARTS if name in words]:
        config.update(STARTS[start])
    for word in chosen:
        presets.apply(config, changes(small="demo" in words)[word])
    return config


def _base() -> ConfigDict:
    config = typed.config_dict(PretrainConfig())
    steps = config.get_ref("steps")
    for key, share in SHARES.items():  # these follow --config.steps
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = (steps * share).to_int()
    return config
