"""One command for every job: python main.py --config=configs/<job>.py[:arg] [--config.key=value ...]."""

from unimedi_jax.__main__ import main

if __name__ == "__main__":
    main()
