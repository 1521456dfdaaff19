from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server was asked to do; it ends at once."""
    seen: dict[str, Any] = {}

    def run_server(app: Any, host: str, port: int, *, ready: Callable[[str], None]) -> None:
        seen.update(key=app.state.api_key, host=host, port=port)
        ready(f"http://{host}:{port}")

    monkeypatch.setattr("understudy.server.run_server", run_server)
    return seen


def test_by_default_on_this_machine_only(run: "Run", model_file: Path, served: dict[str, Any]) -> None:
    result = run("serve", "--model", model_file)
    assert (result.code, result.err) == (0, "")
    assert served == {"key": None, "host": "127.0.0.1", "port": 8000}
    assert result.out == "tiny answers at http://127.0.0.1:8000/v1 (no key)\n"


def test_key_and_name(run: "Run", model_file: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "secret")
    result = run("serve", "--model", model_file, "--name", "npc", "--host", "0.0.0.0", "--port", 9000)
    assert served == {"key": "secret", "host": "0.0.0.0", "port": 9000}
    assert result.out == "npc answers at http://0.0.0.0:9000/v1 (key asked)\n"
    assert "secret" not in result.out
