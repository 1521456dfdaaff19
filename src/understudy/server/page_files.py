"""The playground at `/`: the static files of `page/`, whole in memory, and what a browser may do with them."""

import hashlib
import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import FastAPI, Request, Response

from understudy.server.problem import Problem

__all__ = ["add_page", "is_page_path", "portrait_path"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# Everything comes from this server, nothing is written into the page as code, and nobody may frame it.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_page(app: FastAPI) -> None:
    """Add the routes; other names than those of the files that are there now lead nowhere."""
    files = _read()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _answer(request, "index.html", files["index.html"])

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise Problem(404, "There is no such file of the page; it begins at /.", code="unknown_url")
        return _answer(request, name, files[name])


def is_page_path(path: str) -> bool:
    """Whether a path is the page's: it shows nothing of anyone, and a browser cannot send a key for it."""
    return path == "/" or path.startswith("/page/")


def portrait_path(card_id: str) -> str | None:
    """Where the page shows the face of one of the sample world's characters; None for others."""
    name = f"{card_id}.png"
    return f"/page/{name}" if any(entry.name == name for entry in _portraits().iterdir()) else None


def _portraits() -> Traversable:
    return importlib.resources.files("understudy.npc") / "harrowmere" / "cards"


def _read() -> dict[str, bytes]:
    folders = (importlib.resources.files("understudy.server") / "page", _portraits())
    found = {entry.name: entry for folder in folders for entry in folder.iterdir()}
    return {name: found[name].read_bytes() for name in sorted(found) if PurePosixPath(name).suffix in _TYPES}


def _answer(request: Request, name: str, content: bytes) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[PurePosixPath(name).suffix], headers=headers)
