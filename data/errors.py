"""How a run fails: with one line, and an exit code that says what to do."""

from collections.abc import Iterable

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: the same command continues the run


class UserError(Exception):
    """A mistake in the input or the configuration: what is wrong, where, and what to do.

    `main.py` prints the message alone and exits with `exit_code`.
    """

    exit_code = 2


class OverBudgetError(UserError):
    """More rows were rejected than the user allows."""

    exit_code = 3


def check_choice(key: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError for a value of the config key that is not one of `known`."""
    if value not in known:
        raise UserError(f"config.{key} is {value!r}: one of {', '.join(known)}")


class StoppedError(Exception):
    """A run that was asked to stop, or lost a host: the same command continues where it stopped.

    `main.py` prints the message alone and exits with code 75.
    """
