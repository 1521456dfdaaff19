"""The evaluation world's dialogues as lines to be answered, each after the dialogue's own true beginning."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.data.dialogues import to_conversation
from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError
from understudy.evaluation.checks import LineCheck
from understudy.evaluation.subject import Subject
from understudy.prompt import Conversation

__all__ = ["WORLD", "WORLD_FILES", "Line", "read_evaluation_dialogues", "read_lines", "split_turns"]

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
        check: how its words are judged; None where it calls a function, or nobody wrote checks.
        is_question: the character asks the player for what it needs, and calls in its next turn.
    """

    dialogue: str
    kind: str
    number: int
    conversation: Conversation
    player: str
    truth: str
    calls: tuple[Mapping[str, Any], ...]
    check: LineCheck | None
    is_question: bool = False

    @property
    def is_after_result(self) -> bool:
        """A function has just answered."""
        return self.conversation.messages[-1].role == "tool"


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
    return [line for record in read_evaluation_dialogues(subject) for line in _checked_lines(record)]


def _checked_lines(record: dict[str, Any]) -> list[Line]:
    checks = iter(record["checks"])
    return split_turns(
        record,
        [
            LineCheck.from_json(next(checks), source=str(record["id"]))
            if turn["role"] == "assistant" and turn.get("content")
            else None
            for turn in record["turns"]
        ],
    )


def split_turns(record: Mapping[str, Any], checks: Sequence[LineCheck | None]) -> list[Line]:
    """The character's turns of a dialogue.

    Args:
        record: as in `worlds/README.md`, functions as whole schemas.
        checks: one for each of its turns.
    """
    found: list[Line] = []
    turns = record["turns"]
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        truth, before = turn.get("content") or "", turns[number - 1] if number else {}
        found.append(
            Line(
                dialogue=str(record["id"]),
                kind=str(record["kind"]),
                number=number,
                conversation=to_conversation({**record, "turns": turns[:number]}),
                player=str(before.get("content") or ""),
                truth=truth,
                calls=tuple(turn.get("tool_calls") or ()),
                check=checks[number],
                is_question="?" in truth and before.get("role") == "user" and _calls_next(turns[number + 1 :]),
            )
        )
    return found


def _calls_next(turns: Sequence[Mapping[str, Any]]) -> bool:
    return next((bool(turn.get("tool_calls")) for turn in turns if turn["role"] == "assistant"), False)
