"""Calls and results in a history that came from elsewhere: a save, another program, an aborted turn."""

import dataclasses
from collections import deque
from collections.abc import Sequence

from understudy.prompt.messages import Message, ToolCall
from understudy.prompt.template import call_arguments

__all__ = ["mend_history"]


def mend_history(messages: Sequence[Message]) -> list[Message]:
    """Leave out what the model cannot learn from, so that one bad call does not spoil all that follow.

    Out go calls without a name, without a JSON object as their arguments, or without a result, and results without
    a call. Results come in the order of their calls; one without an id, or with a foreign one, belongs to the first
    call that has none else. Names of functions that are not offered now stay: they were called.

    Args:
        messages: turns of any roles.
    """
    mended: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        if message.role == "tool":
            continue
        end = place
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        if message.role == "assistant" and message.tool_calls:
            mended += _round(message, messages[place:end])
            place = end
        else:
            mended.append(dataclasses.replace(message, tool_calls=()))
    return mended


def _round(message: Message, results: Sequence[Message]) -> list[Message]:
    """A message with calls, and its results."""
    kept = [(call, result) for call, result in _pairs(message.tool_calls, results) if result and _is_sound(call)]
    if not kept:
        return [dataclasses.replace(message, tool_calls=())] if message.content.strip() else []
    answers = [dataclasses.replace(result, tool_call_id=call.id) for call, result in kept]
    return [dataclasses.replace(message, tool_calls=tuple(call for call, _ in kept)), *answers]


def _pairs(calls: Sequence[ToolCall], results: Sequence[Message]) -> list[tuple[ToolCall, Message | None]]:
    by_id: dict[str, deque[Message]] = {call.id: deque() for call in calls if call.id}
    foreign: deque[Message] = deque()
    for result in results:
        by_id.get(result.tool_call_id, foreign).append(result)
    owners = [by_id.get(call.id) or foreign for call in calls]
    return [(call, owner.popleft() if owner else None) for call, owner in zip(calls, owners, strict=True)]


def _is_sound(call: ToolCall) -> bool:
    return bool(call.name.strip()) and isinstance(call_arguments(call), dict)
