"""One command for every job: python main.py --config=configs/<job>.py[:arg] [--config.key=value ...]."""

from unimedi_jax import cli

if __name__ == "__main__":
    cli.main()
