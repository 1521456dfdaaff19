import json
from pathlib import Path
from typing import TYPE_CHECKING

from understudy import __version__

if TYPE_CHECKING:
    from conftest import Run


def test_what_runs_where(run: "Run", model_file: Path) -> None:
    result = run("doctor", "--model", model_file, "--backend", "reference")
    assert (result.code, result.err) == (0, "")
    for fragment in (str(model_file), "reference", "tokens/s", "KV cache", "why", "numpy", "cores"):
        assert fragment in result.out


def test_json(run: "Run", model_file: Path) -> None:
    found = json.loads(run("doctor", "--model", model_file, "--json").out)
    assert found["versions"]["understudy"] == __version__
    assert found["backend"]["chosen"].startswith(("cpu", "reference"))
    assert found["model"]["context"] == "4096 tokens"
