"""The playground as a client without a browser sees it."""

import importlib.resources
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from understudy.server import create_app

if TYPE_CHECKING:
    from conftest import Stage

PAGE = Path(str(importlib.resources.files("understudy.server") / "page"))
SERVED = sorted(path.name for path in PAGE.iterdir() if path.suffix != ".txt")
MAX_BYTES = 120_000  # all of it, but for the faces


async def test_all_files_are_served(client: httpx.AsyncClient) -> None:
    index = await client.get("/")
    assert index.status_code == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Understudy" in index.text
    total = 0
    for name in SERVED:
        response = await client.get(f"/page/{name}")
        assert response.status_code == 200
        assert response.content == (PAGE / name).read_bytes()
        total += len(response.content)
    assert total < MAX_BYTES
    kinds = {name: (await client.get(f"/page/{name}")).headers["content-type"] for name in SERVED}
    assert (kinds["app.js"], kinds["frame.css"]) == ("text/javascript; charset=utf-8", "text/css; charset=utf-8")
    assert kinds["icon.svg"] == "image/svg+xml"


async def test_the_cast_has_faces(client: httpx.AsyncClient) -> None:
    cast = (await client.get("/v1/characters")).json()["data"]
    assert len(cast) == 12
    for character in cast:
        face = await client.get(character["picture"])
        assert (face.headers["content-type"], face.content[:4]) == ("image/png", b"\x89PNG")


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/icon.svg"])
async def test_what_a_browser_may_do(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


async def test_unchanged_files_are_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/page/app.js")
    again = await client.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/none.js",
        "/page/../npcs.py",
        "/page/..%2Fnpcs.py",
        "/page/%2e%2e/app.py",
        "/page/none.woff2",
        "/x",
    ],
)
async def test_nothing_else_is(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_the_page_needs_no_key_but_the_api_does(stage: "Stage") -> None:
    app = create_app(stage.served, api_key="secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/page/app.js")).status_code == 200
        for path in ("/v1/models", "/v1/characters", "/v1/npcs", "/openapi.json", "/pages", "/page"):
            assert (await client.get(path)).status_code == 401


def test_no_file_reaches_out() -> None:
    """But for names of XML's own, addresses are the server's."""
    for name in SERVED:
        found = re.findall(r"https?://[^\s\"'`)]+|//[a-z0-9.-]+\.[a-z]{2,}/", (PAGE / name).read_text("utf-8"))
        assert set(found) <= {"http://www.w3.org/2000/svg"}, name


def test_no_script_or_style_stands_in_the_page() -> None:
    html = (PAGE / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", html) == []
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', html)) <= {f"/page/{name}" for name in SERVED}


def test_texts_never_become_markup() -> None:
    makers = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"
    )
    for path in PAGE.glob("*.js"):
        assert makers.findall(path.read_text("utf-8")) == [], path.name


def test_every_control_is_named() -> None:
    """Screen readers say what a control is for; axe-core looks closer, in tests/browser."""
    html = (PAGE / "index.html").read_text("utf-8")
    labels = set(re.findall(r'<label for="([^"]+)"', html))
    controls = re.findall(r"<(?:input|textarea|select)\b[^>]*>", html)
    named = [c for c in controls if re.search(r'id="([^"]+)"', c)[1] in labels or "aria-label" in c or " hidden" in c]  # type: ignore[index]
    assert len(controls) >= 7
    assert named == controls
    assert '<html lang="en">' in html
    assert all(f'aria-controls="{pane}"' in html for pane in ("pane-why", "pane-dials", "pane-code", "code"))
