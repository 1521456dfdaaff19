"""A real server with a random model, and that model's file."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from understudy.model.gguf_writer import write_gguf
from understudy.server import create_app, load_served_model
from understudy.server.listen import open_socket, server_config
from understudy.testing import byte_tokenizer, random_tensors, tiny_config


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "harrow.gguf"
    config = tiny_config()
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    return path


@contextmanager
def _serving(model_file: Path, api_key: str | None) -> Iterator[str]:
    served = load_served_model(model_file)
    app = create_app(served, api_key=api_key)
    with served.engine, open_socket("127.0.0.1", 0, has_key=False) as listener:
        server = uvicorn.Server(server_config(app))
        server.config.timeout_graceful_shutdown = 1
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def server(model_file: Path) -> Iterator[str]:
    """Base address of a server that asks for no key."""
    with _serving(model_file, None) as address:
        yield address


@pytest.fixture(scope="session")
def server_with_key(model_file: Path) -> Iterator[str]:
    """Base address of a server whose key is "secret"."""
    with _serving(model_file, "secret") as address:
        yield address
