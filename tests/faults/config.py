"""The demo at toy size, as a config file of main.py: what the fault campaign runs.

Being Python, it also lays the wires that the campaign reads: ids of every batch go to $FAULTS_IDS, the clock is wrong
where $FAULTS_CLOCK is set, writing fails as on a full disk from the save on that $FAULTS_FULL_AT names, a save says so
and takes $FAULTS_SAVE_SECONDS longer, its files written and not yet in their place, and fsdp splits small leaves too
where $FAULTS_SPLIT_ALL is set.
"""

import errno
import json
import logging
import os
import pathlib
import random
import time

import ml_collections
from orbax import checkpoint as ocp

from configs import build, embed, evaluate, export, pretrain
from unimedi_jax import sharding
from unimedi_jax.models import sizes
from unimedi_jax.train import loss_monitor

TINY = sizes.Size(width=16, depth=1, heads=2, mlp_width=16)


def get_config(job: str = "pretrain") -> ml_collections.ConfigDict:
    sizes.VISION["tiny"] = sizes.REPORT["tiny"] = TINY
    if job != "pretrain":
        return _beside_training(job)
    config = pretrain.get_config("demo,unimedi")
    config.compilations = ""
    config.steps, config.log_every = 14, 1
    config.batch.xray, config.batch.ct = 2, 2
    config.input.report_length = 16
    config.input.crop = 32
    config.model.update(
        vision_size="tiny",
        report_size="tiny",
        image_size=32,
        slice_size=32,
        volume_size=(8, 32, 32),
        projection_hidden=16,
        prototypes_cls=16,
        prototypes_patch=16,
        head_hidden=16,
        head_bottleneck=8,
    )
    config.checkpoint.update(every=3, keep=3)
    config.evals.update(every=5, rows=8, limit=8)
    _wire()
    return config


def _beside_training(job: str) -> ml_collections.ConfigDict:
    """Another job, as small as it gets."""
    if job == "build":
        config = build.get_config("phantom")
        config.update(xrays=40, cts=30, workers=2)
        return config
    config = {"embed": embed, "export": export, "evaluate": evaluate}[job].get_config()
    if job == "embed":
        config.rows = 2
    if job == "evaluate":
        config.update(data="phantom", tasks="retrieve,slices", rows=8, resamples=10, untrained=False)
    return config


def short(records_dir: pathlib.Path) -> ml_collections.ConfigDict:
    """Three steps of a batch that is small on any number of devices."""
    config = get_config()
    config.data_dir = str(records_dir)
    config.steps = 3
    config.batch.xray, config.batch.ct = 1, 1
    config.checkpoint.every = 2
    config.evals.update(every=2, rows=1, limit=4)
    return config


def _wire() -> None:
    if path := os.environ.get("FAULTS_IDS"):
        _note_ids(pathlib.Path(path))
    if "FAULTS_CLOCK" in os.environ:
        # Another time at every start, not within one: Orbax gives up a save when the clock leaps by 20 minutes in it.
        now, offset = time.time, random.uniform(-1e6, 1e6)
        time.time = lambda: now() + offset
    if "FAULTS_SPLIT_ALL" in os.environ:
        sharding.SMALLEST_SHARDED = 64
    if "FAULTS_FULL_AT" in os.environ:
        _fill_disk(int(os.environ["FAULTS_FULL_AT"]))
    if "FAULTS_SAVE_SECONDS" in os.environ:
        _slow_save(float(os.environ["FAULTS_SAVE_SECONDS"]))


def _note_ids(path: pathlib.Path) -> None:
    update = loss_monitor.LossMonitor.update

    def noted(self: loss_monitor.LossMonitor, result: loss_monitor.StepResult) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([result.step, result.ids]))  # in front: a torn line spoils no other
        update(self, result)

    loss_monitor.LossMonitor.update = noted


def _fill_disk(save: int) -> None:
    finalize, count = ocp.PyTreeCheckpointHandler.finalize, []

    def full(self: ocp.PyTreeCheckpointHandler, directory: object) -> None:
        count.append(directory)
        if len(count) >= save:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finalize(self, directory)

    ocp.PyTreeCheckpointHandler.finalize = full


def _slow_save(seconds: float) -> None:
    finalize = ocp.PyTreeCheckpointHandler.finalize

    def slow(self: ocp.PyTreeCheckpointHandler, directory: object) -> None:
        logging.getLogger("unimedi_jax.faults").warning("writing a checkpoint")
        time.sleep(seconds)
        finalize(self, directory)

    ocp.PyTreeCheckpointHandler.finalize = slow
