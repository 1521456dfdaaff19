"""A stage: declared inputs, declared outputs, a fingerprint of both."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError
from understudy.training.folder import write_json

__all__ = ["Estimate", "Stage", "StageContext", "StageState", "fingerprint", "prepare", "seal", "stage_state"]

_RECORD = "stage.json"
_WORK = "work"
_HASHES = "hashes.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage is going to take.

    Attributes:
        seconds: on this machine, all of it.
        memory_bytes: at its peak.
        what: in a few words, such as "1,200 steps of 8,192 tokens".
    """

    seconds: float
    memory_bytes: int
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a running stage gets.

    Attributes:
        folder: where its results go; they count once the stage has ended.
        work: for checkpoints and caches; not part of the results, kept until the stage has ended.
        inputs: folders of the stages that it needs, by name.
        report: takes a line for the log.
        progress: takes (done, total, detail); drives the progress bar.
    """

    folder: Path
    work: Path
    inputs: Mapping[str, Path]
    report: Callable[[str], None]
    progress: Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the way from text to a published model.

    Attributes:
        name: also its folder's.
        needs: stages whose results it reads.
        settings: everything of the recipe that decides its result; JSON.
        files: what it reads from outside the run.
        run: does it; may be killed at any moment and is then called again with the same folders.
        estimate: what it is going to take, given what stands in the run's folder by now.
    """

    name: str
    needs: tuple[str, ...]
    settings: Mapping[str, Any]
    run: Callable[[StageContext], None]
    estimate: Callable[[Path], Estimate]
    files: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageState:
    """Where a stage stands: "done", "begun" (it goes on from its checkpoint) or "to do"."""

    state: str
    fingerprint: str


def fingerprint(stage: Stage, root: Path) -> str:
    """Hash of everything that decides a stage's result.

    A stage that it needs counts by its results: one that was made again and came out the same changes nothing.

    Args:
        stage: the stage.
        root: the run's folder.

    Raises:
        DataError: a file that it reads is not there.
    """
    parts: dict[str, Any] = {"name": stage.name, "settings": stage.settings, "needs": {}, "files": {}}
    for need in stage.needs:
        record = _read_record(root / need)
        parts["needs"][need] = record["result"] if record else None
    for path in stage.files:
        parts["files"][path.name] = _known_hash(path, root)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def stage_state(stage: Stage, root: Path) -> StageState:
    """Compare a stage's record with what it would be made from now."""
    mark = fingerprint(stage, root)
    folder = root / stage.name
    record = _read_record(folder)
    if record and record["fingerprint"] == mark and _is_whole(folder, record):
        return StageState(state="done", fingerprint=mark)
    begun = folder / _WORK / "fingerprint"
    same = begun.exists() and begun.read_text(encoding="utf-8") == mark
    return StageState(state="begun" if same else "to do", fingerprint=mark)


def prepare(stage: Stage, root: Path, mark: str) -> tuple[Path, Path]:
    """Make a stage's folders; results of other inputs move aside, to NAME.before, whose elders go.

    Returns:
        The folder of the results and the one for work.
    """
    folder = root / stage.name
    work = folder / _WORK
    begun = work / "fingerprint"
    if folder.exists() and not (begun.exists() and begun.read_text(encoding="utf-8") == mark):
        before = root / f"{stage.name}.before"
        shutil.rmtree(before, ignore_errors=True)
        folder.replace(before)
    work.mkdir(parents=True, exist_ok=True)
    begun.write_text(mark, encoding="utf-8")
    return folder, work


def seal(stage: Stage, root: Path, mark: str) -> None:
    """Record a stage's results, which from now on count, and clear its work.

    Raises:
        DataError: it left no result.
    """
    folder = root / stage.name
    results = {str(p.relative_to(folder)): _hash_of(p) for p in _results(folder)}
    if not results:
        raise DataError(f"The stage {stage.name!r} left no file in {folder}.")
    whole = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
    sizes = {name: (folder / name).stat().st_size for name in results}
    record = {
        "stage": stage.name,
        "fingerprint": mark,
        "settings": stage.settings,
        "result": whole,
        "files": results,
        "sizes": sizes,
    }
    write_json(folder / _RECORD, json.loads(json.dumps(record, default=dict)))
    shutil.rmtree(folder / _WORK, ignore_errors=True)


def _results(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != _WORK and inside.name != _RECORD and not path.name.endswith(".part"):
            yield path


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether all results are there in their sizes."""
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in record["sizes"].items()
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / _RECORD} cannot be read: {error}; delete it to run the stage again.") from error
    if not (isinstance(record, dict) and {"fingerprint", "result", "sizes"} <= record.keys()):
        raise DataError(f"{folder / _RECORD} is no record of a stage; delete it to run the stage again.")
    return record


def _known_hash(path: Path, root: Path) -> str:
    """The hash of a file or folder from outside the run; read again only when a size or a time of it has changed."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        look = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    store = root / _HASHES
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(store.read_text(encoding="utf-8"))
    entry = known.get(str(path))
    if entry is None or entry["look"] != look:
        entry = known[str(path)] = {"look": look, "sha256": _hash_of(path)}
        if root.is_dir():
            write_json(store, known)
    digest: str = entry["sha256"]
    return digest


def _hash_of(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    try:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(str(file.relative_to(path)).encode())
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return digest.hexdigest()
