"""Requests that schemathesis makes up from our OpenAPI document: no failure, and no answer that it does not tell of."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
NUM_CASES = 2000


@pytest.mark.clients
def test_no_failure_and_no_surprise(short_server: str, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("pip install schemathesis")
    options = ["--phases", "examples,coverage,fuzzing", "--max-examples", "40", "--no-shrink", "--no-color"]
    options += ["--seed", "1", "--checks", ",".join(CHECKS), "--suppress-health-check", "all"]
    command = [program, "run", f"{short_server}/openapi.json", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200, check=False)
    assert run.returncode == 0, run.stdout[-8000:]
    generated = re.search(r"(\d+) generated", run.stdout)
    assert generated, run.stdout[-2000:]
    assert int(generated[1]) >= NUM_CASES
