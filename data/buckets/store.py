"""The objects of a bucket: list, get, put, remove; patient with what passes, one line for what does not."""

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data.errors import UserError

SCHEMES = ("gs", "s3")
URL = re.compile(rf"({'|'.join(SCHEMES)})://(.+)", re.DOTALL)
MD5 = re.compile('"?([0-9a-f]{32})"?')  # as a tag; another one has "-" and the number of parts behind it
WAITS = (0.5, 1, 2, 4, 8, 16)  # seconds before an action is tried again, beside what the libraries do by themselves
AT_ONCE = 2**26  # bytes of a file that is read whole before it is sent: others may be appending to it
CREDENTIALS = {
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS=FILE",
    "s3": "aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
ADDRESSES = {"gs": ("STORAGE_EMULATOR_HOST",), "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}  # of other servers
# Errors of botocore and google-auth by their names: neither package need be installed.
_WITHOUT = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "RefreshError",
    "ProfileNotFound",
)
T = TypeVar("T")


class Object(NamedTuple):
    """An object as a listing shows it."""

    size: int
    tag: str  # another one after every change
    md5: str  # in hex; "" where the store does not say, as of what was sent to S3 in parts


def is_url(text: str) -> bool:
    """Whether a setting names a bucket or what is in one."""
    return URL.fullmatch(text) is not None


class Store:
    """The bucket that a URL is in. Names are paths with the bucket in front, as in bucket/runs/a.

    Every method raises UserError, one line, for what waiting does not mend: credentials, rights, no such bucket.
    """

    def __init__(self, url: str) -> None:
        match = URL.fullmatch(url)
        if match is None:
            raise UserError(f"{url} is no address in a bucket, as gs://bucket/folder and s3://bucket/folder are")
        self.scheme, self.path = match[1], match[2].strip("/")
        self._files = _file_system(self.scheme)
        self._tags_are_md5 = True  # of an S3 bucket, until it shows that they are not

    def list(self, name: str) -> dict[str, Object]:
        """The object of that name and all below it; {} where there are none."""
        listed = self._tried(f"list {name}", lambda: self._files.find(name, detail=True))
        entries = {key: value for key, value in listed.items() if value.get("type") != "directory"}
        return {key: _object(value) for key, value in entries.items() if not key.endswith("/")}

    def get(self, name: str, target: Path, expected: Object) -> None:
        """Fetches an object into a file, and holds its size and MD5 against those of the listing.

        S3 does not say whether the tag of an object is its MD5: in a bucket that encrypts with a key of its own it is
        none. There the same bytes come twice, and from then on sizes alone are compared.

        Raises:
            FileNotFoundError: it is gone since it was listed.
        """
        before = ""

        def fetch() -> None:
            nonlocal before
            self._files.get_file(name, str(target))
            if (size := target.stat().st_size) != expected.size:
                raise OSError(f"{size} of {expected.size} bytes")
            if not expected.md5 or not self._tags_are_md5 or (md5 := _md5(target)) == expected.md5:
                return
            if self.scheme != "s3" or md5 != before:
                before = md5
                raise OSError("other bytes than were stored")
            self._tags_are_md5 = False

        self._tried(f"read {name}", fetch, missing=True)

    def put(self, source: Path, name: str) -> None:
        """Sends a file. Raises FileNotFoundError: it is not there."""
        if source.stat().st_size > AT_ONCE:
            self._tried(f"write {name}", lambda: self._files.put_file(str(source), name))
        else:
            self.write(name, source.read_bytes())

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None where there is none."""
        try:
            return self._tried(f"read {name}", lambda: self._files.cat_file(name), missing=True)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object, which readers see whole or not at all."""
        self._tried(f"write {name}", lambda: self._files.pipe_file(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Makes an object unless there is one; of several who try it at a time one gets True."""

        def exclusive() -> bool:
            try:
                self._files.pipe_file(name, content, mode="create")
            except FileExistsError:
                return self._files.cat_file(name) == content  # the answer to a first try was lost
            return True

        return self._tried(f"write {name}", exclusive)

    def remove(self, name: str) -> None:
        """Removes an object if it is there."""
        try:
            self._tried(f"remove {name}", lambda: self._files.rm_file(name), missing=True)
        except FileNotFoundError:
            return

    def _tried(self, what: str, action: Callable[[], T], *, missing: bool = False) -> T:
        for wait in (*WAITS, None):
            try:
                return action()
            except FileNotFoundError as error:
                if missing:
                    raise
                raise UserError(f"{self.scheme}://{self.path}: there is no such bucket: make it first") from error
            except Exception as error:  # each library raises types of its own
                if line := _lasting(error, f"{self.scheme}://{self.path}", self.scheme):
                    raise UserError(line) from error
                if wait is None:
                    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    remedy = "check the network and the service; the same command then resumes"
                    raise UserError(f"{self.scheme}://{self.path}: could not {what} ({why}): {remedy}") from error
                time.sleep(wait)
        raise AssertionError("the last wait is None")


def _file_system(scheme: str) -> Any:
    # It would ask for each bucket what kind it is, by an API of its own that needs other rights.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # fsspec keeps one instance for the same settings, with its connections: the address has to be among them.
    addresses = (os.environ.get(name) for name in ADDRESSES[scheme])
    settings: dict[str, Any] = {"use_listings_cache": False, "endpoint_url": next(filter(None, addresses), None)}
    if scheme == "s3":
        settings["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 120}
    try:
        import fsspec

        return fsspec.filesystem({"gs": "gcs"}.get(scheme, scheme), **settings)
    except ImportError as error:
        package = PACKAGES[scheme]
        raise UserError(f"{scheme}:// takes {package}: pip install -r requirements-cloud.txt") from error
    except Exception as error:
        raise UserError(
            _lasting(error, f"{scheme}://", scheme) or f"{scheme}:// does not open: {type(error).__name__}"
        ) from error


def _object(entry: dict[str, Any]) -> Object:
    tag = entry.get("generation") or entry.get("ETag") or entry.get("etag") or entry.get("mtime")
    if "md5Hash" in entry:
        return Object(int(entry["size"]), str(tag), base64.b64decode(entry["md5Hash"]).hex())
    md5 = MD5.fullmatch(str(entry.get("ETag")))
    return Object(int(entry["size"]), str(tag), md5[1] if md5 else "")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _lasting(error: BaseException, url: str, scheme: str) -> str:
    """The line for what no second try mends; "" for other errors."""
    chain = [error, error.__cause__, error.__context__]
    names, words = {type(one).__name__ for one in chain}, " ".join(str(one) for one in chain if one)
    status = getattr(error, "code", None)
    if names & set(_WITHOUT) or "Anonymous caller" in words or status == 401:
        return f"{url}: no credentials that it takes: {CREDENTIALS[scheme]}"
    if isinstance(error, PermissionError) or status == 403:
        return f"{url}: this account may not do that here: give it the right, or others ({CREDENTIALS[scheme]})"
    return ""
