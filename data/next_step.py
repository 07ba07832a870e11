"""What a build prints last: the next command, which works as printed in the folder where the build ran."""

import importlib.metadata
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from data import record_grid
from data.buckets import mirror
from data.record_grid import RecordGrid

RUNS = Path("runs")  # where jobs put their folders unless --workdir names one
DEMO = RUNS / "pretrain-demo"
ACCELERATORS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "jax-rocm7-plugin", "jax-rocm6-plugin", "libtpu")
# What configs/pretrain.py cuts out of a record: pixels of an X-ray, voxels of a CT in the small run and in the other.
CROP, VOLUME = 224, {True: (32, 64, 64), False: (32, 128, 128)}
PATCH = (4, 16, 16)  # voxels of a token, and in plane the pixels of one


def lines(
    folder: Path,
    counts: Mapping[str, Mapping[str, int]],
    *,
    silent: bool,
    made: bool,
    grid: RecordGrid = record_grid.DEFAULT,
) -> Iterator[str]:
    """The next command for the built set in `folder`, whose `counts` are records by modality and split.

    A set to train on is trained on in a folder of its own, on a CPU by the small run, with one modality alone where it
    has one, and with a smaller input where the records of its `grid` are smaller than the recipe's. A `silent` set,
    without reports, or one without training records is for the evaluation of a run: the newest one here, or else the
    demo, whose command then comes first. `made`: the set is new, and so is its run's folder.
    """
    trained = [modality for modality, splits in counts.items() if splits.get("train")]
    data = {"config.data": folder.name, "config.data_dir": str(folder.parent)}
    if trained and not silent:
        only = f"{trained[0]}_only" if len(trained) == 1 else ""
        small = not has_accelerator()
        preset = ",".join(filter(None, ("demo" if small else "", only)))
        settings = data | _sizes(grid, trained, small=small)
        yield f"next: {command('pretrain', preset, **settings, workdir=str(_run_folder(folder.name, made)))}"
        return
    run = newest_run()
    if run is None:
        yield f"next: {command('pretrain', 'demo')}"
    word = "next" if run else "then"
    yield f"{word}: {command('evaluate', '', **{'config.checkpoint': str(run or DEMO)}, **data)}"


def command(job: str, preset: str = "", **settings: str) -> str:
    """A command line for the shell: main.py as this process was started with it, or the installed `unimedi`."""
    started, argument = Path(sys.argv[0]).name, f":{preset}" if preset else ""
    if started == "unimedi" or not (Path(__file__).parents[1] / "main.py").is_file():
        words = ["unimedi", f"--config={job}{argument}"]
    else:
        words = ["python", sys.argv[0] if started == "main.py" else "main.py", f"--config=configs/{job}.py{argument}"]
    return shlex.join([*words, *(f"--{key}={value}" for key, value in mirror.named(settings).items())])


def has_accelerator() -> bool:
    """Whether JAX was installed for GPUs or TPUs; importing it to ask would take seconds."""
    return any(list(importlib.metadata.distributions(name=name)) for name in ACCELERATORS)


def newest_run() -> Path | None:
    """The run under RUNS that saved a state last; None without any."""
    saved = [state for state in RUNS.glob("*/checkpoints/*") if state.name.isdecimal()]
    return max(saved, key=lambda state: state.stat().st_mtime).parents[1] if saved else None


def _sizes(grid: RecordGrid, modalities: Collection[str], *, small: bool) -> dict[str, str]:
    """Settings of the network's input where the records of a set are smaller than the recipe's."""
    settings = {}
    if "xray" in modalities and grid.film_size < CROP:  # of whole tokens, as all sizes of films are
        settings |= dict.fromkeys(("config.input.crop", "config.model.image_size"), str(grid.film_size))
    pairs = [*zip(grid.volume_shape, VOLUME[small], strict=True)]
    if "ct" in modalities and any(own is not None and own < usual for own, usual in pairs):
        voxels = (min(pair) // patch * patch for pair, patch in zip(pairs, PATCH, strict=True))
        settings["config.model.volume_size"] = ",".join(map(str, voxels))
    return settings


def _run_folder(name: str, new: bool) -> Path:
    """The folder of a set's run; of a new set one that no earlier set of its name has used."""
    folder, number = RUNS / name, 2
    while new and folder.exists():
        folder, number = RUNS / f"{name}-{number}", number + 1
    return folder
