"""Prints the reference of all settings: python -m unimedi_jax.config > docs/configuration.md."""

from unimedi_jax.config import reference

if __name__ == "__main__":
    print(reference.markdown(), end="")
