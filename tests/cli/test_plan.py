"""What is told of a GPU's memory before anything is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Run


def test_the_4b_in_2_2_gb(run: "Run") -> None:
    result = run("plan", "--model", "synth:nemotron-mini-4b", "--gpu-memory", "2.2GB")
    assert (result.code, result.err) == (0, "")
    for fragment in ("32 of 32", "4096 tokens at 8 bits", "scratch", "of 2200.0 MB", "the machine's memory"):
        assert fragment in result.out


def test_less_memory_moves_layers(run: "Run") -> None:
    result = run("plan", "--model", "synth:nemotron-mini-4b", "--gpu-memory", "1.5GB", "--format", "q4_k_q6_k")
    assert "27 of 32, none of the head" in result.out
    assert "5 and the head" in result.out


def test_a_file_and_what_cannot_be_planned(run: "Run", model_file: Path) -> None:
    assert "2 of 2" in run("plan", "--model", model_file).out
    for arguments, words in (
        (("--model", "synth:nemotron-mini-4b", "--gpu-memory", "9MB"), "Not one layer fits"),
        (("--model", "synth:gpt"), "choose from"),
        (("--model", "synth:nemotron-mini-4b", "--format", "q3"), "choose from"),
        (("--gpu-memory", "much"), "is no size"),
    ):
        result = run("plan", *arguments)
        assert (result.code, words in result.err) == (2, True)
