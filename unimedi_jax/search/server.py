"""The page on this machine's loopback: read-only, one network, one index, nothing from elsewhere.

What it takes for granted is little: any page in the browser may send requests here, any user of the machine may
connect, and what is uploaded is a stranger's. So the address holds a key, Host and Origin have to be its own, sizes,
times and connections are bounded, no part of a request becomes a path, and pictures are decoded by `decoding`.
"""

import contextlib
import hmac
import http.server
import logging
import pathlib
import secrets
import signal
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from data.errors import UserError
from unimedi_jax import messages
from unimedi_jax.config.jobs import SearchConfig
from unimedi_jax.inference import embed
from unimedi_jax.search import page, query, store
from unimedi_jax.search.app import App, Failed, message

LOG = logging.getLogger(__name__)
ADDRESS = "127.0.0.1"
PAUSE_SECONDS = 20  # that a browser may send nothing
MOST_CONNECTIONS = 16
CHUNK = 1 << 20
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser would hide the origin of our own form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """Listens on the loopback; `address` is what a browser is given."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, app: App, port: int) -> None:
        """`port` 0: any that is free. Raises UserError where it cannot be opened."""
        self.app, self.key = app, secrets.token_urlsafe(24)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            problem = f"config.serve={port}: the port cannot be opened ({error.strerror})"
            raise UserError(f"{problem}: name another") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def server_bind(self) -> None:
        """Takes the port; the base class would ask a name server for the name of the loopback."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def address(self) -> str:
        """The page's address with its key."""
        return f"http://{ADDRESS}:{self.server_port}/{self.key}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, unless there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no event; of our own mistakes the kind is told, not the content."""
        error = sys.exception()
        if not isinstance(error, OSError):
            LOG.error("a request failed: %s", type(error).__name__)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection: GET the form or the neighbours of a case, POST a query."""

    server: Server
    server_version, sys_version = "unimedi", ""
    timeout = PAUSE_SECONDS

    def do_GET(self) -> None:
        """The form, or the neighbours of a case of the index."""
        with self._answered():
            name, values = self._checked()
            if name == "":
                self._send(HTTPStatus.OK, self.server.app.form())
            elif name == "case":
                self._send(HTTPStatus.OK, self.server.app.neighbours(values))
            else:
                raise Failed(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        """The answer to a query."""
        with self._answered():
            name, _ = self._checked()
            if name != "search":
                raise Failed(HTTPStatus.NOT_FOUND, "there is no such page")
            origin = self.headers.get("Origin", "")
            if origin.removeprefix("http://") not in self.server.hosts:
                raise Failed(HTTPStatus.FORBIDDEN, "the query comes from another page")
            with self.server.app.admitted():
                body = self._body()
                self._send(HTTPStatus.OK, self.server.app.search(self.headers.get("Content-Type", ""), body))

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except Failed as failed:
            self._send(failed.status, failed.page)
        except (ConnectionError, TimeoutError):
            raise  # the browser is gone, or sends nothing
        except UserError as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, message(str(error)))
        except Exception as error:
            lacking = messages.of_the_machine(error)
            LOG.error("a request failed: %s", lacking or type(error).__name__)
            status = HTTPStatus.SERVICE_UNAVAILABLE if lacking else HTTPStatus.INTERNAL_SERVER_ERROR
            self._send(status, message(lacking or "This query could not be answered."))

    def send_error(self, code: int, text: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, such as another method or a line too long."""
        self._send(HTTPStatus(code), message(HTTPStatus(code).phrase))

    def _checked(self) -> tuple[str, dict[str, str]]:
        """The page that the address names behind the key, and its values."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:  # another name may be made to lead here
            raise Failed(HTTPStatus.MISDIRECTED_REQUEST, "this page is not served under that name")
        try:
            place = urllib.parse.urlsplit(self.path)
            values = dict(urllib.parse.parse_qsl(place.query, max_num_fields=8))
        except ValueError as error:
            raise Failed(HTTPStatus.BAD_REQUEST, "the address cannot be read") from error
        parts = place.path.split("/", 2)
        key = parts[1] if len(parts) == 3 else ""
        if not hmac.compare_digest(key.encode("utf-8", "replace"), self.server.key.encode()):
            raise Failed(HTTPStatus.FORBIDDEN, "the address lacks its key: open the one that the terminal shows")
        return parts[2], values

    def _body(self) -> bytearray:
        """The body, of a length that is stated and within bounds, in a time that is bounded too."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdecimal():
            raise Failed(HTTPStatus.LENGTH_REQUIRED, "the length of the query is not stated")
        if len(length) > 12 or int(length) > self.server.app.most_bytes:
            megabytes = self.server.app.most_bytes >> 20
            raise Failed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {megabytes} MB are taken")
        body, until = bytearray(), time.monotonic() + self.server.app.most_seconds
        while len(body) < int(length):
            chunk = self.rfile.read1(min(CHUNK, int(length) - len(body)))
            if not chunk or time.monotonic() > until:
                raise Failed(HTTPStatus.REQUEST_TIMEOUT, "the query did not arrive in time")
            body += chunk
        return body

    def _send(self, status: HTTPStatus, text: str) -> None:
        content = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", page.policy(text))
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address holds the key, and a query is a patient's."""


def serve(folder: pathlib.Path, model: embed.Model, settings: SearchConfig) -> None:
    """Serves the page until it is stopped by Ctrl-C or SIGTERM."""
    query.check(store.read(folder), model)
    app = App(folder, model, settings)
    with Server(app, settings.serve) as server:
        app.warm_up()
        stopped = threading.Event()
        before = {one: signal.signal(one, lambda *_: stopped.set()) for one in (signal.SIGINT, signal.SIGTERM)}
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        print(f"serving {server.address} (Ctrl-C ends it)", flush=True)
        try:
            stopped.wait()
        finally:
            server.shutdown()
            for one, handler in before.items():
                signal.signal(one, handler)
    print("stopped")
