"""How well a character calls functions: free, held by the grammar, and told to call.

A turn is one of four: a call is due; a question back is due (the player left something out, and the next turn calls);
other words to the player; words after a result. What is right is read off the written dialogue.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from understudy.engine.constraint import Constraint
from understudy.evaluation.answers import Reply, answer_all
from understudy.evaluation.checks import judge
from understudy.evaluation.intervals import share_figure
from understudy.evaluation.lines import Line
from understudy.evaluation.task import Better, Figure, Progress
from understudy.npc.model import Model
from understudy.prompt import Conversation, ToolCall
from understudy.prompt.template import tool_function
from understudy.tools.grammar import tool_grammar

__all__ = ["MODES", "Mode", "Played", "call_figures", "call_row", "play_calls", "same_calls", "same_json", "same_names"]

Mode = Literal["free", "held", "told"]
MODES: tuple[Mode, ...] = ("free", "held", "told")
_CALL_OPENS = "<toolcall>"
_FIGURES: dict[str, tuple[str, Better]] = {
    "any": ("calls where a call is due", "higher"),
    "name": ("right functions", "higher"),
    "values": ("right arguments", "higher"),
    "exact": ("exact calls", "higher"),
    "valid": ("finished calls fit their schema", "higher"),
    "cut": ("calls cut by the token limit", "lower"),
    "unasked": ("calls where none is due", "lower"),
    "abstains": ("speaks where no function is meant", "higher"),
    "question": ("asks back where something is missing", "higher"),
    "question_right": ("asks back for the right thing", "higher"),
    "after": ("speaks after a result", "higher"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Played:
    """A turn and what the model made of it.

    Attributes:
        line: the turn.
        mode: "free"; "held": the grammar of calls wakes when the model opens one; "told": the answer is a call, and
            the grammar holds it.
        reply: the model's.
        is_opened: it began a call, whatever became of it.
        is_valid: its calls are whole, name an offered function and fit its schema; False where it made none.
    """

    line: Line
    mode: Mode
    reply: Reply
    is_opened: bool
    is_valid: bool

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What it calls."""
        return self.reply.answer.tool_calls


def play_calls(model: Model, lines: Sequence[Line], *, max_tokens: int, progress: Progress) -> list[Played]:
    """Let the model take each turn freely and held, and those in which a call is due once more, told to call.

    Greedy, after the dialogue's true beginning.

    Raises:
        RequestError: a function's schema cannot be held to.
        EngineError: the backend failed.
    """
    plan: list[tuple[Line, Mode]] = [(line, mode) for line in lines for mode in MODES if mode != "told" or line.calls]
    conversations = [line.conversation for line, _ in plan]
    constraints = [
        _constraint(model, conversation, mode) for conversation, (_, mode) in zip(conversations, plan, strict=True)
    ]
    replies = answer_all(model, conversations, max_tokens=max_tokens, progress=progress, constraints=constraints)
    return [
        Played(
            line=line,
            mode=mode,
            reply=reply,
            is_opened=_CALL_OPENS in reply.raw,
            is_valid=_is_valid(reply, line.conversation.tools),
        )
        for (line, mode), reply in zip(plan, replies, strict=True)
    ]


def call_figures(name: str, label: str, played: Sequence[Played]) -> Iterator[Figure]:
    """Figures `NAME.MODE_WHAT`; those of free decoding are called `NAME.WHAT`.

    Args:
        name: of the task.
        label: what tables call its dialogues.
        played: what `play_calls` gave.
    """
    for mode in MODES:
        turns = [one for one in played if one.mode == mode]
        results = {**_call_results(turns), **({} if mode == "told" else _word_results(turns))}
        prefix = f"{name}." if mode == "free" else f"{name}.{mode}_"
        for what, right in results.items():
            text, better = _FIGURES[what]
            yield from share_figure(f"{prefix}{what}", f"{label}, {mode}: {text}", right, better=better)


def _call_results(turns: Sequence[Played]) -> dict[str, list[bool]]:
    due = [one for one in turns if one.line.calls]
    opened = [one for one in turns if one.is_opened]
    return {
        "any": [bool(one.calls) for one in due],
        "name": [same_names(one.line.calls, one.calls) for one in due],
        "values": [right for one in due for right in _values(one)],
        "exact": [same_calls(one.line.calls, one.calls) for one in due],
        "valid": [one.is_valid for one in opened if one.reply.ended_by != "length"],
        "cut": [one.reply.ended_by == "length" for one in opened],
    }


def _word_results(turns: Sequence[Played]) -> dict[str, list[bool]]:
    spoken = [one for one in turns if not one.line.calls]
    asked = [one for one in spoken if one.line.is_question]
    return {
        "unasked": [one.is_opened for one in spoken],
        "abstains": [not one.is_opened for one in spoken if not (one.line.is_question or one.line.is_after_result)],
        "question": list(map(_asks, asked)),
        "question_right": [_asks_rightly(one) for one in asked if one.line.check and not one.line.check.is_empty],
        "after": [not one.is_opened for one in spoken if one.line.is_after_result],
    }


def call_row(one: Played) -> dict[str, Any]:
    """A turn for the transcript."""
    line = one.line
    return {
        "dialogue": line.dialogue,
        "kind": line.kind,
        "turn": line.number,
        "mode": one.mode,
        "player": line.player,
        "calls": [{"name": call.name, "arguments": call.arguments} for call in one.calls],
        "text": one.reply.answer.text,
        "ended_by": one.reply.ended_by,
        "truth": list(line.calls) or line.truth,
        "is_question": line.is_question,
        "is_valid": one.is_valid,
        "is_exact": same_calls(line.calls, one.calls),
    }


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


def _constraint(model: Model, conversation: Conversation, mode: Mode) -> Callable[[], Constraint] | None:
    if mode == "free":
        return None
    if mode == "held":
        return model.call_constraint(conversation.tools)
    return model.vocabulary.compile(tool_grammar(conversation.tools, model.files.tokenizer, choice="required"))


def _is_valid(reply: Reply, tools: Sequence[Mapping[str, Any]]) -> bool:
    from jsonschema import Draft202012Validator

    schemas = {tool_function(tool)["name"]: tool_function(tool).get("parameters") or {} for tool in tools}
    calls = reply.answer.tool_calls
    if not calls or len(calls) != reply.raw.count(_CALL_OPENS):
        return False
    return all(
        call.name in schemas and Draft202012Validator(schemas[call.name]).is_valid(json.loads(call.arguments or "{}"))
        for call in calls
    )


def _values(one: Played) -> Iterator[bool]:
    """For each argument that is due, whether a call of its function gives it; calls are matched in order."""
    rest = list(one.calls)
    for due in one.line.calls:
        call = next((call for call in rest if call.name == due["name"]), None)
        if call is not None:
            rest.remove(call)
        given = json.loads(call.arguments or "{}") if call else {}
        for key, value in due["arguments"].items():
            yield isinstance(given, dict) and key in given and same_json(value, given[key])


def _asks(one: Played) -> bool:
    return not one.is_opened and "?" in one.reply.answer.text


def _asks_rightly(one: Played) -> bool:
    return _asks(one) and one.line.check is not None and judge(one.reply.answer.text, one.line.check).passed
