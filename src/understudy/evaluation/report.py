"""The report of an evaluation: a frozen record and its JSON file (docs/evaluation.md says what stands where)."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError, UnderstudyError
from understudy.evaluation.task import Figure

__all__ = ["ModelFacts", "Report", "TaskResult", "read_report", "write_report"]

_FORMAT = "understudy-evaluation"
_VERSION = 1
_MAX_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model file is.

    Attributes:
        file: name of the file or folder, without the path to it.
        sha256: of all its weight, shape and tokenizer files.
        parameters: number of weights.
        bits_per_weight: stored bits of all tensors by the number of parameters.
        file_bytes: of the weight files.
        config: its shape, as in `config.json`.
        formats: bytes of tensors by storage format, e.g. {"F16": 20000000}.
        recipe: the recipe that the file says it was made by; None if it says nothing.
    """

    file: str
    sha256: str
    parameters: int
    bits_per_weight: float
    file_bytes: int
    config: Mapping[str, Any]
    formats: Mapping[str, int]
    recipe: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What became of one task.

    Attributes:
        task: its name.
        status: "done" or "skipped".
        reason: why it was skipped; empty otherwise.
        method: how it measures.
        key: hash of all that decides the figures: model, parent, data, seed, limit, versions.
        figures: what it found.
        settings: what else decided it.
        data: SHA-256 of the data files that it read, by their path inside the data folder.
        files: transcripts, as paths inside the output folder.
        seconds: that it took.
    """

    task: str
    status: str
    reason: str = ""
    method: str = ""
    key: str = ""
    figures: tuple[Figure, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in ("done", "skipped"):
            raise DataError(f"The status of task {self.task!r} must be done or skipped, got {self.status!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All figures of one model.

    Attributes:
        name: of the model or of the stage that made it; what tables and plots call it.
        model: what was evaluated.
        parent: what its divergences are from, if anything.
        results: of the tasks, in the order of running.
        seed: that chose items and probes.
        limit: most items of a task; None for all.
        versions: of this package and of the libraries that computed.
        machine: where it ran.
        created: date and time in UTC, ISO 8601.
    """

    name: str
    model: ModelFacts
    parent: ModelFacts | None
    results: tuple[TaskResult, ...]
    seed: int
    limit: int | None
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    created: str

    @property
    def figures(self) -> dict[str, Figure]:
        """Figures of all finished tasks by name."""
        return {figure.name: figure for result in self.results for figure in result.figures}

    def result(self, task: str) -> TaskResult | None:
        """A task's result, if it is in the report."""
        return next((result for result in self.results if result.task == task), None)


def write_report(path: Path, report: Report) -> None:
    """Write the report as JSON; the file appears when it is complete.

    Raises:
        DataError: the disk refuses.
    """
    document = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(report)}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; make room or choose another folder.") from error


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        DataError: the file is missing, damaged or of another version.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than 64 MiB; that is no report.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give the report.json of an evaluation.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON: {error}; evaluate again.") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DataError(f'{path} is no report: expected "format": "{_FORMAT}".')
    if document.get("version") != _VERSION:
        raise DataError(
            f"{path} has version {document.get('version')!r} of the format, this program reads {_VERSION}; "
            "evaluate again."
        )
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    try:
        return Report(
            **{
                **fields,
                "model": ModelFacts(**fields["model"]),
                "parent": ModelFacts(**fields["parent"]) if fields["parent"] else None,
                "results": tuple(map(_result, fields["results"])),
            }
        )
    except (KeyError, TypeError, AttributeError, UnderstudyError) as error:
        raise DataError(f"{path} is damaged: {error}; evaluate again.") from error


def _result(fields: Mapping[str, Any]) -> TaskResult:
    figures = tuple(Figure(**figure) for figure in fields["figures"])
    return TaskResult(**{**fields, "figures": figures, "files": tuple(fields["files"])})
