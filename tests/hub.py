"""A hub of models on the loopback, for huggingface_hub's own client: it lists, sends, takes, and fails as asked."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib import parse

LARGE = 10_000  # bytes from which a file goes through the LFS


@dataclasses.dataclass
class Hub:
    """The content of the server, and what it was asked."""

    address: str = ""
    models: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    private: set[str] = dataclasses.field(default_factory=set)  # shown to those who send TOKEN
    large: dict[str, bytes] = dataclasses.field(default_factory=dict)  # uploaded, by SHA-256
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)  # method, path, range
    cut: dict[str, int] = dataclasses.field(default_factory=dict)  # file -> how often its transfer breaks off half way
    short: set[str] = dataclasses.field(default_factory=set)  # files sent as if half were all

    TOKEN = "hf_loopback"

    def put(self, name: str, folder: pathlib.Path) -> None:
        """A model with the files of a folder."""
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        self.models[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def environment(self, cache: pathlib.Path) -> dict[str, str]:
        """For a process that is to use this hub, with a cache of its own."""
        settings = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        return settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        content = hub

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._note()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path):
            name, kind, revision, folder = match.groups()
            if not self._shown(name, revision):
                return
            if folder:  # none here has one
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                self._json(self._tree(name) if kind == "tree" else self._info(name))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision, file = match.groups()
            if not self._shown(name, revision):
                return
            if file not in self.content.models[name]:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                self._file(name, file)
        else:
            self._json({"error": path}, 404)

    def do_POST(self) -> None:
        path, body = self._note(), self.rfile.read(int(self.headers["Content-Length"] or 0)) or self._chunks()
        if self.headers.get("Authorization") != f"Bearer {Hub.TOKEN}" and path != "/api/validate-yaml":
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            place = {"url": f"{self.content.address}/{name}"}
            if name in self.content.models:
                return self._json({"error": "You already created this model repo", **place}, 409)
            self.content.models[name] = {}
            if asked.get("visibility") == "private" or asked.get("private"):  # newer clients, and older ones
                self.content.private.add(name)
            return self._json(place)
        if path.endswith("/objects/batch"):
            objects = [{**one, "actions": self._actions(one["oid"])} for one in json.loads(body)["objects"]]
            return self._json({"transfer": "basic", "objects": objects})
        name, kind = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path).groups()
        if kind == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] > LARGE else "regular"} for f in files]
            return self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.content.models[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.content.models[name][value["path"]] = self.content.large[value["oid"]]
        url = f"{self.content.address}/{name}/commit/{self._commit(name)}"
        return self._json({"success": True, "commitOid": self._commit(name), "commitUrl": url})

    def do_PUT(self) -> None:
        path, body = self._note(), self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
        self.content.large[path.rpartition("/")[2]] = body
        self._json({})

    def _note(self) -> str:
        path = parse.unquote(parse.urlsplit(self.path).path)
        self.content.requests.append((self.command, path, self.headers.get("Range", "")))
        return path

    def _chunks(self) -> bytes:
        """A body whose length was not known."""
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _shown(self, name: str, revision: str | None) -> bool:
        hidden = name in self.content.private and self.headers.get("Authorization") != f"Bearer {Hub.TOKEN}"
        if hidden or name not in self.content.models:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", self._commit(name)):
            self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def _commit(self, name: str) -> str:
        files = sorted(self.content.models[name].items())
        return hashlib.sha1(b"".join(path.encode() + b"\0" + data for path, data in files)).hexdigest()

    def _info(self, name: str) -> dict[str, Any]:
        files = [self._facts(path, data) for path, data in self.content.models[name].items()]
        listed = [{"rfilename": f["path"], "size": f["size"], "blobId": f["oid"]} for f in files]
        return {"id": name, "sha": self._commit(name), "private": name in self.content.private, "siblings": listed}

    def _tree(self, name: str) -> list[dict[str, Any]]:
        return [self._facts(path, data) for path, data in self.content.models[name].items()]

    def _facts(self, path: str, data: bytes) -> dict[str, Any]:
        facts = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
        if len(data) > LARGE:
            facts["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return facts

    def _file(self, name: str, file: str) -> None:
        data = self.content.models[name][file]
        digest = hashlib.sha256(data).hexdigest() if len(data) > LARGE else _git(data)
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", self._commit(name))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        sent = data[start:]
        if file in self.content.short and self.command == "GET":
            sent = data[: len(data) // 2]
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.content.cut.get(file, 0):
            self.content.cut[file] -= 1
            self.wfile.write(sent[: len(sent) // 2])
            self.close_connection = True
        else:
            self.wfile.write(sent)

    def _actions(self, digest: str) -> dict[str, Any]:
        return {"upload": {"href": f"{self.content.address}/upload/{digest}", "header": {}}}

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
