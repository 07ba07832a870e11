"""Studies from a DICOMweb server (PS3.18): `dicomweb:URL?study=UID`, with `&series=UID` one series of it.

The instances are written to a folder that lasts as long as they are read, and go through the readers of files. Who asks
is told by the environment, DICOMWEB_TOKEN or DICOMWEB_USER and DICOMWEB_PASSWORD, and never by the address.
"""

import contextlib
import io
import ipaddress
import logging
import os
import pathlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

import pydicom

from data.errors import UserError

LOG = logging.getLogger(__name__)
PREFIX = "dicomweb:"
FORM = "dicomweb:https://host/path?study=UID, with &series=UID for one series"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
LONGEST_UID = 64
MODALITIES = ("CR", "DX", "RG", "CT")  # others are passed over
MOST_INSTANCES = 10_000
SECONDS = 60  # without an answer
# Instances as they are stored, whole (PS3.18, 8.7.3): servers may refuse any other type of part.
STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
SERIES_UID, MODALITY = "0020000E", "00080060"  # keys of DICOM's JSON
# What an answer of another form leads to, in dicomweb-client and here.
NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
INSTALL = "pip install -r requirements-dicomweb.txt"


class Address(NamedTuple):
    """A study, or a series of it, on a server."""

    url: str
    study: str
    series: str = ""


def is_address(text: str) -> bool:
    """Whether a setting names a study on a server."""
    return text.startswith(PREFIX)


def parse(text: str, setting: str = "config.source") -> Address:
    """The parts of an address.

    Raises:
        UserError: it has another form, or holds a name and password.
    """
    parts = urllib.parse.urlsplit(text.removeprefix(PREFIX))
    values = urllib.parse.parse_qs(parts.query)
    study, series = (values.pop(name, [""])[0] for name in ("study", "series"))
    if parts.username or parts.password:
        raise UserError(f"{setting} holds a name or password: put them into DICOMWEB_USER and DICOMWEB_PASSWORD")
    known = parts.scheme in ("http", "https") and parts.hostname and not values and not parts.fragment
    if not known or not _is_uid(study) or (series and not _is_uid(series)):
        raise UserError(f"{setting} is no address of a study: {FORM}")
    return Address(urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")), study, series)


def check(source: str, setting: str = "config.source") -> None:
    """What can be said of a source before weights are loaded.

    Raises:
        UserError: an address of another form, or a path where there is nothing.
    """
    if is_address(source):
        parse(source, setting)
    elif not (path := pathlib.Path(source).expanduser()).exists():
        raise UserError(f"{setting} {path} does not exist")


@contextlib.contextmanager
def opened(source: str, gigabytes: float, setting: str = "config.source") -> Iterator[pathlib.Path]:
    """The path of a source: itself, or of a study on a server a folder with a folder for each series.

    Raises:
        UserError: an address of another form, no such study, more than `gigabytes`, or a server that fails.
    """
    if not is_address(source):
        yield pathlib.Path(source).expanduser()
        return
    address = parse(source, setting)
    with tempfile.TemporaryDirectory(prefix="unimedi-study-") as name:
        folder = pathlib.Path(name)
        _download(address, folder, int(gigabytes * (1 << 30)), setting)
        yield folder


def _download(address: Address, folder: pathlib.Path, most: int, setting: str) -> None:
    client, requests = _client(address, most)
    try:
        series = client.search_for_series(study_instance_uid=address.study, fields=["Modality"], limit=MOST_INSTANCES)
        chosen = [uid for uid, kind in map(_series, series) if kind in MODALITIES and address.series in ("", uid)]
        if not chosen:
            raise UserError(f"{setting}: the server has no X-ray and no CT of this study")
        count = 0
        for uid in dict.fromkeys(chosen):
            (folder / uid).mkdir()
            for part in client.iter_bulkdata(f"{address.url}/studies/{address.study}/series/{uid}"):
                count += 1
                if count > MOST_INSTANCES:
                    raise TooMuchError
                path = folder / uid / _name(part, count)
                path = path.with_name(f"{count:05d}.dcm") if path.exists() else path  # none takes another's place
                path.write_bytes(part)
    except TooMuchError as error:
        limit = f"{most / (1 << 30):.3g} GB (config.download_gb)"
        raise UserError(f"{setting}: the study has more than {limit} or {MOST_INSTANCES} instances") from error
    except requests.exceptions.HTTPError as error:
        raise UserError(f"{setting}: the server answers {_status(error)}: check the address and permissions") from error
    except (requests.exceptions.RequestException, *NO_ANSWER) as error:
        raise UserError(f"{setting}: the server cannot be read ({type(error).__name__}): check its address") from error
    LOG.info("%d instances in %d series were received", count, len(chosen))


class TooMuchError(Exception):
    """More than may be received."""


def _client(address: Address, most: int) -> tuple[Any, Any]:
    """dicomweb-client on a session that receives `most` bytes at most, and the module of its errors."""
    try:
        import requests
        from dicomweb_client.web import DICOMwebClient
    except ImportError as error:
        raise UserError(f"a study on a server is read by dicomweb-client: {INSTALL}") from error
    session = requests.Session()
    budget = [most]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _adapter(requests, budget))
    _authorize(session, address)
    client = DICOMwebClient(address.url, session=session, timeout=SECONDS)
    client.set_http_retry_params(retry=False)
    return client, requests


def _adapter(requests: Any, budget: list[int]) -> Any:
    """Asks for instances as they are stored, and counts what is received, unpacked, over all answers of a session."""

    class Bounded(requests.adapters.HTTPAdapter):
        def send(self, request: Any, **options: Any) -> Any:
            # The client gives the bytes of parts as they are for bulk data alone, and asks for `type="*/*"` then.
            if request.headers.get("Accept", "").startswith("multipart/related"):
                request.headers["Accept"] = STORED
            response = super().send(request, **options)
            stream = response.raw.stream

            def counted(*arguments: Any, **settings: Any) -> Iterator[bytes]:
                for chunk in stream(*arguments, **settings):
                    budget[0] -= len(chunk)
                    if budget[0] < 0:
                        raise TooMuchError
                    yield chunk

            response.raw.stream = counted
            return response

    return Bounded()


def _authorize(session: Any, address: Address) -> None:
    token, user = os.environ.get("DICOMWEB_TOKEN", ""), os.environ.get("DICOMWEB_USER", "")
    if not token and not user:
        return
    parts = urllib.parse.urlsplit(address.url)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise UserError("DICOMWEB_TOKEN and DICOMWEB_PASSWORD are sent over https alone: change the address")
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    else:
        session.auth = (user, os.environ.get("DICOMWEB_PASSWORD", ""))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _series(content: Any) -> tuple[str, str]:
    """UID and modality of an entry of QIDO's answer. Raises ValueError for a UID that is none."""
    uid = content[SERIES_UID]["Value"][0]
    if not isinstance(uid, str) or not _is_uid(uid):
        raise ValueError("a UID of other letters")
    return uid, str((content.get(MODALITY, {}).get("Value") or [""])[0])


def _name(part: bytes, number: int) -> str:
    """A name for an instance: its UID, or a number where it states none."""
    try:
        header = pydicom.dcmread(io.BytesIO(part), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        uid = str(header.get("SOPInstanceUID", ""))
    except Exception:  # pydicom raises whatever the damage leads to; the reader will say what is wrong
        uid = ""
    return f"{uid}.dcm" if _is_uid(uid) else f"{number:05d}.dcm"


def _is_uid(text: str) -> bool:
    return len(text) <= LONGEST_UID and UID.fullmatch(text) is not None


def _status(error: Any) -> str:
    return str(getattr(error.response, "status_code", "an error"))
