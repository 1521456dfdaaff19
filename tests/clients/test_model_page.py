"""The programs of the published model's page, as `docs/clients.md` has them: only address and key are put in."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
ADDRESS = "http://127.0.0.1:8000"
VARIANTS = ("streamed", "whole")


def run(language: str, variant: str, *, server: str, key: str, command: list[str], folder: Path, name: str) -> str:
    """What a program of the document prints."""
    section = DOCUMENT.read_text().split(f"\n## {language}\n")[1].split("\n## ")[0]
    programs = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert len(programs) == len(VARIANTS)
    program = programs[VARIANTS.index(variant)]
    assert program.count(ADDRESS) == program.count("KEY") == 1
    file = folder / name
    file.write_text(program.replace(ADDRESS, server).replace("KEY", key))
    finished = subprocess.run(
        [*command, file.name], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return finished.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_openai_python(server: str, key: str, tmp_path: Path, variant: str) -> None:
    command = [sys.executable]
    said = run("OpenAI, Python", variant, server=server, key=key, command=command, folder=tmp_path, name="program.py")
    assert said.strip()


@pytest.mark.clients
@pytest.mark.parametrize("variant", VARIANTS)
def test_langchain(server: str, key: str, tmp_path: Path, variant: str) -> None:
    pytest.importorskip("langchain_nvidia_ai_endpoints", reason="pip install langchain-nvidia-ai-endpoints")
    command = [sys.executable, "-W", "ignore"]
    said = run("LangChain", variant, server=server, key=key, command=command, folder=tmp_path, name="program.py")
    assert said.strip()


@pytest.mark.clients
@pytest.mark.parametrize("variant", VARIANTS)
def test_openai_javascript(server: str, key: str, tmp_path: Path, node_modules: Path, variant: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed.")
    (tmp_path / "node_modules").symlink_to(node_modules)
    said = run(
        "OpenAI, JavaScript", variant, server=server, key=key, command=[node], folder=tmp_path, name="program.mjs"
    )
    assert said.strip()


def test_curl_streamed(server: str, key: str, tmp_path: Path) -> None:
    said = run("curl", "streamed", server=server, key=key, command=["sh"], folder=tmp_path, name="program.sh")
    *events, last = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_curl_whole(server: str, key: str, tmp_path: Path) -> None:
    said = run("curl", "whole", server=server, key=key, command=["sh"], folder=tmp_path, name="program.sh")
    body, _, status = said.rpartition("\n")
    assert status == "200"
    assert json.loads(body)["choices"][0]["message"]["content"]


def test_curl_without_the_key(server: str, tmp_path: Path) -> None:
    said = run("curl", "whole", server=server, key="another", command=["sh"], folder=tmp_path, name="program.sh")
    body, _, status = said.rpartition("\n")
    assert status == "401"
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
