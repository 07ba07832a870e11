"""main.py as a stranger meets it: one line for every mistake, exit code 2, help at once."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import pytest

from data import job as building
from data.errors import UserError
from data.reports import tokenizer
from unimedi_jax import cli, messages
from unimedi_jax.evaluation import evaluate
from unimedi_jax.inference import pretrained
from unimedi_jax.input import records

ROOT = pathlib.Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no --config given"),
        (["--config=configs/nothere.py"], "no config file 'configs/nothere.py'"),
        (["--config=configs/pretrain.py:dmo"], "the presets are"),
        (["--config=configs/pretrain.py", "--config.stpes=3"], "no setting 'stpes': did you mean steps?"),
        (["--config=configs/pretrain.py", "--config.model.slces=3"], "did you mean model.slices, model.scores?"),
        (["--config=configs/pretrain.py", "--config.optim.lr=3"], "did you mean optim.peak_lr"),
        (
            ["--config", "configs/pretrain.py", "--config.batch_size", "3"],
            "did you mean batch.xray, batch.ct, batch.total?",
        ),
        (["--config=configs/pretrain.py", "--config.data.name=real"], "config.data is a value ('phantom')"),
        (["--config=configs/pretrain.py", "--config.steps.name=3"], "config.steps is a value (113000)"),
        (["--config=configs/probe.py", "--config.ct_slices.name=3"], "config.ct_slices is a value (None)"),
        (["--config=configs/build.py:phantom", "--config.xrays=-1"], "config.xrays=-1: at least 0"),
        (["--config=configs/probe.py", "--config.shares=(2.0,)"], "config.shares=(2.0,): above 0 and at most 1"),
        (["--config=configs/nothere.py", "--config.steps=3"], "no config file 'configs/nothere.py'"),
        (["--config=configs/pretrain.py:dmo", "--config.steps=3"], "the presets are"),
        (["--config=configs/pretrain.py", "--config.steps=x"], "--config.steps=x"),
        (["--config=configs/pretrain.py", "--config.data_dir=abfs://b"], "config.data_dir=abfs://b: abfs:// is not"),
        (["--config=configs/pretrain.py", "stray"], "unknown argument 'stray'"),
        (["--config=configs/pretrain.py", "--config.data=nothere"], "no built set named nothere"),
        (["--config=configs/pretrain.py:demo", "--config.input.report_length=16"], "are not all below"),
        (["--config=configs/build.py:manifest"], "config.source"),
        (
            ["--config=configs/compare.py", "--config.data=nothere", "--config.presets=clop"],
            "config.presets must be a list of",
        ),
        (["--config=configs/compile.py:v5e-3"], "v5e slices have"),
        (["--config=configs/bench.py:spede"], "it measures step, input"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    done = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not done.stdout


def test_the_last_of_two_equal_settings_counts():
    """Lists of numbers, too, which the flags alone append to each other."""
    twice = ("--config.unetr.crop=64,64,64", "--config.unetr.crop=80,112,80")
    done = run("--config=configs/segment.py", *twice, "--config.steps=1", "--config.steps=2", "--help")
    assert "(80, 112, 80)" in done.stdout
    assert re.search(r"^ *steps = 2\b", done.stdout, re.MULTILINE)


def test_another_working_directory_has_the_same_config_files(tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--config=configs/inspect.py", "--config.path=nothere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "nothere is no built set" in done.stderr
    (tmp_path / "inspect").mkdir()
    short = [sys.executable, str(ROOT / "main.py"), "--config=inspect", "--config.path=inspect"]
    done = subprocess.run(short, cwd=tmp_path, capture_output=True, text=True)
    assert "inspect is no built set" in done.stderr, "a folder is no config, and other settings stay as they are"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inspect.py").write_text("def get_config():\n    raise ValueError('my own file')\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "error: my own file\n", "a file in the working directory comes first"


def test_a_tilde_is_the_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = re.escape(str(tmp_path))
    for function, name in (
        (lambda: records.open_set("~/records", "mine"), "no built set named mine in {}/records"),
        (lambda: tokenizer.load("~/words"), "no tokenizer in the folder {}/words"),
        (lambda: pretrained.load("~/run"), "no run and no export at {}/run"),
    ):
        (tmp_path / "words").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=name.format(home)):
            function()
    (tmp_path / "records" / "phantom").mkdir(parents=True)
    (tmp_path / "records" / "phantom" / "contract.json").write_text("{}")
    assert evaluate.sets("~/records") == ["phantom"]
    building.ensure_phantom("~/records")  # it is there: nothing is built
    (tmp_path / "rows.csv").write_text("path,modality,report,patient\nnothing.png,xray,no nodule,p\n")
    arguments = ["--config=configs/build.py:manifest", "--config.source=~/rows.csv", "--config.dry_run=True"]
    command = [sys.executable, str(ROOT / "main.py"), *arguments, "--workdir=~/look"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "look" / "doctor.html").exists()
    assert not (tmp_path / "~").exists()


def test_help_needs_no_jax():
    done = run("--help")
    assert "--workdir" in done.stdout
    assert all(f"\n  {name:10}" in done.stdout for name in cli.JOBS)
    probe = "import sys, main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", ["build.py:open_i", *(f"{job}.py" for job in cli.JOBS if job != "build")])
def test_help_with_a_config_is_that_jobs_settings_and_needs_no_jax(name):
    probe = (
        "import sys; from unimedi_jax import cli; import atexit; "
        "atexit.register(lambda: print('jax' in sys.modules, 'numpy' in sys.modules)); cli.main()"
    )
    command = [sys.executable, "-c", probe, f"--config=configs/{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{name.partition('.')[0]}: ")
    assert f"  job = '{name.partition('.')[0]}'" in lines
    assert lines[-1] == "False False"


def test_ctrl_c_while_the_libraries_are_imported_shows_no_traceback(tmp_path):
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl" / "__init__.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    for command in (["main.py"], ["-m", "unimedi_jax"]):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, env=environment, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_is_not_lost_where_no_exception_passes():
    """As in the callback that JAX has Python call after a garbage collection: Python prints what is raised there."""
    probe = """if True:
        import gc, signal, sys, time
        from unimedi_jax import messages
        messages.log_only_our_lines()
        def callback(*_):
            gc.callbacks.clear()
            signal.raise_signal(signal.SIGINT)
        gc.callbacks.append(callback)
        try:
            gc.collect()
            time.sleep(30)
        except KeyboardInterrupt:
            sys.exit(7)
    """
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_background_thread_that_loses_its_disk_is_one_line(tmp_path, monkeypatch, capfd):
    """TensorBoard's writer ends so on a full disk, beside the run's own message."""
    monkeypatch.setattr(threading, "excepthook", messages._briefly(threading.__excepthook__))
    for function in ((tmp_path / "nowhere").read_text, lambda: [][0]):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    printed = capfd.readouterr().err
    assert printed.splitlines()[0].startswith("warning: tensorboard/ may lack lines")
    assert printed.count("Traceback") == printed.count("IndexError") == 1
