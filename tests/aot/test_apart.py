"""A compiler that crashes is one line, and its output a file."""

import logging
import os
import pathlib
import signal

import pytest

from data.errors import UserError
from unimedi_jax.aot import apart


def crash(number: int) -> None:
    os.write(2, b"a dump of many lines\n" * 200)
    os.kill(os.getpid(), number)


def refuse() -> None:
    raise UserError("it does not fit")


def log_and_print() -> None:
    os.write(2, b"a library's warning\n")
    logging.getLogger("unimedi_jax.aot").warning("our own line")
    print("a table")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_compiler_that_crashes(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, number: int) -> None:
    with pytest.raises(UserError, match=r"^v5e-256: compiling: the compiler ended its process") as raised:
        apart.call(crash, number, log=tmp_path / "run" / "compiler.log", doing="v5e-256: compiling")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""
    assert (tmp_path / "run" / "compiler.log").read_text().count("a dump of many lines") == 200


def test_errors_come_through_and_our_lines_stay_on_the_terminal(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"^it does not fit$"):
        apart.call(refuse, log=tmp_path / "log", doing="")
    apart.call(log_and_print, log=tmp_path / "log", doing="")
    printed = capfd.readouterr()
    assert printed.out == "a table\n"
    assert printed.err.endswith("our own line\n")
    assert "library" not in printed.err
    assert (tmp_path / "log").read_text() == "a library's warning\n"
