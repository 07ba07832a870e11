"""The command by any of its names: main.py, unimedi, python -m unimedi_jax."""

import signal


def main() -> None:
    """Runs the command line (unimedi_jax/cli.py). A Ctrl-C during the imports ends it at once, without a traceback."""
    answered = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so where a shell ignores it
    if answered:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from unimedi_jax import cli

    if answered:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
