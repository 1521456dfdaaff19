"""A real browser before a real server with the embedded model: pytest -m browser.

Needs the extra `browser`, Chromium (CHROMIUM, or one on the path), and for some tests Node with `npm install axe-core
openai` (NODE_MODULES, or node_modules/ here).
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from understudy.server import create_app, load_served_model
from understudy.server.listen import open_socket

WAIT_MS = 120_000


class Theatre:
    """The server.

    Attributes:
        url: its address.
        pace_s: the model waits so long before each step, so that there is time to stop it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.pace_s = 0.0


@pytest.fixture(scope="session")
def theatre() -> Iterator[Theatre]:
    served = load_served_model(None, name="harrow")
    forward = served.model.backend.forward

    def paced(batch: Any) -> Any:
        time.sleep(theatre.pace_s)
        return forward(batch)

    served.model.backend.forward = paced  # type: ignore[method-assign]
    with served.engine, open_socket("127.0.0.1", 0, has_key=False) as listener:
        theatre = Theatre(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            create_app(served, api_key=None), log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield theatre
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("There is no Chromium: apt install chromium, or set CHROMIUM to its path.")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, theatre: Theatre) -> Iterator[Callable[..., Any]]:
    """Open the playground; at the end of the test it must have been quiet, and have asked nobody else."""
    contexts, faults = [], []

    def open_(*, width: int = 1440, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("request", lambda asked: asked.url.startswith((theatre.url, "blob:")) or faults.append(asked.url))
        page.goto(theatre.url)
        page.locator(".said.character").first.wait_for()
        return page

    yield open_
    theatre.pace_s = 0.0
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    return open_page()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    folder = Path(os.environ.get("NODE_MODULES") or Path(__file__).parents[2] / "node_modules")
    if not folder.is_dir():
        pytest.skip("npm install axe-core openai, or set NODE_MODULES to their folder.")
    return folder
