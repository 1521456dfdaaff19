"""A small hub on this machine: the part of the Hugging Face protocol that a download needs, with faults on request."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".bin", ".gguf")


class Hub:
    """Serves folders as repositories.

    Attributes:
        repos: folder by "owner/name".
        gated: repositories whose terms nobody accepted yet.
        token: what a client must show, if anything.
        requests: (method, path, Range header) of all that was asked.
        drops: how many downloads of weights still end in their midst.
        is_lying: whether the bytes of weights are wrong.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.token: str | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.drops = 0
        self.is_lying = False
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if folder := self._folder(match[1], match[2] or "main"):
                siblings = [_sibling(file) for file in sorted(folder.iterdir())]
                self._send(json.dumps({"id": match[1], "sha": COMMIT, "siblings": siblings}).encode(), {})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if folder := self._folder(match[1], match[2]):
                self._send_file(folder / match[3])
        else:
            self._refuse(404, "RepoNotFound")

    def _folder(self, repo: str, revision: str) -> Path | None:
        hub = self.hub
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(401, "RepoNotFound")
        elif repo in hub.gated:
            self._refuse(403, "GatedRepo")
        elif repo not in hub.repos:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            return hub.repos[repo]
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        data, is_large = path.read_bytes(), path.name.endswith(_LARGE)
        sibling = _sibling(path)
        etag = sibling["lfs"]["sha256"] if is_large else sibling["blobId"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if is_large and self.hub.is_lying:
            data = bytes(len(data))
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        is_dropped = is_large and self.command == "GET" and self.hub.drops > 0
        self.hub.drops -= is_dropped
        self._send(data[start:], headers, status=status, is_cut=is_dropped)

    def _send(self, data: bytes, headers: dict[str, str], *, status: int = 200, is_cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self.wfile.flush()
            self.close_connection = True


def _sibling(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    sibling: dict[str, Any] = {"rfilename": path.name, "size": len(data), "blobId": blob}
    if path.name.endswith(_LARGE):
        sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return sibling
