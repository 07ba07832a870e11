"""A DICOMweb server on the loopback (PS3.18): QIDO-RS for series, WADO-RS for the instances of a series.

It is a strict one: to a request for instances as anything else than DICOM as it is stored it answers 406.
"""

import http.server
import json
import re
import threading
import urllib.parse

import pydicom

SERIES = re.compile(r"/dicom-web/studies/([\d.]+)/series")
INSTANCES = re.compile(r"/dicom-web/studies/([\d.]+)/series/([\d.]+)")
STORED = ["multipart/related", 'type="application/dicom"', "transfer-syntax=*"]


class Server(http.server.ThreadingHTTPServer):
    """`instances` are {(study, series, modality): [bytes of files]}; `requests` what was asked, with its headers."""

    daemon_threads = True

    def __init__(self, instances: dict[tuple[str, str, str], list[bytes]], authorization: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.instances, self.authorization = instances, authorization
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answer: tuple[int, str, bytes] | None = None  # instead of what is asked for
        self._thread = threading.Thread(target=self.serve_forever)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        path = urllib.parse.urlsplit(self.path).path
        if self.server.authorization and self.headers["Authorization"] != self.server.authorization:
            self._send(401, "text/plain", b"")
        elif self.server.answer is not None:
            self._send(*self.server.answer)
        elif match := SERIES.fullmatch(path):
            series = [key for key in self.server.instances if key[0] == match[1]]
            self._send(200, "application/dicom+json", json.dumps([_entry(*key) for key in series]).encode())
        elif INSTANCES.fullmatch(path) and [part.strip() for part in self.headers["Accept"].split(";")] != STORED:
            self._send(406, "text/plain", b"")
        elif match := INSTANCES.fullmatch(path):
            parts = next(files for key, files in self.server.instances.items() if key[:2] == match.groups())
            head = b"--next\r\nContent-Type: application/dicom\r\n\r\n"
            body = b"".join(head + part + b"\r\n" for part in parts) + b"--next--\r\n"
            self._send(200, 'multipart/related; type="application/dicom"; boundary=next', body)
        else:
            self._send(404, "text/plain", b"")

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(study: str, series: str, modality: str) -> dict:
    data = pydicom.Dataset()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = study, series, modality
    return data.to_json_dict()
