"""What every reader checks first, and how it refuses a file or notes a defect that it tolerates."""

import hashlib
from collections.abc import Callable
from pathlib import Path

LFS_MAGIC = b"version https://git-lfs"
Note = Callable[[str], None]  # takes a code of reasons.NOTES


class BadInput(Exception):  # noqa: N818 (it is no error of the program)
    """A file or a row that is left out of the set: a code of `reasons.REJECTED` and a detail in our own words.

    Never quote a library or the file in the detail: messages of libraries hold memory addresses, files hold names.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


def ignore_note(code: str) -> None:
    """The `Note` of callers that do not collect notes."""


def read_bytes(path: Path, limit: int = 1 << 30) -> bytes:
    """The whole file, after the checks of `check_file`. Raises BadInput, for more than `limit` bytes too."""
    check_file(path)
    if path.stat().st_size > limit:
        raise BadInput("too_large", f"the file has {path.stat().st_size} bytes, at most {limit}")
    return path.read_bytes()


def check_file(path: Path) -> None:
    """Raises BadInput for what is no file, cannot be read, is empty or is a Git LFS pointer."""
    try:
        if not path.exists():
            raise BadInput("missing_file", "there is no such file")
        if not path.is_file():
            raise BadInput("io_error", "a folder or device where a file is needed")
        with path.open("rb") as stream:
            head = stream.read(len(LFS_MAGIC))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise BadInput("io_error", f"the file cannot be read ({type(error).__name__})") from error
    if not head:
        raise BadInput("empty_file", "the file has no bytes")
    if head == LFS_MAGIC:
        raise BadInput("lfs_pointer", "only the Git LFS pointer is here: run `git lfs pull`")


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM does."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def check_hash(path: Path, sha256: str) -> None:
    """Raises BadInput for a file whose bytes do not have the manifest's hash."""
    check_file(path)
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise BadInput("hash_mismatch", "the bytes are not those of the manifest's sha256")
