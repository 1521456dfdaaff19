import dataclasses
from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.comparison import (
    comparison_table,
    report_table,
    show_interval,
    show_value,
    write_comparison,
)
from understudy.evaluation.report import ModelFacts, Report, TaskResult
from understudy.evaluation.task import Figure


def figure(name: str, value: float, unit: str, **more: object) -> Figure:
    return Figure(name=name, label=name.upper(), value=value, unit=unit, **more)  # type: ignore[arg-type]


@pytest.fixture
def reports() -> list[Report]:
    facts = ModelFacts(
        file="x.gguf", sha256="ab", parameters=10, bits_per_weight=16.0, file_bytes=2_000_000, config={}, formats={}
    )
    npc = (
        figure("npc.all", 0.5, "share", better="higher", count=4, low=0.25, high=0.75),
        figure("npc.extra", 0.5, "share", is_detail=True),
    )
    size = figure("size.file", 2e6, "bytes", better="lower")
    first = Report(
        name="teacher | big", model=facts, parent=None, seed=0, limit=None, versions={}, machine={}, created="",
        results=(
            TaskResult(task="npc", status="done", figures=npc),
            TaskResult(task="size", status="done", figures=(size,)),
            TaskResult(task="books", status="skipped", reason="no data"),
        ),
    )  # fmt: skip
    better = (dataclasses.replace(npc[0], value=0.75, low=None, high=None),)
    second = dataclasses.replace(
        first, name="student", results=(TaskResult(task="npc", status="done", figures=better),)
    )
    return [first, second]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.1234, "share", "12.3 %"),
        (20_483_136.0, "bytes", "20.5 MB"),
        (1234.6, "tokens/s", "1,235 tokens/s"),
        (1.70649, "bits/byte", "1.706 bits/byte"),
        (9_970_176.0, "", "9,970,176"),
        (13.456, "", "13.46"),
        (2.5, "s", "2.50 s"),
    ],
)
def test_values_as_people_read_them(value: float, unit: str, shown: str) -> None:
    assert show_value(figure("x", value, unit)) == shown


def test_intervals_have_no_unit() -> None:
    assert show_interval(figure("x", 0.5, "share", low=0.25, high=0.751)) == "25.0 to 75.1"
    assert show_interval(figure("x", 1.5, "nats", low=1.0, high=2.0)) == "1.000 to 2.000"
    assert show_interval(figure("x", 1.5, "nats")) == ""


def test_one_report(reports: list[Report]) -> None:
    table = report_table(reports[0])
    assert "| NPC.ALL | 50.0 % | 25.0 to 75.0 | 4 |" in table
    assert "NPC.EXTRA" not in table
    assert "- books: no data." in table


def test_stages_side_by_side(reports: list[Report]) -> None:
    table = comparison_table(reports)
    assert "| figure | teacher \\| big | student |" in table
    assert "| NPC.ALL | 50.0 % (25.0 to 75.0) | **75.0 %** |" in table
    assert "| SIZE.FILE | 2.0 MB | - |" in table
    assert "- teacher \\| big, books: no data." in table
    with pytest.raises(DataError, match="nothing to compare"):
        comparison_table([])


def test_pictures_of_what_there_is(reports: list[Report], tmp_path: Path) -> None:
    files = write_comparison(reports, tmp_path / "out")
    assert [path.name for path in files] == ["comparison.md", "quality_size.png", "task_npc.png", "task_size.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files[1:])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in files}
    only_size = dataclasses.replace(reports[0], results=reports[0].results[1:2])
    files = write_comparison([only_size], tmp_path / "size")
    assert [path.name for path in files] == ["comparison.md", "task_size.png"]
