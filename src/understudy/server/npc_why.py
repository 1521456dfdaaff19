"""Why a character said what it said: what went into the prompt, what did not, and the request that repeats it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.engine import SamplingParams
from understudy.npc.lore import Selected, select_lore
from understudy.npc.session import Session
from understudy.prompt import Conversation, Message
from understudy.prompt.template import tool_function

__all__ = ["chat_messages", "chat_request", "lore_trace", "prompt_parts"]

_MAX_DROPPED = 8
_BEST = 3  # so many passages `Session.conversation` takes
_NEUTRAL = SamplingParams()
_OPTIONAL = ("top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


def prompt_parts(shown: Conversation, count: Callable[[Conversation], int]) -> list[dict[str, Any]]:
    """How many tokens each part of a prompt takes; together they are the prompt.

    Args:
        shown: what the model was given: a system message, then turns with a line of the player.
        count: length of a conversation's prompt, in tokens.

    Returns:
        `{"part", "tokens"}` of persona, tools, lore (a number for each passage too), history, line, and turn (what
        the character called since, and the results).
    """
    system, *turns = shown.messages
    at = max(number for number, message in enumerate(turns) if message.role == "user")
    line, history, turn = turns[at], turns[:at], turns[at + 1 :]
    length = 0

    def added(messages: Sequence[Message], *, tools: bool = True, num_contexts: int = len(shown.contexts)) -> int:
        nonlocal length
        before = length
        length = count(
            Conversation(
                messages=tuple(messages),
                tools=shown.tools if tools else (),
                contexts=shown.contexts[:num_contexts],
            )
        )
        return length - before

    empty = dataclasses.replace(line, content="")
    persona = added([system, empty], tools=False, num_contexts=0)
    functions = added([system, empty], num_contexts=0)
    passages = [added([system, empty], num_contexts=n + 1) for n in range(len(shown.contexts))]
    said = added([system, *history, empty])
    spoken = added([system, *history, line])
    since = added([system, *history, line, *turn])
    return [
        {"part": "persona", "tokens": persona},
        {"part": "tools", "tokens": functions, "names": [tool_function(tool)["name"] for tool in shown.tools]},
        {"part": "lore", "tokens": sum(passages), "passages": passages},
        {"part": "history", "tokens": said, "lines": len(history)},
        {"part": "line", "tokens": spoken},
        {"part": "turn", "tokens": since},
    ]


def lore_trace(
    session: Session, line: str, history: Sequence[Message], kept: Sequence[Selected], tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """The passages that went in with their reasons, then those that the words called up in vain.

    Args:
        session: who was asked.
        line: what the player said.
        history: what was said before it.
        kept: passages that went in, best first.
        tokens: their lengths.
    """
    trace = [
        {**_passage(found), "tokens": length, "kept": True, "why": f"matched {', '.join(found.matched_keys)}"}
        for found, length in zip(kept, tokens, strict=True)
    ]
    if session.world is None:
        return trace
    said = _last_exchange(history)
    anybody = dataclasses.replace(session.card, knowledge=())
    known = set(session.card.knowledge) or {entry.id for entry in session.world.lore}
    taken = {found.entry.id for found in kept}
    rank = 0
    for found in select_lore(session.world, anybody, line, history=said, limit=len(session.world.lore)):
        is_known = found.entry.id in known
        rank += is_known
        if found.entry.id in taken or len(trace) >= len(kept) + _MAX_DROPPED:
            continue
        dropped = "not_known" if not is_known else "limit" if rank > _BEST else "budget"
        trace.append({**_passage(found), "kept": False, "why": _reason(dropped, session), "dropped": dropped})
    return trace


def _last_exchange(history: Sequence[Message]) -> list[str]:
    """The words that count for lore beside the line itself, as `Session.conversation` takes them."""
    starts = [number for number, message in enumerate(history) if message.role == "user"]
    return [m.content for m in history[starts[-1] :] if m.role != "tool" and m.content] if starts else []


def _passage(found: Selected) -> dict[str, Any]:
    return {
        "id": found.entry.id,
        "title": found.entry.title,
        "text": found.entry.text,
        "score": round(found.score, 3),
        "matched": list(found.matched_keys),
    }


def _reason(dropped: str, session: Session) -> str:
    who = session.card.nickname or session.card.name
    return {
        "not_known": f"{who} does not know it",
        "limit": f"{_BEST} passages matched better",
        "budget": "no room was left in the prompt",
    }[dropped]


def chat_request(
    shown: Conversation, *, model: str, sampling: SamplingParams, max_tokens: int, seed: int | None
) -> dict[str, Any]:
    """The body for `/v1/chat/completions` that asks the model the very same.

    Args:
        shown: what the model was given.
        model: its name here.
        sampling: how tokens were drawn.
        max_tokens: longest answer.
        seed: what they were drawn with.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(shown.messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": max_tokens,
    }
    request |= {name: value for name in _OPTIONAL if (value := getattr(sampling, name)) != getattr(_NEUTRAL, name)}
    if seed is not None:
        request["seed"] = seed
    if shown.tools:
        request["tools"] = [{"type": "function", "function": _ordered(tool_function(tool))} for tool in shown.tools]
    if shown.contexts:
        request["documents"] = list(shown.contexts)
    return request


def _ordered(function: Mapping[str, Any]) -> dict[str, Any]:
    return {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns as OpenAI's API carries them."""
    return [_chat_message(message) for message in messages]


def _chat_message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        told["tool_call_id"] = message.tool_call_id
    return told
