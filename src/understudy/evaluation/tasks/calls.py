"""Function calls of the evaluation world's characters, by exact match."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.evaluation.answers import Reply, answer_all, write_transcript
from understudy.evaluation.intervals import share_figure
from understudy.evaluation.lines import WORLD_FILES, Line, read_lines
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Outcome, Progress
from understudy.prompt import ToolCall

__all__ = ["FunctionCalls", "same_calls", "same_json", "same_names"]

_MAX_TOKENS = 160


class FunctionCalls:
    """Turns in which a character calls functions."""

    name = "calls"
    method = (
        "Every turn of the evaluation world in which a character calls a function, generated greedily after the "
        "dialogue's true beginning with the functions' schemas in the prompt, without a grammar. Right is: the "
        "same functions in any order; exact: the same arguments too, equal as JSON. Beside them: spoken turns of "
        "the same dialogues in which the model calls a function unasked."
    )
    version = 1
    needs = WORLD_FILES
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        lines = [line for line in read_lines(subject) if line.conversation.tools]
        with subject.talking() as model:
            replies = answer_all(
                model, [line.conversation for line in lines], max_tokens=_MAX_TOKENS, progress=progress
            )
        pairs = list(zip(lines, replies, strict=True))
        asked = [(line.calls, reply.answer.tool_calls) for line, reply in pairs if line.calls]
        unasked = [bool(reply.answer.tool_calls) for line, reply in pairs if not line.calls]
        return Outcome(
            figures=(
                *share_figure("calls.any", "function calls: calls at all", [bool(given) for _, given in asked]),
                *share_figure("calls.name", "function calls: right functions", [same_names(*one) for one in asked]),
                *share_figure("calls.exact", "function calls: exact match", [same_calls(*one) for one in asked]),
                *share_figure("calls.unasked", "function calls: unasked", unasked, better="lower"),
            ),
            settings={"lines": len(lines), "max_tokens": _MAX_TOKENS, "temperature": 0.0},
            files=write_transcript(subject, self.name, (_row(*pair) for pair in pairs)),
        )


def same_names(truth: Sequence[Mapping[str, Any]], given: Sequence[ToolCall]) -> bool:
    """Whether the same functions were called, in any order."""
    return sorted(call["name"] for call in truth) == sorted(call.name for call in given)


def same_calls(truth: Sequence[Mapping[str, Any]], given: Sequence[ToolCall]) -> bool:
    """Whether the same functions were called with the same arguments, in any order."""
    rest = [(call.name, json.loads(call.arguments or "{}")) for call in given]
    for call in truth:
        match = next((r for r in rest if r[0] == call["name"] and same_json(r[1], call["arguments"])), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 equals 1.0, but true does not equal 1; keys stand in any order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def _row(line: Line, reply: Reply) -> dict[str, Any]:
    given = reply.answer.tool_calls
    return {
        "dialogue": line.dialogue,
        "kind": line.kind,
        "turn": line.number,
        "player": line.player,
        "calls": [{"name": call.name, "arguments": call.arguments} for call in given],
        "text": reply.answer.text,
        "ended_by": reply.ended_by,
        "truth": list(line.calls),
        "is_exact": same_calls(line.calls, given),
    }
