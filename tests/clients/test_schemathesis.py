"""Requests that schemathesis makes up from our OpenAPI document: no failure, and no answer that it does not tell of."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
NUM_CASES = 2000
# Made-up names meet nobody: most requests name the model and the characters that are there.
CONFIG = """
[dictionaries]
models.values = ["harrow"]
names.values = ["harrow", "hettie"]
people.values = {people}

[parameters]
"body.model" = {{ dictionary = "models", probability = 0.8 }}
"path.name" = {{ dictionary = "names", probability = 0.8 }}
"path.npc_id" = {{ dictionary = "people", probability = 0.8 }}

[[operations]]
include-name = "DELETE /v1/npcs/{{npc_id}}"
parameters = {{ "path.npc_id" = "nobody" }}
"""


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_no_failure_and_no_surprise(short_server: str, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("pip install schemathesis")
    made = [httpx.post(f"{short_server}/v1/npcs", json={"character": "hettie"}, timeout=60) for _ in range(3)]
    (tmp_path / "schemathesis.toml").write_text(CONFIG.format(people=[answer.json()["id"] for answer in made]))
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--no-shrink", "--no-color"]
    options += ["--seed", "1", "--checks", ",".join(CHECKS), "--suppress-health-check", "all"]
    command = [program, "--config-file", "schemathesis.toml", "run", f"{short_server}/openapi.json", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1700, check=False)
    assert run.returncode == 0, run.stdout[-8000:]
    generated = re.search(r"(\d+) generated", run.stdout)
    assert generated, run.stdout[-2000:]
    assert int(generated[1]) >= NUM_CASES
    told = httpx.get(f"{short_server}/metrics", timeout=60).text
    answered = re.search(r"^request_success_total\{.*\} (\d+)", told, re.MULTILINE)
    print(f"{generated[1]} cases, {answered and answered[1]} generations")
