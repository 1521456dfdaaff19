import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy.kernels.native import native_module

if TYPE_CHECKING:
    from conftest import Run


SHORT = ("--prefill", "8", "--depth", "8")


def test_a_mistake_is_one_sentence(run: "Run", tmp_path: Path) -> None:
    for arguments, words in (
        (("x.gguf",), "understudy synth"),
        (("x.gguf", "--peers", "abacus"), "no engine 'abacus' here"),
        (("x.gguf", "--peers", "none", "--prefill", "12,many"), "--prefill takes whole numbers"),
        (("x.gguf", "--peers", "none", "--depth", "9999"), "--depth takes whole numbers"),
    ):
        result = run("bench", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_a_table_and_json(run: "Run", model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"characters": (2,), "persona": (64, 4)}
    monkeypatch.setattr("understudy.evaluation.speed.measure_speed.__kwdefaults__", _defaults(short))
    result = run("bench", model_file, "--peers", "none", *SHORT, "--repeats", 1, "--plot", tmp_path / "x.png")
    assert result.code == 0
    assert "prefill 8" in result.out
    for words in ("tokens/s", "this machine: ", "warm", "% of"):
        assert words in result.out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(run("bench", model_file, "--peers", "none", *SHORT, "--repeats", 1, "--json").out)
    assert {m["what"] for m in found["measurements"]} >= {"load", "decode at 8", "2 characters at once"}


def _defaults(changes: dict[str, object]) -> dict[str, object]:
    from understudy.evaluation.speed import measure_speed

    return {**(measure_speed.__kwdefaults__ or {}), **changes}
