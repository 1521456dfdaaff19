"""A whole measurement on a tiny model."""

from pathlib import Path

import pytest

from understudy.evaluation.speed import Measurement, measure_speed
from understudy.kernels.native import native_module
from understudy.model.synthetic import write_synthetic
from understudy.testing import tiny_config
from understudy.testing.tiny import byte_tokenizer_definition


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_every_figure_is_there(tmp_path: Path) -> None:
    path, said = tmp_path / "x.gguf", []
    write_synthetic(path, tiny_config(), byte_tokenizer_definition(), file_type="q4_0")
    report = measure_speed(
        path, ["understudy"], threads=1, repeats=2, prefills=(8, 64), depths=(16,), characters=(2,), persona=(300, 4),
        report=said.append,
    )  # fmt: skip
    prefills, first = ["prefill 8", "prefill 64"], "first token after 300 + 4"
    rest = ["decode at 16", "2 characters at once"]
    assert said == [
        "reading the file into the page cache",
        "loading understudy",
        *prefills,
        first,
        *rest,
        "the machine's limits",
    ]
    found = {m.what: m for m in report.measurements}
    assert list(found) == ["load", *prefills, f"{first}, cold", f"{first}, warm", *rest, "peak memory", "mapped memory"]
    assert found[f"{first}, warm"].value < found[f"{first}, cold"].value
    assert set(report.ceilings) == {*prefills, "decode at 16"}
    assert all(value > 1e9 for value in report.limits.values())
    assert len(report.limits) == 2
    assert all(m.value > 0 and isinstance(m, Measurement) for m in report.measurements)
    assert report.value("decode at 16", "understudy") == found["decode at 16"].value
    assert report.value("decode at 17", "understudy") is None
    assert "cpu" in report.versions["understudy"]


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_a_bench_program_takes_its_turns_and_leaves_out_what_it_cannot(tmp_path: Path) -> None:
    path, binary = tmp_path / "x.gguf", tmp_path / "other-bench"
    write_synthetic(path, tiny_config(), byte_tokenizer_definition(), file_type="q4_0")
    binary.write_text("#!/bin/sh\necho '[{\"avg_ts\": 20.0}]'\n")
    binary.chmod(0o755)
    report = measure_speed(
        path, ["understudy"], threads=1, repeats=1, llama_bench=binary, prefills=(8,), depths=(16,), characters=(2,),
        persona=(30, 4),
    )  # fmt: skip
    assert report.value("prefill 8", "other-bench") == pytest.approx(20)
    assert report.value("decode at 16", "other-bench") == pytest.approx(20)
    assert {m.what for m in report.measurements if m.engine == "other-bench"} == {"prefill 8", "decode at 16"}
    assert report.versions["other-bench"] == "unknown build, unknown model"
