"""Nemotron's prompt template: the only place that knows it.

A prompt is a tuple of `Piece`s. A marker piece stands for a special token; every other piece is text that is encoded
without special tokens, so that a player, a lore passage or a tool's result can never forge a role.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.errors import PromptError
from understudy.prompt.messages import Conversation, Message, ToolCall
from understudy.tokenizer import Tokenizer

__all__ = [
    "MARKERS",
    "SYSTEM_MARKER",
    "TURN_MARKER",
    "Piece",
    "barred_token_ids",
    "call_arguments",
    "call_line",
    "encode_pieces",
    "render",
    "render_text",
    "stop_token_ids",
    "tool_function",
    "tool_line",
    "visible_specials",
]

_SURROGATE = re.compile("[\ud800-\udfff]")
SYSTEM_MARKER = "<extra_id_0>"
TURN_MARKER = "<extra_id_1>"
MARKERS = (SYSTEM_MARKER, TURN_MARKER, "<tool>", "</tool>", "<context>", "</context>", "<toolcall>", "</toolcall>")


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of the prompt.

    Attributes:
        text: its characters.
        is_marker: a special token of the template; never set for text from outside.
        is_target: the model itself says this (fine-tuning learns these tokens only).
    """

    text: str
    is_marker: bool = False
    is_target: bool = False


def render(conversation: Conversation, *, add_generation_prompt: bool = True) -> tuple[Piece, ...]:
    """Render a conversation to the template of the published model.

    System messages are joined by a blank line; the last assistant turn ends with the turn marker, which is
    what the model is trained to stop with.

    Args:
        conversation: turns, tools and contexts.
        add_generation_prompt: end with the header of the assistant's turn.

    Raises:
        PromptError: no turns, or a tool schema without a name.
    """
    if not conversation.messages:
        raise PromptError("A conversation needs at least one message.")
    pieces = list(_system(conversation))
    said_by_model = False
    for turn in conversation.messages:
        if turn.role == "system":
            continue
        pieces += _turn(turn, said_by_model)
        said_by_model = turn.role == "assistant"
    if add_generation_prompt:
        pieces += [Piece(TURN_MARKER, is_marker=True, is_target=said_by_model), Piece("Assistant\n")]
    elif said_by_model:
        pieces.append(Piece(TURN_MARKER, is_marker=True, is_target=True))
    return tuple(pieces)


def _system(conversation: Conversation) -> Iterator[Piece]:
    system = "\n\n".join(m.content for m in conversation.messages if m.role == "system" and m.content)
    yield Piece(SYSTEM_MARKER, is_marker=True)
    yield Piece(f"System\n{system}\n")
    extras = [("tool", tool_line(t)) for t in conversation.tools] + [("context", c) for c in conversation.contexts]
    if extras:
        yield Piece("\n")
    for kind, text in extras:
        yield Piece(f"<{kind}>", is_marker=True)
        yield Piece(f" {text} ")
        yield Piece(f"</{kind}>", is_marker=True)
        yield Piece("\n")
    yield Piece("\n")


def _turn(turn: Message, said_by_model: bool) -> Iterator[Piece]:
    """One turn; its opening marker is what ends the model's turn before it, if that was the model's."""
    own = turn.role == "assistant"
    yield Piece(TURN_MARKER, is_marker=True, is_target=said_by_model)
    yield Piece(f"{turn.role.capitalize()}\n")
    if turn.content or not turn.tool_calls:
        yield Piece(f"{turn.content}\n", is_target=own)
    for call in turn.tool_calls:
        yield Piece("<toolcall>", is_marker=True, is_target=own)
        yield Piece(f" {call_line(call)} ", is_target=own)
        yield Piece("</toolcall>", is_marker=True, is_target=own)
        yield Piece("\n", is_target=own)


def tool_function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A function's schema: OpenAI's wrapper is taken off, the rest kept as it is.

    Raises:
        PromptError: the schema has no function name.
    """
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise PromptError('A tool needs a name: expected {"type": "function", "function": {"name": ...}}.')
    return function


def tool_line(tool: Mapping[str, Any]) -> str:
    """One line of JSON for a function.

    Raises:
        PromptError: the schema has no function name, or is no JSON.
    """
    function = tool_function(tool)
    try:
        return json.dumps(function, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"The tool {function['name']!r} is not made of plain JSON values: {error}.") from error


def call_arguments(call: ToolCall) -> Any:
    """The arguments as a JSON value; a text that is no JSON is kept as a string, none at all is `{}`."""
    try:
        return json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments


def call_line(call: ToolCall) -> str:
    """`{"name": ..., "arguments": ...}` as one line of JSON.

    Raises:
        PromptError: the arguments are nested too deep.
    """
    try:
        return json.dumps({"name": call.name, "arguments": call_arguments(call)}, ensure_ascii=False)
    except RecursionError as error:
        raise PromptError(f"The arguments of the call of {call.name!r} are nested too deep.") from error


def render_text(pieces: Sequence[Piece]) -> str:
    """The prompt as one string, for people and golden files."""
    return "".join(p.text for p in pieces)


def encode_pieces(pieces: Sequence[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids of the pieces, and for each whether the model is to learn it.

    Neighbouring text is joined before it is encoded, within one value of `is_target`, so that the ids between
    two markers are those of the whole string. A marker that the vocabulary lacks is encoded as text.

    Raises:
        PromptError: a text is no Unicode: it has half of a surrogate pair.
    """
    ids: list[int] = []
    targets: list[bool] = []
    pending = ""
    pending_target = False

    def flush() -> None:
        nonlocal pending
        if not pending.isascii() and _SURROGATE.search(pending):
            raise PromptError("A text has half of a UTF-16 surrogate pair; send whole characters.")
        new = tokenizer.encode(pending) if pending else []
        ids.extend(new)
        targets.extend([pending_target] * len(new))
        pending = ""

    for piece in pieces:
        marker = tokenizer.special_id(piece.text) if piece.is_marker else None
        if marker is not None:
            flush()
            ids.append(marker)
            targets.append(piece.is_target)
            continue
        if piece.is_target != pending_target:
            flush()
            pending_target = piece.is_target
        pending += piece.text
    flush()
    return ids, targets


def stop_token_ids(tokenizer: Tokenizer, eos_token_id: int) -> frozenset[int]:
    """Ids that end the model's turn: the role markers and end-of-text."""
    found = (tokenizer.special_id(m) for m in (SYSTEM_MARKER, TURN_MARKER, "</s>"))
    return frozenset({i for i in found if i is not None} | {eos_token_id})


def barred_token_ids(tokenizer: Tokenizer, *, has_tools: bool) -> frozenset[int]:
    """Ids of the markers that an answer never has; without functions to call, those of calls are among them."""
    spoken = {SYSTEM_MARKER, TURN_MARKER} | ({"<toolcall>", "</toolcall>"} if has_tools else set())
    return frozenset(i for m in MARKERS if m not in spoken and (i := tokenizer.special_id(m)) is not None)


def visible_specials(tokenizer: Tokenizer) -> dict[int, str]:
    """Ids and texts of the markers around tool calls, which `parse_answer` must see in the engine's text."""
    found = {m: tokenizer.special_id(m) for m in ("<toolcall>", "</toolcall>")}
    return {token_id: marker for marker, token_id in found.items() if token_id is not None}
