"""One command for every job: python main.py --config=configs/<job>.py[:preset] [--config.key=value ...] [--workdir=DIR]

The installed package has the same command as unimedi --config=<job>[:preset] ... With --config and --help it prints
the settings of that job and preset: their values and their meaning.
"""

import os
import pathlib
import re
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from data import plain
from data.errors import RESUMABLE, StoppedError, UserError
from unimedi_jax import messages

FLAGS = ("config", "workdir", "private")
HOUSE = pathlib.Path(__file__).resolve().parent
CONFIGS = next(folder for folder in (HOUSE / "configs", HOUSE.parent / "configs") if folder.is_dir())
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Job and settings: configs/<job>.py, with :preset where the job has presets."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, also gs:// or s3://; by default a folder of runs/ named after the config (an evaluation's also "
    "after the checkpoint).",
)
_PRIVATE = flags.DEFINE_bool(
    "private",
    True,
    "Only the owner may read what is written (folders 0700, files 0600); with --noprivate your umask decides.",
)

# Every job and what it is for.
JOBS = {
    "build": "Turns a raw source into records.",
    "pretrain": "Pre-trains UniMedI or another objective.",
    "export": "Writes a run as files for timm, transformers, plain PyTorch and ONNX.",
    "embed": "Embeds X-rays, CTs and reports.",
    "predict": "Predicts findings, masks or boxes of X-rays and CTs, by prompts or a saved head.",
    "search": "Finds similar cases by image and sentence: an index, a table, a page.",
    "inspect": "Shows what a set, a run or an export holds, and its preprocessing contract.",
    "audit": "Searches a folder for names and report text of a raw source.",
    "probe": "Trains and measures classifiers on a trained encoder.",
    "segment": "Trains and measures segmentation on a trained encoder.",
    "detect": "Trains and measures detection on a trained encoder.",
    "retrieve": "Measures retrieval and zero-shot classification.",
    "evaluate": "Runs all evaluations that the data allow, on one page.",
    "ablate": "Trains several presets on the same data and writes their table.",
    "compare": "Trains UniMedI and the systems it is compared with alike and writes their table.",
    "claims": "Tests the paper's claims on the phantom: trained models, gates, intervals, a verdict for each.",
    "compile": "Compiles the training step ahead of time, for TPU slices and GPUs that are not here.",
    "bench": "Measures speed and memory: step, input, checkpoint, compile, build, decode, embed, start, search.",
}


OF_A_CHECKPOINT = ("probe", "segment", "detect", "retrieve", "evaluate")  # jobs whose results are those of one


def _module(name: str) -> Any:
    """The module whose `run(config, workdir)` does a job; imported only now: --help never waits for JAX."""
    match name:
        case "build":
            from data import job
        case "pretrain":
            from unimedi_jax.train import loop as job
        case "export":
            from unimedi_jax.export import export as job
        case "embed":
            from unimedi_jax.inference import embed as job
        case "predict":
            from unimedi_jax.prediction import predict as job
        case "search":
            from unimedi_jax.search import job
        case "inspect":
            from unimedi_jax.report import inspection as job
        case "audit":
            from data.checks import audit as job
        case "probe":
            from unimedi_jax.evaluation import probe as job
        case "segment":
            from unimedi_jax.evaluation import segment as job
        case "detect":
            from unimedi_jax.evaluation import detect as job
        case "retrieve":
            from unimedi_jax.evaluation import retrieve as job
        case "evaluate":
            from unimedi_jax.evaluation import evaluate as job
        case "ablate":
            from unimedi_jax.comparison import ablate as job
        case "compare":
            from unimedi_jax.comparison import compare as job
        case "claims":
            from unimedi_jax.comparison import claims as job
        case "compile":
            from unimedi_jax.aot import targets

            targets.prepare()  # before JAX is imported
            from unimedi_jax.aot import compile as job
        case "bench":
            from unimedi_jax.bench import job
    return job


def _ensure_phantom(config: Any) -> None:
    """Builds the built-in set the first time that the sets of a job name it."""
    job, data = config.job, config.get("data", "")
    if job == "evaluate" and not data and not any(pathlib.Path(config.data_dir).expanduser().glob("*/contract.json")):
        data = config.data = "phantom"
    if job == "bench" and config.what not in ("all", "input"):
        return
    if "phantom" in (part.partition(":")[0].strip() for part in data.split(",")):
        from data import job as building

        building.ensure_phantom(config.data_dir)


def main() -> None:
    """Runs the job of the command line; every mistake of its user ends in one line and an exit code."""
    # The C++ side of JAX otherwise logs about compilers and missing accelerators before our first line.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stdout = plain.Stream(sys.stdout, messages.shown)
    try:
        app.run(_run, flags_parser=_parse)
    except UserError as error:
        _refuse(str(error), error.exit_code)
    except StoppedError as error:
        print(messages.shown(str(error)), file=sys.stderr)
        sys.exit(RESUMABLE)
    except BrokenPipeError:
        os._exit(0)  # whoever read our lines, such as head, has seen enough
    except KeyboardInterrupt:
        print("stopped: the same command resumes from what is written", file=sys.stderr, flush=True)
        os._exit(130)  # what workers are doing is not waited for: they end with this process
    except Exception as error:
        if not (message := messages.of_the_machine(error)):
            raise
        _refuse(message)


def _run(argv: Sequence[str]) -> None:
    """Picks the job and calls it."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: settings are given as --config.key=value")
    if _CONFIG.value is None:
        raise UserError("no --config given: try --config=configs/pretrain.py:demo")
    config = _CONFIG.value
    if config.get("job") not in JOBS:
        raise UserError(f"the config's job is {config.get('job')!r}: one of {', '.join(JOBS)}")
    from unimedi_jax.config import numbers, paths, reference, typed

    numbers.check_all(config.to_dict(), reference.defaults(config.to_dict()))
    paths.check_all(config.to_dict())
    if config.job != "build":  # whose own settings depend on the set
        typed.typed(reference.JOBS[config.job], config.to_dict())  # before minutes are spent on the phantom
    paths.check(_WORKDIR.value or "", "--workdir", bucket=True)
    messages.log_only_our_lines()
    if _PRIVATE.value:
        os.umask(0o077)  # reports, pictures and ids are in most of what is written
    from unimedi_jax import staging

    with staging.staged(config, _workdir()) as workdir:
        _ensure_phantom(config)
        _module(config.job).run(config, workdir)


def _workdir() -> pathlib.Path | str:
    """The folder of the run, or its address in a bucket."""
    from data.buckets.store import is_url

    if _WORKDIR.value and is_url(_WORKDIR.value):
        return _WORKDIR.value
    if _WORKDIR.value:
        return pathlib.Path(_WORKDIR.value).expanduser()
    path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = pathlib.Path(path).stem + (f"-{argument}" if argument else "")
    if _CONFIG.value.job in OF_A_CHECKPOINT:
        name += "-{checkpoint}"  # its name and step, which the job puts in: no two share a folder
    return pathlib.Path("runs") / name.replace(",", "-").replace("=", "")


def _parse(argv: Sequence[str]) -> list[str]:
    wants_help = any(argument in ("--help", "-help", "-h") for argument in argv)
    argv = [argument for argument in argv if argument not in ("--help", "-help", "-h")]
    argv = _last_of_each(_config_of_the_project(argv))
    try:
        rest = flags.FLAGS(argv)
        config = flags.FLAGS.config and flags.FLAGS.config.to_dict()  # a missing file is noticed on first use
    except BrokenPipeError:
        raise
    except OSError:
        _refuse(f"no config file {_config_file(argv)!r}: a path, or one of {', '.join(JOBS)}")
    except (AttributeError, KeyError, flags.Error, TypeError, ValueError) as error:
        # A config file that raises arrives as a whole traceback; its last line is the message.
        _refuse(_unknown_setting(argv) or str(error).strip().splitlines()[-1].removeprefix("ValueError: "))
    if wants_help:
        print(_help(config))
        sys.exit()
    return rest


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """The command line without settings that a later `--config.KEY=` replaces: a second list would be appended."""
    keys = [match and match[1] for match in (re.match(r"--?(config\.[\w.]+)=", argument) for argument in argv)]
    return [argument for i, argument in enumerate(argv) if not keys[i] or keys[i] not in keys[i + 1 :]]


def _config_of_the_project(argv: Sequence[str]) -> list[str]:
    """The command line, with a config of the project named in full: `pretrain:demo`, or `configs/pretrain.py:demo`.

    A file of that name in the working directory comes first.
    """
    name = _config_file(argv)
    path, colon, preset = name.partition(":")
    job = path.removeprefix("configs/").removesuffix(".py")
    if not job or "/" in job or pathlib.Path(path).is_file() or not (CONFIGS / f"{job}.py").is_file():
        return list(argv)
    place = next(i for i, argument in enumerate(argv) if argument.lstrip("-").partition("=")[0] == "config")
    place += "=" not in argv[place]
    full = f"{CONFIGS / job}.py{colon}{preset}"
    return [*argv[:place], argv[place].removesuffix(name) + full, *argv[place + 1 :]]


def _unknown_setting(argv: Sequence[str]) -> str:
    """What is wrong with the first setting on the command line that the config does not have; "" if it has all."""
    from unimedi_jax.config import reference

    keys = [match[1] for argument in argv if (match := re.match(r"--?config\.([\w.]+)", argument))]
    path, _, preset = _config_file(argv).partition(":")
    if not keys or not pathlib.Path(path).is_file():
        return ""
    get_config = runpy.run_path(path)["get_config"]
    try:
        config = get_config(preset) if preset else get_config()  # without what the command line changes
    except (TypeError, ValueError):
        return ""  # the preset is what is wrong
    return next(filter(None, (reference.explain(key, config.to_dict()) for key in keys)), "")


def _config_file(argv: Sequence[str]) -> str:
    """What the flag --config says, before anything is parsed."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config":
            return value if equals else following
    return ""


def _help(config: dict[str, Any] | None) -> str:
    if config is None:
        listed = (f"  --{flag.name}: {flag.help}" for flag in map(flags.FLAGS.__getitem__, FLAGS))
        names = (f"  {name:10}{purpose}" for name, purpose in JOBS.items())
        return "\n".join([__doc__, "flags:", *listed, "\njobs:", *names])
    from unimedi_jax.config import reference

    job = config["job"]
    return f"{job}: {JOBS[job]}\nSettings are changed as in --config.KEY=VALUE.\n\n{reference.text(config)}"


def _refuse(message: str, code: int = UserError.exit_code) -> None:
    print("error: " + messages.shown(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)
