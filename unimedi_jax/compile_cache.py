"""Compiled programs on disk: the second start of a run compiles nothing."""

import hashlib
import logging
import os
import pathlib
import platform
import stat

import jax

from unimedi_jax import machine

LOG = logging.getLogger(__name__)


def enable(folder: str) -> None:
    """Reads and writes programs that take a second or longer to compile in `folder` (~ is the home; "" = nowhere).

    A folder that JAX has already, as by JAX_COMPILATION_CACHE_DIR, stays. Programs in there run unchecked, so a folder
    that others may write to is refused with a warning.
    """
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = pathlib.Path(folder) / _machine()
    try:
        path = path.expanduser()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        LOG.warning("compiled programs are not kept: %s: %s", path, getattr(error, "strerror", error))
        return
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        LOG.warning("compiled programs are not kept: others may write to %s", path)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))


def _machine() -> str:
    """Names the processor's instruction sets, which programs for it use: unlike machines may share a home."""
    sets = " ".join(machine.instruction_sets())
    return f"{platform.machine()}-{hashlib.sha256(sets.encode()).hexdigest()[:8]}"
