"""Why a character said what it said: what went into the prompt, what did not, and the request that repeats it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.engine import SamplingParams
from understudy.npc.briefing import Briefing
from understudy.npc.lore import Selected, select_lore
from understudy.npc.session import Session
from understudy.prompt import Conversation, Message
from understudy.prompt.template import tool_function

__all__ = ["chat_messages", "chat_request", "lore_trace", "prompt_parts"]

_MAX_DROPPED = 16
_NEUTRAL = SamplingParams()
_OPTIONAL = (
    *("top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length"),
)


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
    session: Session, briefing: Briefing, line: str, history: Sequence[Message], tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """The passages that went in with their reasons, then those that stayed out, and what the character may not know.

    Args:
        session: who was asked.
        briefing: what came of it.
        line: what the player said.
        history: what was said before it.
        tokens: lengths of the passages that went in, in their order.
    """
    called = _called_up(session, line, history)
    lengths = iter(tokens)
    trace: list[dict[str, Any]] = []
    kept = [passage for passage in briefing.passages if passage.is_kept]
    dropped = [passage for passage in briefing.passages if not passage.is_kept]
    for passage in (*kept, *dropped[:_MAX_DROPPED]):
        found = called.pop(passage.id, None) if passage.source == "world" else None
        told = _passage(passage.source, passage.id, passage.title, passage.text, found)
        trace.append({**told, "kept": passage.is_kept, "why": passage.reason})
        if passage.is_kept:
            trace[-1]["tokens"] = next(lengths)
    who, known = session.card.char, set(session.card.knowledge)
    for found in list(called.values())[:_MAX_DROPPED]:
        entry = found.entry
        why = f"{who} does not know it" if known and entry.id not in known else "others matched better"
        trace.append({**_passage("world", entry.id, entry.title, entry.text, found), "kept": False, "why": why})
    return trace


def _called_up(session: Session, line: str, history: Sequence[Message]) -> dict[str, Selected]:
    """The world's passages that the words call up, whoever knows them, by id, best first."""
    starts = [number for number, message in enumerate(history) if message.role == "user"]
    said = [m.content for m in history[starts[-1] :] if m.role != "tool" and m.content] if starts else []
    anybody = dataclasses.replace(session.card, knowledge=())
    limit = len(session.world.lore) if session.world else 0
    return {found.entry.id: found for found in select_lore(session.world, anybody, line, history=said, limit=limit)}


def _passage(source: str, passage_id: str, title: str, text: str, found: Selected | None) -> dict[str, Any]:
    told: dict[str, Any] = {"source": source, "id": passage_id, "title": title, "text": text}
    if found is not None:
        told |= {"score": round(found.score, 3), "matched": list(found.matched_keys)}
    return told


def chat_request(
    shown: Conversation,
    *,
    model: str,
    sampling: SamplingParams,
    max_tokens: int,
    seed: int | None,
    breakers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The body for `/v1/chat/completions` that asks the model the very same.

    Args:
        shown: what the model was given.
        model: its name here.
        sampling: how tokens were drawn.
        max_tokens: longest answer.
        seed: what they were drawn with.
        breakers: texts that end a repetition, where they are not the usual ones.
    """
    request: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(shown.messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": max_tokens,
    }
    request |= {name: value for name in _OPTIONAL if (value := getattr(sampling, name)) != getattr(_NEUTRAL, name)}
    if breakers is not None:
        request["dry_sequence_breakers"] = list(breakers)
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
