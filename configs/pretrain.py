"""Pre-training. No argument: ViT-B/16 with the paper's recipe (docs/method.md), from the seed; `:paper`: the report
tower starts from Bio_ClinicalBERT as in the paper; `:demo`: the small run.

An ablation is a further word: `:no_slices` of the paper's recipe, `:demo,no_slices` of the small run. So is another
system: `:clip`, `:demo,mae`, `:demo,mae,ct_only` (docs/systems.md).

The embedded phantom is trained on until `config.data` names built sets, such as "mine" or "mine,phantom:0.5".
"""

import ml_collections

from configs import systems
from unimedi_jax.train import presets

ABLATIONS = {
    # Image-report contrast alone on both modalities; with xray_only and ct_only the models of the paper's figure 2.
    "one_encoder": {"model": {"slices": 0}, "objective": {"weight_icl": 0.0, "weight_pcl": 0.0, "mask_ratio": 0.0}},
    "xray_only": {"batch": {"ct": 0}},
    "ct_only": {"batch": {"xray": 0}},
    "no_slices": {"model": {"slices": 0}},
    "random_slices": {"objective": {"slices_by": "random"}},
    "no_distillation": {"objective": {"weight_icl": 0.0, "weight_pcl": 0.0}},
    "random_mask": {"objective": {"mask_by": "random"}},
}
STARTS = ("", "paper", "demo")
PRESETS = (*STARTS, *ABLATIONS, *systems.SYSTEMS)


def changes(*, small: bool) -> dict[str, dict]:
    """What each ablation and each system changes in a configuration; `small`: in the demo's."""
    return {**ABLATIONS, **systems.changes(small=small)}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The paper's recipe, or presets of it, comma-separated."""
    words = arg.split(",")
    if not set(words) <= set(PRESETS):
        raise ValueError(f"configs/pretrain.py:{arg}: the presets are {', '.join(PRESETS[1:])}")
    chosen = [word for word in words if word not in STARTS]
    others = [word for word in chosen if word in systems.SYSTEMS]
    if len(others) > 1 or (others and set(chosen) - {*others, "xray_only", "ct_only"}):
        raise ValueError(f"configs/pretrain.py:{arg}: one system, with or without xray_only or ct_only")
    config = _base()
    if "paper" in words:
        config.init.report = "emilyalsentzer/Bio_ClinicalBERT"
    if "demo" in words:
        _demo(config)
    for word in chosen:
        presets.apply(config, changes(small="demo" in words)[word])
    return config


def _base() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.job = "pretrain"
    config.seed = 42
    config.steps = steps = ml_collections.FieldReference(113_000)  # 50 epochs of 217k X-rays at 96 a step
    config.log_every = 50
    config.compilations = "~/.cache/unimedi_jax"  # compiled programs: a second start compiles nothing; "": not kept

    config.data = "phantom"  # built sets in data_dir, comma-separated, each with an optional :weight
    config.data_dir = "records"
    config.tokenizer = ""  # a folder or hub id; none: the sets' own WordPiece vocabulary
    # Weights to start from; empty: from the seed. `checkpoint`: a run or an export; `vision`: a ViT in timm's names
    # (file, folder, hub id, timm name); `report`: a BERT (folder or hub id), whose tokenizer is then the run's.
    config.init = ml_collections.ConfigDict({"checkpoint": "", "vision": "", "report": ""})
    config.input = ml_collections.ConfigDict(
        {
            "report_length": 112,  # tokens, as MGCA
            "report_buckets": (),  # lengths below, such as (48, 80): a batch takes the first that holds its reports
            "crop": 224,  # pixels of the 256 x 256 record
            "crop_shift": 16,  # pixels by which the cut may leave the centre: here, anywhere
            "ct_shift": (0, 0, 0),  # voxels of the record's grid by which a CT may move
            "shuffle_sentences": False,  # PRIOR's augmentation of reports
            "threads": 4,  # that read records and make batches of them
            # Processes that do so instead of threads, where the device is so fast that they would hinder its program;
            # -1: none beside a CPU, four a device of a host beside GPUs and TPUs, of at most half its cores.
            "processes": -1,
            "max_damaged": 0.0,  # share of a set's records that may be unreadable; the next ones stand in for them
        }
    )
    # Per device: 16 on each of 8 devices is the paper's global batch of 128.
    config.batch = ml_collections.ConfigDict({"xray": 12, "ct": 4})
    config.accumulate = 1  # parts of a batch that pass one after the other where memory is short; negatives stay all

    config.model = ml_collections.ConfigDict(
        {
            "vision_size": "B",
            "report_size": "B",
            "image_size": 224,
            "image_patch": (16, 16),
            "volume_size": (32, 128, 128),
            "volume_patch": (4, 16, 16),  # also (1, 32, 32) or (16, 8, 8): all give 512 tokens
            "window_hu": (-1000.0, 1000.0),
            "slices": 2,  # k of the top-k, in depth layers of volume_patch[0] slices
            "slices_per_layer": 1,
            "slice_size": 224,
            "type_embedding": False,
            "slice_embedding": False,
            "position_init": "normal",  # of the learned tables; or "sincos"
            "cls_key": True,
            "embedding": 128,
            "projection": "mlp",  # or "linear"
            "projection_hidden": 2048,
            "norm_by_modality": False,  # BatchNorms of the image projection of their own for films and scans
            "prototypes_cls": 65536,
            "prototypes_patch": 8192,
            "head_hidden": 2048,
            "head_bottleneck": 256,
            "report_positions": 512,
            "report_dropout": 0.1,
            "report_pooling": "cls",
            "attention": "auto",  # the device's: "cudnn" on NVIDIA, "splash" on TPUs, "blocks" on CPUs; or "xla"
            "remat": "none",  # "dots" and "full" trade arithmetic for memory
            "layers": "auto",  # "unrolled" on GPUs, which is faster there, else "scanned", which compiles faster
            "dtype": "bfloat16",  # of the arithmetic; parameters, softmax and losses are float32
        }
    )
    config.objective = ml_collections.ConfigDict(
        {
            "name": "unimedi",
            "weight_vl": 1.0,
            "weight_icl": 1.0,
            "weight_pcl": 1.0,
            "temperature": 0.07,
            "identical_reports": False,
            "contrastive_chunk": 0,  # rows of the similarities at a time, for global batches of many thousands; 0 = all
            "student_temperature": 0.1,
            "teacher_temperature_cls": (0.04, 0.04),
            "teacher_temperature_patch": (0.04, 0.07),
            "temperature_warmup_steps": _share(steps, 0.6),  # iBOT: 30 of 50 epochs
            "centre_momentum": 0.9,
            "centre_by_modality": False,  # X-rays and CTs each centred on their own mean
            "mask_ratio": 0.5,
            "mask_mode": "drop",  # or "mask_token"
            "mask_by": "attention",  # or "random"
            "mask_scope": "sequence",  # or "part"
            "mask_block": 1,  # 2: A-CLIP's 2 x 2 blocks on X-rays
            "slices_by": "attention",  # or "random"
            "random_until_step": 0,  # choose blindly at first, where the ViT starts from scratch
        }
    )
    config.optim = ml_collections.ConfigDict(
        {
            "peak_lr": 2e-5,
            "start_lr": 1e-8,
            "end_lr": 1e-8,
            "warmup_steps": _share(steps, 0.4),  # MGCA: 20 of 50 epochs
            "weight_decay": 0.05,
            "decay": r"(kernel|embedding|last_layer)$",  # paths that decay; MGCA decays ".*"
            "b1": 0.9,
            "b2": 0.999,
            "clip_norm": 3.0,
        }
    )
    config.ema = ml_collections.ConfigDict({"base": 0.996, "final": 1.0})
    config.freeze_last_layer_steps = _share(steps, 0.02)  # DINO: the first epoch
    config.freeze_patch_embed = False

    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
    config.sharding = ((".*", "fsdp"),)  # first path that matches: "fsdp" or "replicate"

    config.checkpoint = ml_collections.ConfigDict(
        {
            "every": 1000,
            "keep": 2,  # the latest
            "keep_every": 0,  # and one each so many steps, 0 = none
            "keep_best": 1,  # and those with the highest `best` in validation
            "best": "xray/zeroshot/macro",
        }
    )
    config.resume = ml_collections.ConfigDict({"force": False})  # go on though settings or data have changed
    config.guard = ml_collections.ConfigDict(
        {
            "max_skipped": 10,  # steps in a row that were not finite before the run stops
            "spike": 6.0,  # standard deviations above the mean of the last losses that are worth a line; 0 = none
            # Spikes in a row after which the state goes back to the checkpoint before them, the data on; 0 = never.
            "rollback": 0,
            "max_rollbacks": 3,  # of a run before it stops
        }
    )
    # Several hosts: "host:port" of the first process, or "auto"; each process is told which one it is.
    config.distributed = ml_collections.ConfigDict({"coordinator": "", "processes": 1, "process": 0, "timeout": 60})
    config.evals = ml_collections.ConfigDict(
        {
            "every": 5000,
            "network": "student",  # or "teacher"
            "ct_slices": True,  # CTs as trained, with their chosen slices; False: the volume alone
            "rows": 16,  # a device, per batch
            "limit": 256,  # records a split and modality, 0 = all; configs/evaluate.py takes all in any case
        }
    )
    config.show_reports = "auto"  # report texts on the page: "yes", "no", "auto" = the phantom's alone
    return config


def _share(steps: ml_collections.FieldReference, share: float) -> ml_collections.FieldReference:
    """A share of the run's steps that follows --config.steps."""
    return (steps * share).to_int()


def _demo(config: ml_collections.ConfigDict) -> None:
    """Small enough for two CPU cores: about a quarter of an hour with the evaluation."""
    config.steps = 700
    config.log_every = 10
    config.input.report_length = 64
    config.input.crop_shift, config.input.ct_shift = 4, (0, 2, 2)
    config.batch.xray, config.batch.ct = 40, 24
    config.model.update(
        {
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
        }
    )
    # Everything starts from scratch here, on two thousand films: the reports have to teach first, and attention
    # that is not learnt yet must not hide half of what there is to see.
    config.objective.update({"weight_icl": 0.1, "weight_pcl": 0.1, "mask_ratio": 0.1})
    config.optim.update({"peak_lr": 1e-3, "warmup_steps": 30})
    config.ema.base = 0.99  # 0.996 averages over more steps than this run can spare
    config.freeze_last_layer_steps = 0
    config.checkpoint.every = 150
    config.evals.update({"every": 150, "rows": 35, "limit": 0})
