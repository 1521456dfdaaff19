"""OpenAI's JavaScript client: its `runTools` finds the calls, runs them, and hears the model out."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Stage

FOLDER = Path(__file__).parent / "javascript"


@pytest.mark.peers
def test_run_tools(url: str, stage: "Stage") -> None:
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "openai").is_dir():
        pytest.skip(f"needs node, and: npm install --no-save --prefix {FOLDER}")
    calls = [f'<toolcall> {{"name": "open_gate", "arguments": {{"side": "{s}"}}}} </toolcall>' for s in ("a", "b")]
    stage.script, stage.script_after_results = "\n".join(calls), "Both stand open."
    command = [node, "run_tools.mjs", f"{url}/v1"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["opened"] == ["a", "b"] * 2
    for answer in said["answers"]:
        assert answer["content"] == "Both stand open."
        assert answer["roles"] == ["user", "assistant", "tool", "tool", "assistant"]
        assert bool(answer["pieces"]) == answer["stream"]
