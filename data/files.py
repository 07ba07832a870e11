"""What every reader checks first, and how it says no."""

from pathlib import Path

LFS_MAGIC = b"version https://git-lfs"


class BadInput(Exception):  # noqa: N818 (it is no error of the program)
    """A file or a row that stays out of the set: a code, and a detail in our own words.

    Never quote a library or the file's content in the detail: texts of libraries hold memory addresses, files names.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


def read_bytes(path: Path, limit: int = 1 << 30) -> bytes:
    """The whole file, after the checks of `check_file`; more than `limit` bytes are too_large."""
    check_file(path)
    if path.stat().st_size > limit:
        raise BadInput("too_large", f"the file has {path.stat().st_size} bytes, at most {limit}")
    return path.read_bytes()


def check_file(path: Path) -> None:
    """Refuses what is no file, cannot be read, is empty or is a Git LFS pointer."""
    try:
        if not path.exists():
            raise BadInput("missing_file", "there is no such file")
        if not path.is_file():
            raise BadInput("not_a_file", "a file is wanted here")
        with path.open("rb") as stream:
            head = stream.read(len(LFS_MAGIC))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error
    if not head:
        raise BadInput("empty_file", "the file has no bytes")
    if head == LFS_MAGIC:
        raise BadInput("lfs_pointer", "only the Git LFS pointer is here: run `git lfs pull`")
