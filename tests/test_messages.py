"""What the machine lacks is one line: disk, home, temporary files, shared memory; and nothing commands the terminal."""

import errno
import logging
import multiprocessing.synchronize
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import pytest

from data import child_processes
from data.buckets import mirror
from data.build import pool
from unimedi_jax import cli, messages
from unimedi_jax.inference import outputs

ROOT = pathlib.Path(__file__).parent.parent


def caught(function, *arguments) -> Exception:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_no_home_is_one_line(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid not found")))
    error = caught(pathlib.Path("~/records").expanduser)
    assert "HOME" in messages.of_the_machine(error)


def test_no_temporary_folder_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    assert "TMPDIR" in messages.of_the_machine(caught(tempfile.gettempdir))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOENT, errno.ENOSPC])
def test_no_shared_memory_is_one_line(monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", none)
    error = caught(lambda: list(pool.Workers(len, 2).convert([])) or multiprocessing.get_context("spawn").Lock())
    assert "/dev/shm" in messages.of_the_machine(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EIO, "Input/output error", "x"),
        ValueError("I/O error: No space left on device (os error 28)"),  # safetensors
        RuntimeError("Failed to write: Disk quota exceeded"),
    ],
)
def test_a_lost_disk_is_one_line_whoever_says_so(error):
    line = messages.of_the_machine(error)
    assert "check the disk" in line
    assert "\n" not in line


def test_other_errors_are_the_program_s_own():
    for error in (KeyError("x"), RuntimeError("shape"), FileNotFoundError(errno.ENOENT, "no such file", "x")):
        assert messages.of_the_machine(error) == ""


def test_log_lines_hold_no_commands():
    record = logging.LogRecord(
        "data", logging.INFO, "f", 1, "read %s", ("\x1b]0;title\x07\x9b31m\n05:30:00 all is well",), None
    )
    line = messages._PlainLines("%(message)s").format(record)
    assert line.isprintable()


def test_refusals_hold_no_commands(capsys):
    with pytest.raises(SystemExit):
        cli._refuse("there is no \x1b[2J\x9bset\nof this name")
    assert capsys.readouterr().err == "error: there is no \\x1b[2J\\x9bset of this name\n"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    outputs.check_folder(tmp_path / "new", "config.out")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    error = caught(outputs.check_folder, tmp_path, "config.out")
    assert "config.out" in str(error)
    assert "No space left" in str(error)


def test_a_process_without_parent_is_left_alone():
    child_processes.exit_with_parent()  # this is no worker


@pytest.mark.parametrize(("flags", "mode"), [([], 0o700), (["--noprivate"], 0o755)])
def test_what_is_written_is_its_owner_s_alone(tmp_path, flags, mode):
    command = [sys.executable, "main.py", "--config=configs/build.py:phantom", f"--config.data_dir={tmp_path / 'sets'}"]
    small = ["--config.xrays=10", "--config.cts=0", "--config.workers=1", f"--workdir={tmp_path / 'run'}"]
    subprocess.run(["sh", "-c", 'umask 022; exec "$@"', "sh", *command, *small, *flags], cwd=ROOT, check=True)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sets").rglob("*") if path.is_dir()}
    assert modes == {mode}
    files = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sets").rglob("*") if path.is_file()}
    assert files <= {mode & 0o666, 0o600}


def test_what_lies_in_a_bucket_is_shown_by_its_address(monkeypatch, capsys):
    monkeypatch.setitem(mirror._URLS, "/cache/1f/w0/run", "gs://bucket/run")
    assert messages.shown("/cache/1f/w0/run/report\x1b") == "gs://bucket/run/report\\x1b"
    record = logging.LogRecord("unimedi_jax", logging.INFO, "", 0, "%s holds nothing", ("/cache/1f/w0/run",), None)
    assert messages._PlainLines("%(message)s").format(record) == "gs://bucket/run holds nothing"
    with pytest.raises(SystemExit):
        cli._refuse("/cache/1f/w0/run:best is none")
    assert capsys.readouterr().err == "error: gs://bucket/run:best is none\n"
