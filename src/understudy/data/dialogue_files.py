"""Users' own dialogues: JSON lines as in `worlds/README.md`, each record checked before it is used."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.data.dialogues import to_conversation
from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError, PromptError
from understudy.prompt import render

__all__ = ["RecordFault", "check_dialogue", "hash_dialogue_files", "read_dialogue_file", "read_records"]

_FIELDS = frozenset({"id", "system", "context", "tools", "turns"})
_NOTES = frozenset({"answers", "character", "kind", "meta", "tags"})
_ROLES = ("user", "assistant", "tool")


def read_dialogue_file(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Records of a file in the folder of the corpora, in its order.

    Functions that a record names only stand in a `tools.json` beside the file.

    Args:
        name: path of the file relative to `folder`, with "/" between its parts.
        folder: of the corpora.

    Raises:
        DataError: the file is missing or outside the folder, or a record is wrong; it names file, line and fault.
    """
    return read_records(name, folder, lambda record, tools: [check_dialogue(record, tools)], what="dialogue")


def read_records(
    name: str,
    folder: Path,
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[dict[str, Any]]],
    *,
    what: str,
) -> Iterator[dict[str, Any]]:
    """What is made of each record of a file, in its order.

    Args:
        name: path of the file relative to `folder`, with "/" between its parts.
        folder: of the corpora.
        read: makes dialogues of a record and of the functions beside the file; raises `RecordFault`.
        what: a record is, for errors.

    Raises:
        DataError: the file is missing or outside the folder, or a record is wrong; it names file, line and fault.
    """
    path = _inside(name, folder)
    lines = [n for n, line in enumerate(read_bytes(path).split(b"\n"), 1) if line.strip()]
    tools = _tools_beside(path)
    for number, record in zip(lines, read_json_lines(path), strict=True):
        try:
            yield from read(record, tools)
        except RecordFault as fault:
            where = f"{path}, line {number}" + (f" (id {record['id']!r})" if isinstance(record.get("id"), str) else "")
            raise DataError(f"{where}: {fault}.") from fault
    if not lines:
        raise DataError(f"{path} holds no {what}; expected one JSON object a line.")


def hash_dialogue_files(names: Sequence[str], folder: Path) -> str:
    """SHA-256 of the files and of the functions beside them, by which a changed file is noticed.

    Raises:
        DataError: a file is missing or outside the folder.
    """
    digest = hashlib.sha256()
    for name in names:
        path = _inside(name, folder)
        digest.update(hashlib.sha256(read_bytes(path)).digest())
        beside = path.with_name("tools.json")
        digest.update(hashlib.sha256(read_bytes(beside)).digest() if beside.is_file() else b"none")
    return digest.hexdigest()


class RecordFault(ValueError):
    """What is wrong with a record."""


def _inside(name: str, folder: Path) -> Path:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"The file {name!r} must lie in the folder of the corpora {folder}; give its path from there.")
    return folder / name


def _tools_beside(path: Path) -> dict[str, Any]:
    beside = path.with_name("tools.json")
    if not beside.is_file():
        return {}
    try:
        return {tool["function"]["name"]: tool for tool in json.loads(read_bytes(beside))}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{beside}: expected a list of {{"type": "function", "function": {{"name": ...}}}}.') from error


def check_dialogue(record: Mapping[str, Any], tools: Mapping[str, Any]) -> dict[str, Any]:
    """A record with all that it lacked and the functions that it names.

    Args:
        record: as it was read.
        tools: those beside its file, by name.

    Raises:
        RecordFault: what is wrong with it.
    """
    if "checks" in record:
        raise RecordFault(
            "it has 'checks', so belongs to an evaluation, which must never be trained on; take the file out"
        )
    if unknown := sorted(set(record) - _FIELDS - _NOTES):
        raise RecordFault(f"unknown field {unknown[0]!r}; a dialogue has {', '.join(sorted(_FIELDS))}")
    system = record.get("system")
    if not isinstance(system, str) or not system.strip():
        raise RecordFault(f"'system' must be a text that says who the character is, got {_shown(system)}")
    context = record.get("context", [])
    if not isinstance(context, list) or not all(isinstance(text, str) for text in context):
        raise RecordFault(f"'context' must be a list of texts, got {_shown(context)}")
    schemas = record.get("tools", [])
    if not isinstance(schemas, list):
        raise RecordFault(f"'tools' must be a list, got {_shown(schemas)}")
    _check_turns(record.get("turns"))
    checked = {**record, "context": context, "tools": [_schema(tool, tools) for tool in schemas]}
    try:
        pieces = render(to_conversation(checked), add_generation_prompt=False)
    except PromptError as error:
        raise RecordFault(str(error).removesuffix(".")) from error
    try:
        "".join(piece.text for piece in pieces).encode()
    except UnicodeEncodeError as error:
        raise RecordFault("a text has half of a UTF-16 surrogate pair; write whole characters") from error
    return checked


def _schema(tool: Any, tools: Mapping[str, Any]) -> Any:
    if isinstance(tool, str):
        if tool not in tools:
            raise RecordFault(f"the function {tool!r} is named, but no tools.json beside the file describes it")
        return tools[tool]
    if not isinstance(tool, Mapping):
        raise RecordFault(f"a tool must be a function's schema or its name, got {_shown(tool)}")
    return tool


def _check_turns(turns: Any) -> None:
    if not isinstance(turns, list) or len(turns) < 2:
        raise RecordFault(f"'turns' must be a list of at least two turns, got {_shown(turns)}")
    before: Mapping[str, Any] = {}
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
            raise RecordFault(f"turn {number} needs a role of {', '.join(_ROLES)}, got {_shown(turn)}")
        _check_turn(number, turn)
        _check_order(number, turn, before)
        before = turn
    if before["role"] != "assistant":
        raise RecordFault(f"the last turn must be the character's (assistant), got {before['role']!r}")


def _check_turn(number: int, turn: Mapping[str, Any]) -> None:
    if unknown := sorted(set(turn) - {"role", "content", "tool_calls"}):
        raise RecordFault(f"turn {number} has the unknown field {unknown[0]!r}")
    content, calls = turn.get("content", ""), turn.get("tool_calls", [])
    if not isinstance(content, str):
        raise RecordFault(f"turn {number}: 'content' must be a text, got {_shown(content)}")
    if calls and turn["role"] != "assistant":
        raise RecordFault(f"turn {number}: only the character (assistant) makes tool_calls")
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise RecordFault(
            f'turn {number}: each of tool_calls is {{"name": "...", "arguments": {{...}}}}, got {_shown(calls)}'
        )
    if not content.strip() and not calls:
        raise RecordFault(f"turn {number} is empty; the speaker says something or calls a function")


def _check_order(number: int, turn: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    role, last = turn["role"], before.get("role")
    if number == 1 and role != "user":
        raise RecordFault(f"the first turn must be the player's (user), got {role!r}")
    if role == "tool" and not (last == "tool" or before.get("tool_calls")):
        raise RecordFault(f"turn {number} is a function's answer, but the turn before calls none")
    if role == last and role != "tool":
        raise RecordFault(f"turns {number - 1} and {number} are both of role {role!r}; join them")


def _is_call(call: Any) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
