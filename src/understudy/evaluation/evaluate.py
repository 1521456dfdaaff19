"""Run tasks on a model, one report, resumable task by task."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.errors import DataError
from understudy.evaluation.model_facts import describe_model, hash_files
from understudy.evaluation.registry import TASKS, choose_tasks
from understudy.evaluation.report import ModelFacts, Report, TaskResult, read_report, write_report
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Task
from understudy.model.checkpoint import load_model

__all__ = ["REPORT", "evaluate"]

REPORT = "report.json"
_LIBRARIES = ("numpy", "tokenizers", "torch")


def _ignore(_task: str, _done: int, _total: int) -> None:
    pass


def evaluate(
    model: Path,
    *,
    output: Path,
    parent: Path | None = None,
    data: Path | None = None,
    tasks: Sequence[str] = (),
    name: str = "",
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[str, int, int], None] = _ignore,
) -> Report:
    """Evaluate a model; the report in `output` grows task by task, and finished tasks of it are not run again.

    A task whose data, parent or library is missing is in the report as skipped, with the reason.

    Args:
        model: GGUF file or Hugging Face folder.
        output: folder of `report.json` and the transcripts.
        parent: what divergences are from.
        data: folder of the corpora (docs/training.md).
        tasks: names of `registry.TASKS`; all if empty.
        name: what tables call the model; default: its file's name.
        seed: chooses items and probes.
        limit: most items of a task; None for all.
        progress: told the task, and how many of how many items are done.

    Raises:
        DataError: there is no task of a name, data are damaged, or the disk refuses.
        ModelFileError: the model or the parent cannot be read.
        EngineError: the backend cannot run it, or failed.
    """
    chosen = choose_tasks(tasks)
    subject = Subject(model, output=output, parent=parent, data=data, seed=seed, limit=limit)
    facts = describe_model(subject.files)
    parent_facts = describe_model(load_model(parent)) if parent else None
    kept = _finished(output / REPORT, facts, parent_facts, seed=seed, limit=limit)
    done: dict[str, TaskResult] = {}

    def report() -> Report:
        return Report(
            name=name or facts.file,
            model=facts,
            parent=parent_facts,
            results=tuple({**kept, **done}.values()),
            seed=seed,
            limit=limit,
            versions=_versions(),
            machine=_machine(),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    for task in chosen:
        result = _result(task, subject, facts, parent_facts, kept.get(task.name), progress)
        done[task.name] = result
        write_report(output / REPORT, report())
    return report()


def _finished(
    path: Path, facts: ModelFacts, parent: ModelFacts | None, *, seed: int, limit: int | None
) -> dict[str, TaskResult]:
    """Results of an earlier report on the same model, parent and choice of items."""
    if not path.exists():
        return {}
    old = read_report(path)
    if old.model.sha256 != facts.sha256:
        raise DataError(
            f"{path} is the report of another model ({old.model.file}); choose another output folder, or delete it."
        )
    if (old.seed, old.limit) != (seed, limit):
        return {}
    is_same_parent = (old.parent and old.parent.sha256) == (parent and parent.sha256)
    return {r.task: r for r in old.results if is_same_parent or (r.task in TASKS and not TASKS[r.task].needs_parent)}


def _result(
    task: Task,
    subject: Subject,
    facts: ModelFacts,
    parent: ModelFacts | None,
    old: TaskResult | None,
    progress: Callable[[str, int, int], None],
) -> TaskResult:
    paths = [subject.data_file(*places) for places in task.needs]
    found = [path for path in paths if path is not None]
    if reason := _missing(task, len(found), has_parent=parent is not None) or task.lacks(subject):
        return TaskResult(task=task.name, status="skipped", reason=reason, method=task.method)
    data = {path.relative_to(subject.data or path).as_posix(): hash_files({"": path}) for path in found}
    models = [facts.sha256, parent.sha256 if parent and task.needs_parent else ""]
    key = _key([task.name, task.version, __version__, *models, subject.seed, subject.limit, *sorted(data.values())])
    if old is not None and old.status == "done" and old.key == key:
        return old
    began = time.monotonic()
    try:
        outcome = task.run(subject, lambda finished, total: progress(task.name, finished, total))
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: pip install 'understudy[workshop]'"
        return TaskResult(task=task.name, status="skipped", reason=reason, method=task.method)
    return TaskResult(
        task=task.name,
        status="done",
        method=task.method,
        key=key,
        figures=outcome.figures,
        settings=outcome.settings,
        data=data,
        files=outcome.files,
        seconds=round(time.monotonic() - began, 3),
    )


def _missing(task: Task, num_found: int, *, has_parent: bool) -> str | None:
    if num_found < len(task.needs):
        wanted = ", ".join(places[-1] for places in task.needs)
        return f"its data are missing: name a folder that has {wanted} (or packed, .zst) with --data"
    if task.needs_parent and not has_parent:
        return "there is no parent to compare with: name it with --parent"
    return None


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {"understudy": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, Any]:
    return {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
