"""The systems that UniMedI is compared with, as presets of configs/pretrain.py: the same towers, another objective.

`objective` takes the place of UniMedI's settings: the fields of its dataclass in unimedi_jax/objectives. CTs are their
volume's tokens in training and evaluation.
"""

VIEWS = {"crop_aspect": 4 / 3, "brightness": 0.2, "contrast": 0.4, "noise": 0.02}
BLIND = {"checkpoint": {"keep_best": 0}}  # aligned with no reports: there is no zero-shot score to go by
SYSTEMS = {
    "convirt": {
        "objective": {"name": "contrast", "temperature": 0.1, "learn_temperature": False, "image_weight": 0.75}
    },
    "clip": {
        "objective": {"name": "contrast", "temperature": 0.07, "learn_temperature": True, "image_weight": 0.5},
        "model": {"projection": "linear"},
    },
    "siglip": {
        "objective": {"name": "siglip", "scale": 10.0, "bias": -10.0, "contrastive_chunk": 0},
        "model": {"projection": "linear"},
    },
    "gloria": {
        "objective": {
            "name": "gloria",
            "weight_vl": 1.0,
            "weight_local": 1.0,
            "temp1": 4.0,
            "temp2": 5.0,
            "temp3": 10.0,
            "local_chunk": 8,  # reports at a time: memory for time
        },
        "model": {"projection": "linear", "report_pooling": "mean"},
    },
    "mgca": {
        "objective": {
            "name": "mgca",
            "weight_vl": 1.0,
            "weight_cta": 1.0,
            "weight_cpa": 1.0,
            "temperature": 0.07,
            "local_temperature": 0.1,
            "prototype_temperature": 0.2,
            "prototypes": 500,
            "epsilon": 0.05,
            "sinkhorn_iterations": 3,
        }
    },
    "dino": {
        "objective": {
            "name": "dino",
            **VIEWS,
            "crop_scale": (0.4, 1.0),
            "local_crops": 2,
            "local_scale": (0.05, 0.4),
            "local_size": 3 / 7,  # 96 of 224 pixels
            "student_temperature": 0.1,
            "teacher_temperature": (0.04, 0.04),
            "temperature_warmup_steps": 0,
            "centre_momentum": 0.9,
        },
        "evals": {"network": "teacher"},
        **BLIND,
    },
    "mocov3": {
        "objective": {"name": "mocov3", **VIEWS, "crop_scale": (0.08, 1.0), "temperature": 0.2},
        "model": {"position_init": "sincos"},
        "ema": {"base": 0.99},
        "freeze_patch_embed": True,
        **BLIND,
    },
    "aclip": {
        "objective": {
            "name": "aclip",
            **VIEWS,
            "crop_scale": (0.5, 1.0),
            "temperature": 0.07,
            "learn_temperature": True,
            "simclr_temperature": 0.1,
            "weight_vl": 1.0,
            "weight_simclr": 1.0,
            "weight_byol": 2.0,
            "mask_ratio": 0.5,
            "mask_block": 1,  # 2: the paper's 2 x 2 blocks on films, where they divide the grid
        },
        "model": {"projection": "linear"},
        "freeze_patch_embed": True,
    },
    "unimiss": {
        "objective": {
            "name": "unimiss",
            **VIEWS,
            "crop_scale": (0.14, 1.0),
            "student_temperature": 0.1,
            "teacher_temperature": (0.04, 0.04),
            "temperature_warmup_steps": 0,
            "centre_momentum": 0.9,
            "slices": 4,
            "weight_slices": 1.0,
        },
        **BLIND,
    },
    "joint": {
        "objective": {
            "name": "joint",
            **VIEWS,
            "crop_scale": (0.14, 1.0),
            "prototypes": 512,
            "temperature": 0.1,
            "epsilon": 0.05,
            "iterations": 3,
            "slices": 4,
            "hidden_slices": 1,
            "layers": 4,
            "weight_intra": 1.0,
            "weight_inter": 1.0,
            "weight_hidden": 1.0,
        },
        **BLIND,
    },
    "simmim": {"objective": {"name": "simmim", "mask_ratio": 0.6, "block": 2}, **BLIND},
    "mae": {
        "objective": {
            "name": "mae",
            "mask_ratio": 0.75,
            "norm_pix": True,
            "decoder_width": 512,
            "decoder_depth": 8,
            "decoder_heads": 16,
        },
        **BLIND,
    },
    "mrm": {
        "objective": {
            "name": "mrm",
            "mask_ratio": 0.75,
            "norm_pix": True,
            "decoder_width": 768,
            "decoder_depth": 4,
            "decoder_heads": 6,
            "word_ratio": 0.5,
            "weight_mim": 1.0,
            "weight_mlm": 1.0,
            "mask_id": 4,  # of the sets' own tokenizers; Bio_ClinicalBERT: 103 and (0, 101, 102)
            "special_ids": (0, 2, 3),
        },
        **BLIND,
    },
    "prior": {
        "objective": {
            "name": "prior",
            "temperature": 0.01,
            "sentences": 16,
            "prototypes": 512,
            "memory_temperature": 0.9,
            "channel_dropout": 0.5,
            "depth": 8,
            "attention_heads": 12,
            "memory_from": 0,  # the authors: after 20 of 150 epochs
            "reconstruct_from": 0,  # after 50
            "weight_vl": 10.0,
            "weight_region": 1.0,
            "weight_sentence": 1.0,
            "weight_memory": 10.0,
            "weight_pixels": 1.0,
            "weight_generated": 10.0,
            "weight_shares": 1.0,
        },
        "input": {"shuffle_sentences": True},
    },
    "medklip": {
        "objective": {
            "name": "medklip",
            "entities": 75,
            "depth": 4,
            "attention_heads": 4,
            "temperature": 0.07,
            "weight_presence": 1.0,
            "weight_mention": 1.0,
        },
        **BLIND,
    },
    "kad": {
        "objective": {
            "name": "kad",
            "entities": 40,
            "depth": 4,
            "attention_heads": 4,
            "temperature": 0.07,
            "weight_vl": 1.0,
            "weight_image": 1.0,
            "weight_report": 1.0,
        }
    },
    "med_unic": {
        "objective": {
            "name": "med_unic",
            "temperature": 0.07,
            "crop": 0.75,
            "hidden": 2048,
            "features": 512,
            "off_diagonal": 0.0051,
            "weight_vl": 1.0,
            "weight_vv": 1.0,
            "weight_feature": 0.25,
            "weight_instance": 0.005,
        },
        "model": {"report_dropout": 0.1},  # it alone makes two views of a report
    },
}


_LIGHT = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}
# Of the objective, in the demo.
_SMALLER = {"mae": _LIGHT, "mrm": _LIGHT, "prior": {"attention_heads": 4}, "joint": {"layers": 2}}


def changes(*, small: bool) -> dict[str, dict]:
    """What each system changes in a configuration; `small`: in the demo's."""
    if not small:
        return SYSTEMS
    return {
        name: {**system, "objective": {**system["objective"], **_SMALLER.get(name, {})}}
        for name, system in SYSTEMS.items()
    }
