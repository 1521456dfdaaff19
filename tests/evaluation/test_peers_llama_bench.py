"""A program that speaks as llama-bench does."""

import json
import sys
from pathlib import Path

import pytest

from understudy.errors import EngineError
from understudy.evaluation.peers_llama_bench import LlamaBench

ROW = {"build_commit": "0c1e570", "model_type": "nemotron 4B Q4_0", "n_prompt": 0, "n_gen": 0, "avg_ts": 50.0}


def program(folder: Path, body: str) -> Path:
    """An executable that notes how it was called, and then does as told."""
    path = folder / "some-bench"
    log = folder / "calls"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{body}"
    )
    path.chmod(0o755)
    return path


def test_questions_become_options_and_rates_become_seconds(tmp_path: Path) -> None:
    binary = program(tmp_path, f"print({json.dumps([ROW])!r})")
    engine = LlamaBench(binary, Path("m.gguf"), threads=2)
    assert engine.name == "some-bench"
    assert engine.version == "0c1e570, nemotron 4B Q4_0"
    assert engine.ask(prefill=512) == {"seconds": 512 / 50}
    assert engine.ask(context=3900) == {}
    assert engine.ask(decode=16) == {"seconds_a_token": 1 / 50}
    asked = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    head = "-m m.gguf -t 2 -r 1 -o json"
    assert asked == [f"{head} -p 1 -n 0", f"{head} -p 512 -n 0", f"{head} -p 0 -n 16 -d 3900"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('unknown architecture')", "exit code 1: unknown architecture"),
        ("print('pp512: 80 t/s')", "does not answer as llama-bench"),
        ("print('{}')", "does not answer as llama-bench|gave 0 results"),
        ("print('[]')", "gave 0 results"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        LlamaBench(program(tmp_path, body), Path("m.gguf"), threads=1)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="llama-bench cannot be run"):
        LlamaBench(tmp_path / "llama-bench", Path("m.gguf"), threads=1)
