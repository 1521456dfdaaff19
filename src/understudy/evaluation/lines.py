"""The evaluation world's dialogues as lines to be answered, each after the dialogue's own true beginning."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.data.dialogues import to_conversation
from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError
from understudy.evaluation.checks import LineCheck
from understudy.evaluation.subject import Subject
from understudy.prompt import Conversation

__all__ = ["WORLD", "WORLD_FILES", "Line", "read_evaluation_dialogues", "read_lines"]

WORLD = "cloudmere"
WORLD_FILES = tuple(
    tuple(f"{folder}/{WORLD}/{name}" for folder in ("npc_worlds", "worlds"))
    for name in ("dialogues.jsonl", "tools.json")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One turn of a character.

    Attributes:
        dialogue: id of the dialogue.
        kind: roleplay, rag, tool, tool_multi or guard.
        number: of the turn within its dialogue, from 0.
        conversation: all before the turn, as it truly was said.
        player: what was said just before, by the player or a function.
        truth: what the character says; empty where it calls a function.
        calls: what it calls: name and arguments.
        check: how its words are judged; None where it calls a function.
    """

    dialogue: str
    kind: str
    number: int
    conversation: Conversation
    player: str
    truth: str
    calls: tuple[Mapping[str, Any], ...]
    check: LineCheck | None


def read_evaluation_dialogues(subject: Subject) -> list[dict[str, Any]]:
    """Dialogues of the evaluation world, as many as the subject's limit allows; functions as whole schemas.

    Raises:
        DataError: the files are missing or damaged.
    """
    dialogues, tools = (subject.require(*places) for places in WORLD_FILES)
    try:
        schemas = {tool["function"]["name"]: tool for tool in json.loads(read_bytes(tools))}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{tools} is no list of function schemas: {error!r}.") from error
    records = [_whole(record, schemas, dialogues) for record in read_json_lines(dialogues)]
    return [records[index] for index in subject.choose(len(records))]


def _whole(record: dict[str, Any], schemas: Mapping[str, Any], path: Path) -> dict[str, Any]:
    where = f"{path}, dialogue {record.get('id')!r}"
    if missing := {"id", "kind", "system", "turns", "checks"} - record.keys():
        raise DataError(f"{where} lacks {', '.join(sorted(missing))}; see worlds/README.md.")
    try:
        tools = [schemas[tool] if isinstance(tool, str) else tool for tool in record.get("tools", [])]
    except KeyError as error:
        raise DataError(f"{where} offers the function {error}, which tools.json does not have.") from error
    num_spoken = sum(turn.get("role") == "assistant" and bool(turn.get("content")) for turn in record["turns"])
    if num_spoken != len(record["checks"]):
        raise DataError(f"{where} has {num_spoken} spoken turns and {len(record['checks'])} checks.")
    return {**record, "tools": tools, "context": record.get("context", [])}


def read_lines(subject: Subject) -> list[Line]:
    """All turns of the characters in the evaluation world.

    Raises:
        DataError: the files are missing or damaged.
    """
    return [line for record in read_evaluation_dialogues(subject) for line in _lines(record)]


def _lines(record: dict[str, Any]) -> list[Line]:
    found = []
    checks = iter(record["checks"])
    for number, turn in enumerate(record["turns"]):
        if turn["role"] != "assistant":
            continue
        truth = turn.get("content") or ""
        check = LineCheck.from_json(next(checks), source=str(record["id"])) if truth else None
        found.append(
            Line(
                dialogue=str(record["id"]),
                kind=str(record["kind"]),
                number=number,
                conversation=to_conversation({**record, "turns": record["turns"][:number]}),
                player=str(record["turns"][number - 1].get("content") or "") if number else "",
                truth=truth,
                calls=tuple(turn.get("tool_calls") or ()),
                check=check,
            )
        )
    return found
