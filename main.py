"""One command for every job: python main.py --config=configs/<job>.py[:arg] [--config.key=value ...]."""

import errno
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from data.errors import RESUMABLE, StoppedError, UserError

# The C++ side of JAX otherwise logs about compilers and missing accelerators before our first line.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# What a person mends outside the program: no room, no quota, no right to write.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Job and settings: configs/<job>.py, with :arg where the job takes one."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/ and the config's name.")


def build(config: Any, workdir: pathlib.Path) -> None:
    """Raw source to records."""
    from data import job

    job.run(config, workdir)


def pretrain(config: Any, workdir: pathlib.Path) -> None:
    """UniMedI pre-training."""
    _ensure_phantom(config)
    from unimedi_jax.train import loop

    loop.run(config, workdir)


def inspect(config: Any, workdir: pathlib.Path) -> None:
    """What a set, a run or an export holds, and its preprocessing contract."""
    from unimedi_jax.report import inspection

    inspection.run(config.path)


def audit(config: Any, workdir: pathlib.Path) -> None:
    """Whether names or report text of a raw source are in a folder."""
    from data.checks import audit as job

    job.run(config)


def export(config: Any, workdir: pathlib.Path) -> None:
    """A run as files for timm, transformers, plain PyTorch and ONNX."""
    from unimedi_jax.export import export as job

    job.run(config)


def embed(config: Any, workdir: pathlib.Path) -> None:
    """Embeddings of X-rays, CTs and reports."""
    from unimedi_jax.inference import embed as job

    job.run(config)


def probe(config: Any, workdir: pathlib.Path) -> None:
    """Classification with a trained encoder."""
    _ensure_phantom(config)
    from unimedi_jax.evaluation import probe as job

    job.run(config, workdir)


def segment(config: Any, workdir: pathlib.Path) -> None:
    """Segmentation with a trained encoder."""
    _ensure_phantom(config)
    from unimedi_jax.evaluation import segment as job

    job.run(config, workdir)


def detect(config: Any, workdir: pathlib.Path) -> None:
    """Detection with a trained encoder."""
    _ensure_phantom(config)
    from unimedi_jax.evaluation import detect as job

    job.run(config, workdir)


def retrieve(config: Any, workdir: pathlib.Path) -> None:
    """Retrieval and zero-shot classification."""
    _ensure_phantom(config)
    from unimedi_jax.evaluation import retrieve as job

    job.run(config, workdir)


def evaluate(config: Any, workdir: pathlib.Path) -> None:
    """Every evaluation that the data allow, on one page."""
    if not config.data and not any(pathlib.Path(config.data_dir).glob("*/contract.json")):
        config.data = "phantom"
    _ensure_phantom(config)
    from unimedi_jax.evaluation import evaluate as job

    job.run(config, workdir)


def ablate(config: Any, workdir: pathlib.Path) -> None:
    """Several pre-training presets on the same data, and their table."""
    _ensure_phantom(config)
    from unimedi_jax.comparison import ablate as job

    job.run(config, workdir)


def compare(config: Any, workdir: pathlib.Path) -> None:
    """UniMedI beside the systems it is compared with: trained alike, and their table."""
    _ensure_phantom(config)
    from unimedi_jax.comparison import compare as job

    job.run(config, workdir)


def compile(config: Any, workdir: pathlib.Path) -> None:
    """The training step ahead of time, for TPU slices and GPUs that are not here."""
    from unimedi_jax.aot import targets

    targets.prepare()  # before JAX is imported
    from unimedi_jax.aot import compile as job

    job.run(config, workdir)


def bench(config: Any, workdir: pathlib.Path) -> None:
    """Measures step, input, checkpoint, compile and build."""
    if config.what in ("all", "input"):
        _ensure_phantom(config)
    from unimedi_jax.bench import job

    job.run(config, workdir)


def _ensure_phantom(config: Any) -> None:
    """The embedded set is made on the spot the first time that a job's list of sets names it."""
    if "phantom" in (part.partition(":")[0].strip() for part in config.data.split(",")):
        from data import job as records

        records.ensure_phantom(config.data_dir)


# A job imports what it needs when it runs, so that --help and building never wait for JAX.
JOBS: dict[str, Callable[[Any, pathlib.Path], None]] = {
    "build": build,
    "pretrain": pretrain,
    "export": export,
    "embed": embed,
    "inspect": inspect,
    "audit": audit,
    "probe": probe,
    "segment": segment,
    "detect": detect,
    "retrieve": retrieve,
    "evaluate": evaluate,
    "ablate": ablate,
    "compare": compare,
    "compile": compile,
    "bench": bench,
}


def main(argv: Sequence[str]) -> None:
    """Picks the job and calls it."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: settings are given as --config.key=value")
    if _CONFIG.value is None:
        raise UserError("no --config given: try --config=configs/pretrain.py:demo")
    config = _CONFIG.value
    if config.get("job") not in JOBS:
        raise UserError(f"the config's job is {config.get('job')!r}: one of {', '.join(JOBS)}")
    _log_ours_alone()
    threading.excepthook, sys.unraisablehook = _briefly(threading.excepthook), _briefly(sys.unraisablehook)
    JOBS[config.job](config, _workdir())


def _log_ours_alone() -> None:
    # The libraries tell at length what they do; our own lines would drown in theirs. Their errors come as exceptions.
    absl.logging.set_verbosity(absl.logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("unimedi_jax", "data"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def _briefly(usual: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook that words a lost disk in one line and leaves every other error to the usual one.

    TensorBoard's files are written by a thread of its own and closed at exit. What must not be lost, the lines of
    metrics and the checkpoints, tells of the disk itself.
    """

    def hook(failed: Any) -> None:
        if isinstance(failed.exc_value, OSError):
            print(f"warning: tensorboard/ may lack lines: {failed.exc_value}", file=sys.stderr)
        else:
            usual(failed)

    return hook


def _workdir() -> pathlib.Path:
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value)
    path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = pathlib.Path(path).stem + (f"-{argument}" if argument else "")
    return pathlib.Path("runs") / name.replace(",", "-").replace("=", "")


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
        _ = flags.FLAGS.config and flags.FLAGS.config.to_dict()  # a missing file is noticed on first use
        return rest
    except (AttributeError, KeyError) as error:  # ml_collections: an override of no existing key
        name, _, hint = str(error).replace("\\n", "\n").strip("'\"").partition("\n")
        name = name.strip("'\"\\")
        _refuse(f"the config has no setting {name!r}. {hint}".strip())
    except BrokenPipeError:
        raise
    except OSError:
        _refuse(f"no config file {config_flags.get_config_filename(flags.FLAGS['config'])!r}: see configs/")
    except (flags.Error, TypeError, ValueError) as error:
        # A config file that raises arrives as a whole traceback; its last line is the message.
        _refuse(str(error).strip().splitlines()[-1].removeprefix("ValueError: "))


def _refuse(message: str, code: int = UserError.exit_code) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    __doc__ += "\n\njobs:\n" + "\n".join(f"  {name:10}{job.__doc__}" for name, job in JOBS.items())  # for --help
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        _refuse(str(error), error.exit_code)
    except StoppedError as error:
        print(str(error), file=sys.stderr)
        sys.exit(RESUMABLE)
    except BrokenPipeError:
        os._exit(0)  # whoever read our lines, such as head, has seen enough
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _refuse(f"{error.filename or 'writing'}: {error.strerror}; see to the disk, and the same command goes on")
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
