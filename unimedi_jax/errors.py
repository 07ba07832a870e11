"""The one exception a user sees as one line."""


class UserError(Exception):
    """A mistake in the input or the configuration: what is wrong, where, and what to do.

    `main.py` prints the message alone and exits with `exit_code`.
    """

    exit_code = 2


class OverBudgetError(UserError):
    """More rows are rejected than the user allows."""

    exit_code = 3
