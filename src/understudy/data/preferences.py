"""Pairs of answers, one better than the other: JSON lines, each record checked before it is used.

A record is a dialogue as in `worlds/README.md` whose turns end before the character's answer, with the two answers
beside them: `chosen` and `rejected`, each a text or a turn (`content`, `tool_calls`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.data.dialogue_files import RecordFault, check_dialogue, read_records
from understudy.data.dialogues import EncodedDialogues

__all__ = ["keep_last_answers", "read_preference_file"]


def read_preference_file(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The pairs of a file as whole dialogues, the chosen one and then the rejected one of each.

    Args:
        name: path of the file relative to `folder`, with "/" between its parts.
        folder: of the corpora.

    Raises:
        DataError: the file is missing or outside the folder, or a record is wrong; it names file, line and fault.
    """
    return read_records(name, folder, _pair, what="pair of answers")


def keep_last_answers(dialogues: EncodedDialogues) -> EncodedDialogues:
    """Only the last answer of each dialogue stays a target: what came before it is the same in both of a pair."""
    targets = np.zeros_like(dialogues.targets)
    for start, end in zip(dialogues.offsets[:-1], dialogues.offsets[1:], strict=True):
        spoken = dialogues.targets[start:end]
        silent = np.nonzero(~spoken)[0]
        targets[start + (silent[-1] + 1 if len(silent) else 0) : end] = True
    return EncodedDialogues(dialogues.token_ids, targets, dialogues.offsets)


def _pair(record: Mapping[str, Any], tools: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    answers = [_turn(record, name) for name in ("chosen", "rejected")]
    if answers[0] == answers[1]:
        raise RecordFault("'chosen' and 'rejected' are the same answer")
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise RecordFault("'turns' must be a list that ends before the character's answer")
    shared = {key: value for key, value in record.items() if key not in ("chosen", "rejected")}
    for answer in answers:
        yield check_dialogue({**shared, "turns": [*turns, answer]}, tools)


def _turn(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    answer = record.get(name)
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    if isinstance(answer, Mapping):
        return {"role": "assistant", **answer}
    raise RecordFault(f"'{name}' must be the character's answer, a text or a turn with content and tool_calls")
