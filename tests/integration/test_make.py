"""The whole workshop, killed again and again."""

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smoke.toml"
KILLS = 10
LIMIT_S = 1800
STAGES = ("tokenizer", "teacher", "importance", "candidates", "student", "finetuned", "quantized")


def start(output: Path) -> subprocess.Popen[bytes]:
    code = "from understudy.cli import main; main()"
    command = [sys.executable, "-c", code, "make", str(RECIPE), "--data", str(ROOT), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen([*command, "--threads", "1"], stdout=log, stderr=log, env=environment)


def digests(output: Path) -> dict[str, str]:
    """Hashes of every model, table and tokenizer; reports hold dates and times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in STAGES
        for path in sorted((output / stage).rglob("*"))
        if path.suffix in (".safetensors", ".gguf", ".json", ".csv") and path.is_file()
    }


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Of all its threads so far, so that what else the machine does moves no kill."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(output: Path, until: float = math.inf) -> float | None:
    """Processor seconds of a whole run; None where it was killed after `until` of them."""
    process = start(output)
    try:
        deadline = time.monotonic() + LIMIT_S
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < deadline, (output.parent / f"{output.name}.log").read_text()[-2000:]
            if processor_seconds(process) > until:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return None
            time.sleep(0.01)
        seconds = processor_seconds(process)  # it has ended, and was not yet asked for its status
        assert process.wait() == 0, (output.parent / f"{output.name}.log").read_text()[-2000:]
        return seconds
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT_S)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux for a process's time")
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    whole_s = run(tmp_path / "whole")
    idle_s = run(tmp_path / "whole")  # every stage is finished: what a start alone takes
    assert whole_s and idle_s and idle_s < 0.5 * whole_s
    whole = digests(tmp_path / "whole")
    assert len(whole) > 20
    rng = random.Random(11)
    killed, folders = 0, 0
    while killed < KILLS:  # in a second folder, should the first be finished before
        folders += 1
        torn = tmp_path / f"torn{folders}"
        while run(torn, until=rng.uniform(0.5 * idle_s, idle_s + 2 * (whole_s - idle_s) / KILLS)) is None:
            killed += 1
            if killed == KILLS:
                run(torn)
                break
        assert digests(torn) == whole
        assert (torn / "published" / "README.md").read_text().startswith("---")
    assert folders <= 3
