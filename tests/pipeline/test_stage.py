"""Stages are skipped, resumed and made again as their inputs say."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import DataError
from understudy.pipeline.runner import plan, run_stages
from understudy.pipeline.stage import Estimate, Stage, StageContext


class Silent:
    """Remembers which stages ran."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    def begin(self, stage: Stage, state: str, number: int, count: int) -> None:
        self.begun.append((stage.name, state))

    def progress(self, done: int, total: int, detail: str) -> None:
        pass

    def report(self, line: str) -> None:
        pass

    def ran(self) -> list[str]:
        return [name for name, state in self.begun if state != "done"]


def make(
    name: str,
    run: Callable[[StageContext], None],
    *,
    needs: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    files: tuple[Path, ...] = (),
) -> Stage:
    guess = Estimate(seconds=1.0, memory_bytes=1, what="a little")
    return Stage(name=name, needs=needs, settings=settings or {}, run=run, estimate=lambda _: guess, files=files)


def write(text: str) -> Callable[[StageContext], None]:
    def run(context: StageContext) -> None:
        before = "".join((folder / "out.txt").read_text() for folder in context.inputs.values())
        (context.folder / "out.txt").write_text(before + text)

    return run


def chain(middle: Mapping[str, Any] | None = None) -> list[Stage]:
    return [
        make("one", write("1")),
        make("two", write("2"), needs=("one",), settings=middle),
        make("three", write("3"), needs=("two",)),
    ]


def go(stages: list[Stage], root: Path) -> list[str]:
    watcher = Silent()
    run_stages(stages, root, watcher)
    return watcher.ran()


def test_what_is_done_is_skipped(tmp_path: Path) -> None:
    assert go(chain(), tmp_path) == ["one", "two", "three"]
    assert (tmp_path / "three" / "out.txt").read_text() == "123"
    assert go(chain(), tmp_path) == []


def test_a_changed_setting_makes_its_stage_again_and_those_after_only_if_its_result_changed(tmp_path: Path) -> None:
    go(chain(), tmp_path)
    assert go(chain({"colour": "red"}), tmp_path) == ["two"]
    changed = chain({"colour": "blue"})
    changed[1] = make("two", write("two"), needs=("one",), settings={"colour": "blue"})
    assert go(changed, tmp_path) == ["two", "three"]
    assert (tmp_path / "three" / "out.txt").read_text() == "1two3"


def test_results_of_other_inputs_move_aside(tmp_path: Path) -> None:
    go(chain(), tmp_path)
    go(chain({"colour": "red"}), tmp_path)
    assert (tmp_path / "two.before" / "out.txt").read_text() == "12"


def test_a_changed_input_file_counts(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("a")
    stages = [make("one", write("1"), files=(data,))]
    assert go(stages, tmp_path / "run") == ["one"]
    assert go(stages, tmp_path / "run") == []
    data.write_text("b")
    assert go(stages, tmp_path / "run") == ["one"]


def test_an_input_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data.txt"
    data.write_text("a")
    stages = [make("one", write("1"), files=(data,))]
    go(stages, tmp_path / "run")
    reads: list[str] = []
    real = Path.open

    def counting(path: Path, *arguments: Any, **named: Any) -> Any:
        reads.append(path.name)
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", counting)
    assert go(stages, tmp_path / "run") == []
    assert "data.txt" not in reads


def test_a_killed_stage_goes_on_from_its_work(tmp_path: Path) -> None:
    def torn(context: StageContext) -> None:
        done = context.work / "steps.txt"
        steps = len(done.read_text()) if done.exists() else 0
        for _ in range(steps, 5):
            with done.open("a") as file:
                file.write(".")
            if steps == 0 and len(done.read_text()) == 3:
                raise KeyboardInterrupt
        (context.folder / "out.txt").write_text(f"{5 - steps} steps in this run")

    stages = [make("one", torn)]
    with pytest.raises(KeyboardInterrupt):
        go(stages, tmp_path)
    assert [planned.state for planned in plan(stages, tmp_path)] == ["begun"]
    assert go(stages, tmp_path) == ["one"]
    assert (tmp_path / "one" / "out.txt").read_text() == "2 steps in this run"
    assert not (tmp_path / "one" / "work").exists()


def test_a_half_written_result_is_not_taken_for_whole(tmp_path: Path) -> None:
    go(chain(), tmp_path)
    (tmp_path / "two" / "out.txt").write_text("1")
    assert [planned.state for planned in plan(chain(), tmp_path)] == ["done", "to do", "to do"]
    assert go(chain(), tmp_path) == ["two"]


def test_the_error_names_the_stage(tmp_path: Path) -> None:
    def fail(context: StageContext) -> None:
        raise DataError("The data are gone.")

    def full(context: StageContext) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="Stage 'one': The data are gone"):
        go([make("one", fail)], tmp_path)
    with pytest.raises(DataError, match="free some space and run the same command again"):
        go([make("one", full)], tmp_path)
    with pytest.raises(DataError, match="left no file"):
        go([make("one", lambda context: None)], tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    go(chain(), tmp_path)
    (tmp_path / "one" / "stage.json").write_text("{")
    with pytest.raises(DataError, match=r"stage\.json"):
        go(chain(), tmp_path)


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one, two, three"):
        run_stages(chain(), tmp_path, Silent(), until="four")
