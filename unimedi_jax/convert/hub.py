"""The Hugging Face hub: a model's files by its id, in huggingface_hub's cache. They are read as data, never run.

The hub's client finds its token, its cache, another endpoint and the offline mode by its own settings (HF_TOKEN,
HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE).
"""

import hashlib
import logging
import pathlib
import re
from collections.abc import Sequence

from data.errors import UserError
from unimedi_jax.convert import checksums

LOG = logging.getLogger(__name__)
ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", re.ASCII)  # org/name, org/name@revision
PATIENCE = 10  # seconds for the hub's first answer


class HubError(UserError):
    """Why the hub's files are not at hand, in words that go on after a name."""


def is_id(name: str) -> bool:
    """Whether a name can be a model of the hub: org/name or org/name@revision.

    Not where there is a folder `org` here: a mistyped path of one's own is sent nowhere.
    """
    return ID.fullmatch(name) is not None and not pathlib.Path(name.partition("/")[0]).exists()


def label(folder: pathlib.Path) -> str:
    """org/name@commit of a folder in the hub's cache, the commit shortened; "" of any other folder."""
    match = re.search(r"models--(\w[\w.-]*?)--(\w[\w.-]*)/snapshots/(\w{8})\w*$", folder.as_posix())
    return f"{match[1]}/{match[2]}@{match[3]}" if match else ""


def cached(name: str, patterns: Sequence[str]) -> pathlib.Path | None:
    """The folder with what the cache has of a model's files; None where it has nothing. Nobody is asked.

    Raises:
        UserError: a file in the cache is not what the hub sent.
    """
    import huggingface_hub

    identifier, _, revision = name.partition("@")
    options = dict(revision=revision or None, allow_patterns=list(patterns), local_files_only=True)
    try:
        return _checked(pathlib.Path(huggingface_hub.snapshot_download(identifier, **options)))
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.HFValidationError):
        return None


def sizes(name: str) -> dict[str, int]:
    """The names of a model's files on the hub, and their bytes.

    Raises:
        HubError: the hub cannot be reached, has no such model or revision, or does not show it.
    """
    import huggingface_hub

    identifier, _, revision = name.partition("@")
    try:
        options = dict(revision=revision or None, files_metadata=True, timeout=PATIENCE)
        listed = huggingface_hub.HfApi().model_info(identifier, **options).siblings or ()
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise HubError(reason(error, revision)) from error
    return {file.rfilename: file.size or 0 for file in listed}


def snapshot(name: str, patterns: Sequence[str]) -> pathlib.Path:
    """The folder with a model's files that match: the hub's newest, or those of the cache where it cannot be reached.

    Every file is held against the hash under which the hub lists it.

    Raises:
        HubError: no such model, or neither the hub nor the cache has its files.
        UserError: a file in the cache is not what the hub sent.
    """
    import huggingface_hub

    try:
        sizes(name)  # fails at once when offline: the download itself would retry for half a minute
    except HubError:
        folder = cached(name, patterns)
        if folder is None:
            raise
        LOG.info("%s: from the cache, the hub was not reached", name)
        return folder
    identifier, _, revision = name.partition("@")
    try:
        options = dict(revision=revision or None, allow_patterns=list(patterns))
        folder = pathlib.Path(huggingface_hub.snapshot_download(identifier, **options))
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of the hub
        raise HubError(reason(error, revision)) from error
    return _checked(folder)


def _checked(folder: pathlib.Path) -> pathlib.Path:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _is_intact(path):
            raise UserError(f"{path} is not what the hub sent: remove the file that it links to, and fetch it again")
    return folder


def _is_intact(path: pathlib.Path) -> bool:
    """Whether a file's content has the hash by which the cache names it: SHA-256, or Git's of a small file."""
    known = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", known):
        return checksums.digest(path) == known
    if re.fullmatch("[0-9a-f]{40}", known):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == known
    return True  # a cache without links, as on some file systems: it does not name what it holds


def reason(error: Exception, revision: str = "") -> str:
    """What went wrong and what to do; the client's own messages run over several lines."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and the Hugging Face cache does not have it: unset it, or fetch it first"
    if isinstance(error, errors.GatedRepoError):
        return "the Hugging Face hub asks to accept its terms first: do so on its page, then hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hugging Face hub has no such model, or a private one: correct the name, or hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the Hugging Face hub has it, but no revision {revision!r} of it"
    if isinstance(error, errors.HFValidationError):
        return "the Hugging Face hub knows no such names"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return "the Hugging Face hub does not allow it: hf auth login, or HF_TOKEN, with the right to do it"
    away = errors.EntryNotFoundError | errors.HfHubHTTPError | ConnectionError
    if isinstance(error, away) or "Connect" in type(error).__name__:
        return (
            f"the Hugging Face hub cannot be reached ({type(error).__name__}), and its cache does not have it: check "
            "the network, then the same command resumes"
        )
    return f"the transfer with the Hugging Face hub broke off ({type(error).__name__}): the same command tries again"
